"""Files: written whole or not at all, JSON that keeps its numbers, and archives of arrays."""

import json
import math
import os
import re
import secrets
import stat
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from accupoison.errors import InputError

if TYPE_CHECKING:  # the command line reads JSON through this module before it needs numpy
    from numpy.typing import NDArray

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
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip(".")


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


def holds(question: Callable[[], bool]) -> bool:
    """Return the answer to a question about a path, such as ``path.is_dir``; False where it cannot be asked."""
    try:
        return question()
    except (OSError, ValueError):  # a name that is too long, no permission for the directory, a NUL
        return False


def read_arrays(
    path: Path,
    *needed: Sequence[str],
    optional: Sequence[str] = (),
    kind: str = ".npz file of arrays",
    fix: str = "write it with numpy.savez",
) -> "dict[str, NDArray[Any]]":
    """Return arrays of an .npz file, each as it was written: its checksum holds. Nothing is unpickled.

    Args:
        path: The file.
        needed: Names of arrays; of several sets of names, the first that the file has whole.
        optional: Names of arrays that may be missing. What the file has beside them is not read.
        kind: What the file should be, for the message.
        fix: What the user can do, for the message.

    Raises:
        InputError: The file is missing, damaged or something else, or lacks an array.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ValueError("it is not a regular file")
        with warnings.catch_warnings(), path.open("rb") as file:
            warnings.simplefilter("ignore")  # of a damaged header, before the error
            if file.read(6) == b"\x93NUMPY":
                raise ValueError("it holds a single array")
            with zipfile.ZipFile(file) as archive:
                members = _members(archive)
                names = _choose(path, members, needed, fix)
                return {
                    name: _read_array(archive, members[name], name) for name in (*names, *optional) if name in members
                }
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"there is no file {path}; check the path") from None
    except Exception as error:  # a damaged archive can raise anything
        raise InputError(f"{path} is not a readable {kind} ({reason(error)}); {fix}") from error


def _members(archive: zipfile.ZipFile) -> dict[str, str]:
    """Return the member of each array, by name; one whose name is damaged would else count as missing."""
    for info in archive.infolist():
        archive.open(info).close()  # compares the name in the directory with that of the member
        if b"PK\x01\x02" in info.extra + info.comment:  # a damaged length hides the entries after it
            raise ValueError("its directory is damaged")
    members = {name.removesuffix(".npy"): name for name in archive.namelist()}
    if len(members) < len(archive.namelist()):
        raise ValueError("it has two arrays of one name")
    return members


def _choose(path: Path, members: Mapping[str, str], needed: Sequence[Sequence[str]], fix: str) -> Sequence[str]:
    for names in needed:
        if all(name in members for name in names):
            return names
    missing = [name for name in needed[0] if name not in members]
    found = ", ".join(repr(name)[1:-1] for name in sorted(members)[:12]) or "nothing"
    raise InputError(f"{path} lacks {', '.join(missing)} (it has {found}); {fix}")


def _read_array(archive: zipfile.ZipFile, member: str, name: str) -> "NDArray[Any]":
    from numpy.lib.format import read_array

    try:
        with archive.open(member) as stream:
            array: NDArray[Any] = read_array(stream, allow_pickle=False)
            if stream.read(1):  # nor was the checksum looked at: it is at the end
                raise ValueError("its header does not fit its contents")
    except Exception as error:
        objects = "allow_pickle" in str(error)
        raise ValueError(f"{name}: {'an array of Python objects' if objects else reason(error)}") from error
    if array.dtype.kind == "U":
        array.tolist()  # raises where a character is none
    return array
