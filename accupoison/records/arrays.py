"""Archives of arrays: read whole or refused in one sentence."""

import stat
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import MAGIC_PREFIX, read_array
from numpy.typing import ArrayLike, NDArray

from accupoison.errors import InputError
from accupoison.records.files import reason, write_atomically


def write_arrays(path: Path, arrays: Mapping[str, ArrayLike]) -> None:
    """Write an .npz file of arrays by name, whole or not at all.

    Raises:
        InputError: The file cannot be written.
    """
    write_atomically(path, lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]


def read_arrays(
    path: Path,
    *needed: Sequence[str],
    optional: Sequence[str] = (),
    kind: str = ".npz file of arrays",
    fix: str = "write it with numpy.savez",
) -> dict[str, NDArray[Any]]:
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
            if file.read(6) == MAGIC_PREFIX:
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
    present = ", ".join(repr(name)[1:-1] for name in sorted(members)[:12]) or "nothing"
    raise InputError(f"{path} lacks {', '.join(missing)} (it has {present}); {fix}")


def _read_array(archive: zipfile.ZipFile, member: str, name: str) -> NDArray[Any]:
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
