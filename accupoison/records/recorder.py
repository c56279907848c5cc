"""What a run writes down: metrics.jsonl, which is the truth, and TensorBoard, a view of it."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from accupoison.errors import InputError
from accupoison.records.appended import SCORES, AppendedFile, Position, ScoreLog
from accupoison.records.files import dump_row, load_row, read_json, reading, write_json
from accupoison.records.run_directory import RunDirectory
from accupoison.records.tags import FORMER, METRICS, SUMMARY, TAGS, check_tags, tags_markdown
from accupoison.records.tensorboard import TensorBoard
from accupoison.types import Scores

__all__ = [
    "TAGS",
    "MetricsLog",
    "RunRecorder",
    "TensorBoard",
    "check_tags",
    "metrics_digest",
    "read_metrics",
    "tags_markdown",
]

BEGINNING = b'{"step": '
"""Of every row."""


class MetricsLog(AppendedFile):
    """The append-only file of a run's scalars.

    Args:
        path: The file; made if it is not there.
        position: What :meth:`sync` returned once: rows after it are dropped. Of older versions, the bytes alone.

    Raises:
        InputError: The file does not begin with the rows that it had at ``position``, and nothing is touched; or it
            cannot be opened.
    """

    def check(self, content: bytes) -> None:
        """Read the rows of before."""
        _rows(self.path, content, whole=True)

    def log(self, metrics: Mapping[str, float], step: int, branch: str = "") -> None:
        """Append one row, which other processes can read at once.

        Args:
            metrics: Scalars by tag of :data:`TAGS`, or under ``x/``.
            step: From 0.
            branch: The trigger that the step belongs to, or "" before the paths part.

        Raises:
            InputError: The row cannot be written.
            ValueError: A tag is unknown.
        """
        check_tags(metrics)
        row = {"step": step, "branch": branch, **{tag: float(value) for tag, value in metrics.items()}}
        self.append(f"{dump_row(row)}\n")


def read_metrics(path: Path, digest: object = None) -> list[dict[str, Any]]:
    """Return the rows of a metrics.jsonl; a last row that was cut off by a crash is left out.

    Args:
        path: The file.
        digest: ``metrics_digest`` of the run's summary, for which the rows must be those that the run ended with; None
            (a run that goes on, or one of an older version) checks their form alone.

    Raises:
        InputError: The file is missing, another row is damaged, or the rows are other ones.
    """
    with reading(path):
        content = path.read_bytes()
    rows = _rows(path, content)
    if digest is not None and metrics_digest(rows) != digest:
        raise InputError(f"{path} is not as the run has written it; restore a copy or run again")
    return [{FORMER.get(tag, tag): value for tag, value in row.items()} for row in rows]


def _rows(path: Path, content: bytes, *, whole: bool = False) -> list[dict[str, Any]]:
    """Return the rows in ``content``; unless it must be ``whole``, the last one may be cut off."""
    *lines, last = content.split(b"\n")
    rows: list[dict[str, Any]] = []
    for number, line in enumerate([*lines, last] if last else lines, 1):
        cut_off = line is last and not whole and b"\0" not in line and line[: len(BEGINNING)] == BEGINNING[: len(line)]
        try:
            rows.append(_row(line if line is not last or not whole else b""))
        except (ValueError, RecursionError) as error:
            if not cut_off:
                raise InputError(f"line {number} of {path} is damaged; restore a copy or run again") from error
    return rows


def _row(line: bytes) -> dict[str, Any]:
    """Return one row; ValueError if it is not one that :meth:`MetricsLog.log` writes."""
    row = load_row(line)
    step, branch, scalars = row.get("step"), row.get("branch"), {**row, "step": 0.0, "branch": 0.0}
    if type(step) is not int or step < 0 or not isinstance(branch, str):
        raise ValueError("no step or no branch")
    if any(type(value) not in (int, float) for value in scalars.values()):
        raise ValueError("a value that is no number")
    check_tags({FORMER.get(tag, tag): value for tag, value in row.items() if tag not in ("step", "branch")})
    return row


def metrics_digest(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a SHA-256 hex digest of rows without their wall times: what two runs of the same thing share."""
    timeless = ({tag: value for tag, value in row.items() if not tag.startswith("time/")} for row in rows)
    return hashlib.sha256("\n".join(map(dump_row, timeless)).encode()).hexdigest()


