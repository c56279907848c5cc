"""Small files: written whole or not at all, and JSON that keeps its numbers."""

import csv
import errno
import io
import json
import math
import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NoReturn

from accupoison.errors import InputError, first_line

TEMPORARY = ".tmp"
"""How the names of half-written files end; one that is left over after a crash can be deleted."""

DEEPEST = 50
"""Levels of tables and lists; nothing of ours has as many, and the interpreter's own limit is not far above."""

NESTED = f"more than {DEEPEST} tables or lists in each other"
INT64 = -(2**63), 2**63 - 1
"""What a whole number of 64 bits can be."""
WORDS = {str: "text", int: "whole number", float: "number", list: "list"}

_NON_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then move it there.

    Args:
        path: The file; missing parent directories are made.
        write: Gets the open temporary file.

    Raises:
        InputError: The disk is full, the directory is not writable, or the like; the old file is as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}{TEMPORARY}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_directory(path.parent)
    except (OSError, RuntimeError) as error:  # torch's zip writer reports a full disk as a RuntimeError
        raise cannot_write(path, error) from error


def is_text(value: str) -> bool:
    """Return whether ``value`` can be a name and be shown: no NUL, and no halves of characters."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in value


def directory_name(text: str) -> str:
    """Return ``text`` with everything but letters, digits and dots made a hyphen."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", text)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable; does nothing on Windows, which cannot open one."""
    if os.name != "nt":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def cannot_write(path: Path, error: BaseException) -> InputError:
    """Return the one-sentence form of a failure to write ``path``."""
    too_long = isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG
    fix = "give a shorter name" if too_long else "free space there or choose another directory"
    return InputError(f"cannot write {path} ({reason(error)}); {fix}")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a failure of the system to write ``path`` into an InputError."""
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error) from error


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn a failure of the system to read ``path`` into a sentence.

    Raises:
        InputError: The system refused to read.
    """
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot read {path} ({reason(error)}); check the path and its permissions") from error


def reason(error: BaseException) -> str:
    """Return why a file operation failed; torch's writer hides the system's reason in the exception's context."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return first_line(error)[:200].rstrip(".")


def read_json(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file of a run, with its non-finite numbers as floats.

    Raises:
        InputError: The file is missing or damaged.
    """
    try:
        with reading(path):
            content = path.read_bytes()
        return load_row(content)
    except ValueError as error:
        raise InputError(f"{path} is damaged; restore a copy or start the run anew") from error


def write_json(path: Path, obj: Mapping[str, Any]) -> None:
    """Write ``obj`` to a JSON file, whole or not at all.

    Raises:
        InputError: The file cannot be written.
    """
    text = json.dumps(_encode(obj), indent=2, allow_nan=False) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))


def write_csv(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    """Write rows with the same keys as a CSV file; InputError if it cannot be written."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, lambda file: file.write(text.getvalue().encode()))


def as_json(obj: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``obj`` as it comes back from a JSON file: tuples as lists, keys as strings."""
    return load_row(dump_row(obj).encode())


def dump_row(obj: object) -> str:
    """Return ``obj`` as one line of strict JSON; non-finite floats become "nan", "inf" and "-inf".

    Raises:
        InputError: A string has one of these three values, which would come back as a number.
    """
    return json.dumps(_encode(obj), allow_nan=False)


def load_row(text: bytes) -> dict[str, Any]:
    """Return the mapping that :func:`dump_row` wrote.

    Raises:
        ValueError: The text is not a JSON object, or no such object comes from here: a key given twice, NaN, half a
            character, a whole number of more than 64 bits, too many levels.
    """
    try:
        value = json.loads(text.decode(), object_pairs_hook=_table, parse_constant=_refuse)
    except RecursionError:
        raise ValueError(NESTED) from None
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    check_values(value)
    if b"\\u" in text:
        json.dumps(value, ensure_ascii=False).encode()  # halves of characters: a UnicodeError is a ValueError
    return {key: _decode(item) for key, item in value.items()}


def check_values(value: object, levels: int = DEEPEST) -> None:
    """Raise ValueError if tables and lists lie in each other deeper than ``levels``, or a number has over 64 bits."""
    if isinstance(value, dict | list):
        if not levels:
            raise ValueError(NESTED)
        for item in value.values() if isinstance(value, dict) else value:
            check_values(item, levels - 1)
    elif isinstance(value, int) and not INT64[0] <= value <= INT64[1]:
        raise ValueError("a whole number of more than 64 bits")


def _table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    return table if len(table) == len(pairs) else _refuse("a key given twice")


def _refuse(what: str) -> NoReturn:
    raise ValueError(what)


Wanted = type | dict[Any, Any]
"""What a JSON value has to be: a type, or a table of what is behind each key; see :func:`expect`."""


def expect(path: Path, content: Mapping[str, Any], wanted: Mapping[Any, Wanted]) -> None:
    """Raise InputError unless the contents ``content`` of the JSON file ``path`` are what ``wanted`` says.

    Args:
        path: For the error message.
        content: What :func:`read_json` returned.
        wanted: By key, a type, or a mapping like this one for a table. A key that ends in "?" may be missing, and what
            is behind the key ``str`` holds for all other keys. ``float`` takes whole numbers, too.
    """
    if problem := _problem(content, wanted, ""):
        raise InputError(f"{path} is not as accupoison writes it: {problem}; restore a copy or run again")


def _problem(value: object, wanted: Wanted | Mapping[Any, Wanted], where: str) -> str:
    """Return what is wrong with a value, or the first thing in a table, or ""."""
    if not isinstance(wanted, Mapping):
        kinds = (int, float) if wanted is float else wanted
        fits = isinstance(value, kinds) and not isinstance(value, bool)
        return "" if fits else f"{where} is {_short(value)}, which is no {WORDS[wanted]}"
    if not isinstance(value, Mapping):
        return f"{where} is {_short(value)}, which is no table"
    inner = {key.removesuffix("?"): kind for key, kind in wanted.items() if key is not str}
    prefix = f"{where}." if where else ""
    for key in inner:
        if key not in value and key in wanted:
            return f"{prefix}{key} is missing"
    for key, item in value.items():
        kind = inner.get(key, wanted.get(str))
        if kind is not None and (problem := _problem(item, kind, f"{prefix}{key}")):
            return problem
    return ""


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested mappings as ("section.key", value)."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _encode(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return str(float(value))
    if isinstance(value, str) and value in _NON_FINITE:
        raise InputError(f"the text {value!r} cannot be stored, as it would come back as a number; use another word")
    if isinstance(value, Mapping):
        return {key: _encode(item) for key, item in value.items()}
    return [_encode(item) for item in value] if isinstance(value, list | tuple) else value


def _decode(value: object) -> object:
    if isinstance(value, dict):
        return {key: _decode(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_decode(item) for item in value]
    return _NON_FINITE.get(value, value) if isinstance(value, str) else value


def holds(question: Callable[[], bool]) -> bool:
    """Return the answer to a question about a path, such as ``path.is_dir``; False where it cannot be asked."""
    try:
        return question()
    except (OSError, ValueError):  # a name that is too long, no permission for the directory, a NUL
        return False
