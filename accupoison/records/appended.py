"""Files that grow while a run goes on, and from which a resumed run goes on."""

import csv
import hashlib
import io
import os
from pathlib import Path
from typing import NotRequired, TypedDict

from torch import Tensor

from accupoison.errors import InputError
from accupoison.records.files import reading, sync_directory, writing
from accupoison.types import Scores

SCORES = "detectors.csv"


class Position(TypedDict):
    """A place in a file, a digest of what comes before it and, in the checkpoint, the place in the file of scores."""

    bytes: int
    sha256: str
    scores: NotRequired["Position"]


class AppendedFile:
    """A file that is only ever added to.

    Args:
        path: The file; made if it is not there.
        position: What :meth:`sync` returned once: what comes after it is dropped. Of older versions, the bytes alone.

    Raises:
        InputError: The file does not begin with what it had at ``position``, and nothing is touched; or it cannot be
            opened.
    """

    def __init__(self, path: Path, position: Position | int = 0) -> None:
        offset, digest = (position, None) if isinstance(position, int) else (position["bytes"], position["sha256"])
        content = _first(path, offset)
        self.path = path
        self.check(content)
        self._digest = hashlib.sha256(content)
        if digest is not None and self._digest.hexdigest() != digest:
            raise InputError(f"{path} is not as the run has written it; restore a copy or start the run anew")
        with writing(path):
            self._file = path.open("ab", buffering=0)
            sync_directory(path.parent)
            self._file.truncate(offset)

    def check(self, content: bytes) -> None:
        """Look at what comes before ``position``, and raise InputError where that is damaged."""

    def append(self, text: str) -> None:
        """Add text, which other processes can read at once.

        Raises:
            InputError: It cannot be written.
        """
        line = text.encode()
        rest = memoryview(line)
        with writing(self.path):
            while rest:
                rest = rest[self._file.write(rest) :]
        self._digest.update(line)

    def sync(self) -> Position:
        """Make the file durable and return its end, from which a later one can go on.

        Raises:
            InputError: The disk is full.
        """
        with writing(self.path):
            os.fsync(self._file.fileno())
        return {"bytes": os.fstat(self._file.fileno()).st_size, "sha256": self._digest.hexdigest()}

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _first(path: Path, size: int) -> bytes:
    with reading(path):
        content = path.read_bytes()[:size] if size and path.exists() else b""
    if len(content) < size:
        raise InputError(
            f"{path} has {len(content)} bytes, fewer than the {size} of the checkpoint; start the run anew"
        )
    return content


class ScoreLog(AppendedFile):
    """The scores of detectors, in CSV: a line for each row that arrived, its clean original and that with noise."""

    def check(self, content: bytes) -> None:
        """Find out whether there is a header."""
        self._begun = bool(content)

    def log(self, scores: Scores, step: int, branch: str) -> None:
        """Append the rows of one step.

        Args:
            scores: By what arrives and column; see :data:`accupoison.types.Scores`.
            step: As in metrics.jsonl.
            branch: The branch, or "" for the shared steps.
        """
        text = io.StringIO()
        writer = csv.writer(text)
        if not self._begun:
            writer.writerow(["step", "branch", "kind", *next(iter(scores.values()))])
        self._begun = True
        for kind, columns in scores.items():
            cells = [_cells(values) for values in columns.values()]
            writer.writerows([step, branch, kind, *row] for row in zip(*cells, strict=True))
        self.append(text.getvalue())


def _cells(values: Tensor) -> list[str]:
    return [f"{value:.6g}" if isinstance(value, float) else str(int(value)) for value in values.tolist()]