class RunRecorder:
    """Everything a run records, written once by the caller.

    Args:
        run: The run's directory.
        branches: The names of the branches, in the order they run.
        resume_at: What the checkpoint holds: the position that :meth:`sync` returned (of older versions, the bytes
            alone). None begins from nothing and discards what a run without a checkpoint left.

    Attributes:
        new: TensorBoard had nothing of the run, and has been shown all that is recorded.

    Raises:
        InputError: metrics.jsonl or an event file cannot be written, or metrics.jsonl has changed since the checkpoint.
    """

    def __init__(self, run: RunDirectory, branches: Sequence[str], resume_at: Position | int | None = None) -> None:
        self.run = run
        self._ended = (run.path / SUMMARY).exists() and read_json(run.path / SUMMARY).get("status") != "interrupted"
        self._metrics = MetricsLog(run.path / METRICS, resume_at or 0)
        self._scores: ScoreLog | None = None
        try:
            if isinstance(resume_at, dict) and "scores" in resume_at:
                self._scores = ScoreLog(run.path / SCORES, resume_at["scores"])
            rows = [] if resume_at is None else read_metrics(run.path / METRICS)
            self.new = not any(run.path.glob("events.out.tfevents.*"))
            purge = 0 if self.new else _purge(rows, branches)
            recorded = () if self.new else {tag for row in rows for tag in row}
            self._board = TensorBoard(run.path, branches, purge, recorded)
            for row in rows:
                if row["step"] >= purge:  # of another branch, and hidden together with what was lost
                    scalars = {tag: value for tag, value in row.items() if tag not in ("step", "branch")}
                    self._board.log(scalars, row["step"], row["branch"])
        except BaseException:
            self._metrics.close()
            raise

    def log(self, metrics: Mapping[str, float], step: int, branch: str = "") -> None:
        """Record scalars; see :meth:`MetricsLog.log` and :meth:`TensorBoard.log`.

        Args:
            metrics: By tag.
            step: Steps taken, from 0.
            branch: The branch, or "" for the shared steps.

        Raises:
            InputError: The row cannot be written, or another machine has taken the run over.
        """
        self.run.check()
        self._metrics.log(metrics, step, branch)
        self._board.log(metrics, step, branch)

    def image(self, name: str, pixels: NDArray[np.uint8], step: int) -> None:
        """Record a picture; see :meth:`TensorBoard.image`.

        Args:
            name: Its name.
            pixels: [H, W, 3].
            step: Steps taken, from 0.
        """
        self._board.image(name, pixels, step)

    def text(self, name: str, markdown: str) -> None:
        """Record a text in Markdown under ``name``, for TensorBoard alone."""
        self._board.text(name, markdown)

    def scores(self, scores: Scores, step: int, branch: str = "") -> None:
        """Record the scores of rows; see :meth:`ScoreLog.log`.

        Args:
            scores: By what arrives and column; nothing is written where there are none.
            step: Steps taken, from 0.
            branch: The branch, or "" for the shared steps.
        """
        if not scores:
            return
        if self._scores is None:
            self._scores = ScoreLog(self.run.path / SCORES)
        self._scores.log(scores, step, branch)

    def sync(self) -> Position:
        """Make everything durable and return the positions in files that belong into the checkpoint."""
        self._board.flush()
        end = self._metrics.sync()
        return end if self._scores is None else {**end, "scores": self._scores.sync()}

    def metrics_digest(self) -> str:
        """Return :func:`metrics_digest` of what is recorded so far."""
        path = self.run.path / METRICS
        with reading(path):
            return metrics_digest(_rows(path, path.read_bytes()))

    def close(self, summary: Mapping[str, Any] | None = None, settings: Mapping[str, Any] | None = None) -> None:
        """Close all files; with the run's ``summary``, write summary.json before, and the hyperparameters if it ended.

        Args:
            summary: Its results.
            settings: What TensorBoard's HPARAMS shows: accuracies, and the settings as they were used.

        Raises:
            InputError: A file cannot be written.
        """
        try:
            if summary is not None:
                self.run.check(now=True)
                self._metrics.sync()
                write_json(self.run.path / SUMMARY, summary)
        finally:
            self._metrics.close()
            if self._scores is not None:
                self._scores.close()
            ended = summary is not None and summary.get("status") != "interrupted" and not self._ended
            self._board.close(settings if ended else None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _purge(rows: Sequence[Mapping[str, Any]], branches: Sequence[str]) -> int:
    """Return the first step of which something may have been shown that is not in ``rows``."""
    if not rows:
        return 0
    last = max(int(row["step"]) for row in rows if not row["branch"])
    return 1 + (int(rows[-1]["step"]) if rows[-1]["branch"] == branches[-1] else last)
