"""Small files: written whole or not at all, and JSON that keeps its numbers."""

import json
import math
import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from accupoison.errors import InputError

TEMPORARY = ".tmp"
"""How the names of half-written files end; one that is left over after a crash can be deleted."""

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
    return InputError(f"cannot write {path} ({reason(error)}); free space there or choose another directory")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a failure of the system to write ``path`` into an InputError."""
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error) from error


def reason(error: BaseException) -> str:
    """Return why a file operation failed; torch's writer hides the system's reason in the exception's context."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return (str(error).splitlines() or [type(error).__name__])[0]


def read_json(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file of a run, with its non-finite numbers as floats.

    Raises:
        InputError: The file is missing or damaged.
    """
    try:
        return load_row(path.read_bytes())
    except OSError as error:
        raise InputError(f"cannot read {path} ({error.strerror}); check the path") from error
    except ValueError as error:
        raise InputError(f"{path} is damaged; restore a copy or start the run anew") from error


def write_json(path: Path, obj: Mapping[str, Any]) -> None:
    """Write ``obj`` to a JSON file, whole or not at all.

    Raises:
        InputError: The file cannot be written.
    """
    text = json.dumps(_encode(obj), indent=2, allow_nan=False) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))


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
        ValueError: The text is not a JSON object.
    """
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return {key: _decode(item) for key, item in value.items()}


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
