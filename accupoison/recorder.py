"""What a run writes down: metrics.jsonl, which is the truth, and TensorBoard, a view of it."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torch import Tensor

from accupoison.board import TensorBoard
from accupoison.errors import InputError
from accupoison.files import dump_row, load_row, read_json, sync_directory, writing
from accupoison.rundir import RunDirectory
from accupoison.tags import METRICS, SUMMARY, TAGS, check_tags, tags_markdown

__all__ = ["TAGS", "MetricsLog", "RunRecorder", "TensorBoard", "check_tags", "read_metrics", "tags_markdown"]


class MetricsLog:
    """The append-only file of a run's scalars.

    Args:
        path: The file; made if it is not there.

    Raises:
        InputError: The file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with writing(path):
            self._file = path.open("ab", buffering=0)
            sync_directory(path.parent)

    def log(self, metrics: Mapping[str, float], step: int, branch: str = "") -> None:
        """Append one row, which other processes can read at once.

        Raises:
            InputError: The row cannot be written.
            ValueError: A tag is unknown.
        """
        check_tags(metrics)
        row = {"step": step, "branch": branch, **{tag: float(value) for tag, value in metrics.items()}}
        rest = memoryview(f"{dump_row(row)}\n".encode())
        with writing(self.path):
            while rest:
                rest = rest[self._file.write(rest) :]

    def sync(self) -> int:
        """Make the rows durable and return the size of the file in bytes, for :meth:`truncate`."""
        with writing(self.path):
            os.fsync(self._file.fileno())
        return os.fstat(self._file.fileno()).st_size

    def truncate(self, offset: int) -> None:
        """Drop what was written after :meth:`sync` returned ``offset``.

        Raises:
            InputError: The file is shorter than that.
        """
        if (size := os.fstat(self._file.fileno()).st_size) < offset:
            raise InputError(
                f"{self.path} has {size} bytes, fewer than the {offset} of the checkpoint; start the run anew"
            )
        with writing(self.path):
            self._file.truncate(offset)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a metrics.jsonl; a last row that was cut off by a crash is left out.

    Raises:
        InputError: The file is missing or another row is damaged.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise InputError(f"cannot read {path} ({error.strerror}); check the path") from error
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            rows.append(load_row(line))
        except ValueError as error:
            if number < len(lines):
                raise InputError(f"line {number} of {path} is damaged; restore a copy or run again") from error
    return rows


class RunRecorder:
    """Everything a run records, written once by the caller.

    Args:
        run: The run's directory.
        branches: The names of the branches, in the order they run.
        resume_at: What the checkpoint holds: the offset that :meth:`sync` returned, and a step from which on the trunk
            has to be hidden in TensorBoard; rows before the offset are shown in any case. None begins from nothing
            and discards what a run without a checkpoint left.

    Raises:
        InputError: metrics.jsonl or an event file cannot be written, or metrics.jsonl was cut since the checkpoint.
    """

    def __init__(self, run: RunDirectory, branches: Sequence[str], resume_at: tuple[int, int] | None = None) -> None:
        self.run = run
        offset, purge_step = resume_at or (0, 0)
        self._told = (run.path / SUMMARY).exists() and read_json(run.path / SUMMARY).get("status") != "interrupted"
        self._metrics = MetricsLog(run.path / METRICS)
        try:
            self._metrics.truncate(offset)
            ends = _ends(read_metrics(run.path / METRICS), branches)
            self._board = TensorBoard(run.path, branches, {**ends, "": max(ends[""], purge_step)})
        except BaseException:
            self._metrics.close()
            raise

    def log(self, metrics: Mapping[str, float], step: int, branch: str = "") -> None:
        """Record scalars by tag; ValueError if one is unknown, InputError if the disk is full."""
        self._metrics.log(metrics, step, branch)
        self._board.log(metrics, step, branch)

    def images(self, tag: str, x: Tensor, step: int, branch: str = "") -> None:
        """Record images [B, C, H, W] in [0, 1], one channel or three; see :meth:`TensorBoard.images`."""
        self._board.images(tag, x, step, branch)

    def sync(self) -> int:
        """Make everything durable and return the offset in metrics.jsonl that belongs into the checkpoint."""
        self._board.flush()
        return self._metrics.sync()

    def close(self, summary: Mapping[str, Any] | None = None) -> None:
        """Close all files; with the run's ``summary``, write summary.json before, and the hyperparameters if it ended.

        Raises:
            InputError: A file cannot be written.
        """
        try:
            if summary is not None:
                self._metrics.sync()
                self.run.write_json(SUMMARY, summary)
        finally:
            self._metrics.close()
            ended = summary is not None and summary.get("status") != "interrupted" and not self._told
            self._board.close(self.run.config, summary if ended else None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _ends(rows: Sequence[Mapping[str, Any]], branches: Sequence[str]) -> dict[str, int]:
    """Return the first step that is not recorded, by writer; they differ, as branches may run one after the other."""
    ends = {"": 0, **dict.fromkeys(branches if len(branches) > 1 else (), 0)}
    for row in rows:
        name = row["branch"] if row["branch"] in ends else ""
        ends[name] = max(ends[name], int(row["step"]) + 1)
    return ends
