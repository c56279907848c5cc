"""A run as TensorBoard shows it."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from accupoison.records.files import flatten, writing
from accupoison.records.tags import BANDS, LAYOUT, check_tags


class TensorBoard:
    """A run as TensorBoard shows it.

    The trunk is written to the run's directory itself. A run with several branches has a writer for each, in
    ``branch-NAME``, so that TensorBoard draws them as curves of their own; a single branch continues the trunk's.

    Args:
        directory: The run's directory.
        branches: The names of the branches.
        purge: The step from which on TensorBoard hides what an earlier process wrote, by branch ("" is the trunk);
            default 0, everything.
    """

    def __init__(self, directory: Path, branches: Sequence[str] = (), purge: Mapping[str, int] | None = None) -> None:
        self.directory = directory
        self._purge = dict(purge or {})
        self._split = {name: directory / f"branch-{name}" for name in branches if name} if len(branches) > 1 else {}
        self._last = max(0, *((step - 1) for step in self._purge.values())) if self._purge else 0
        self._writers: dict[str, SummaryWriter] = {}
        with writing(directory):
            trunk = self._writer("")
            if self._purge.get("", 0) == 0:  # at a later step, the one of the first time is still there
                trunk.add_custom_scalars(_layout())
                trunk.flush()
            for name, where in self._split.items():
                if where.exists():  # hide stale points even if the branch is not reached again
                    self._writer(name)

    def log(self, metrics: Mapping[str, float], step: int, branch: str = "") -> None:
        """Add one value a tag.

        Args:
            metrics: By tag.
            step: Steps taken, from 0.
            branch: The branch, or "" for the shared steps.

        Raises:
            InputError: The event file cannot be written.
            ValueError: A tag is unknown.
        """
        check_tags(metrics)
        with writing(self.directory):
            self._scalars(metrics, step, branch)
        self._last = max(self._last, step)

    def images(self, tag: str, x: Tensor, step: int, branch: str = "") -> None:
        """Add a grid of images.

        Args:
            tag: A name, such as "images/sent".
            x: Images, floating [B, C, H, W] in [0, 1], with one channel or three.
            step: The step.
            branch: The branch, or "" for the trunk.

        Raises:
            InputError: The event file cannot be written.
            ValueError: ``x`` has another shape.
        """
        if x.ndim != 4 or x.shape[1] not in (1, 3) or len(x) == 0:
            raise ValueError(f"images must be [B, 1 or 3, H, W], got {list(x.shape)}")
        with writing(self.directory):
            self._writer(branch).add_images(tag, x.detach().float().clamp(0, 1).cpu(), step)

    def flush(self) -> None:
        """Write what is buffered."""
        with writing(self.directory):
            for writer in self._writers.values():
                writer.flush()

    def close(self, config: Mapping[str, Any] | None = None, summary: Mapping[str, Any] | None = None) -> None:
        """Close the event files, after a line for the HPARAMS tab if there is a ``summary``.

        Args:
            config: The run's configuration, by section: the hyperparameters.
            summary: The results; the numbers among them are the metrics ``summary/...``.
        """
        try:
            with writing(self.directory):
                if summary is not None:
                    self._hparams(config or {}, summary)
        finally:
            writers, self._writers = self._writers, {}
            with writing(self.directory):
                for writer in writers.values():
                    writer.close()

    def _writer(self, branch: str) -> SummaryWriter:
        name = branch if branch in self._split else ""
        if name not in self._writers:
            where = self._split.get(name, self.directory)
            # Always with a purge: TensorBoard takes the first in a directory for the start of the run and ignores it.
            self._writers[name] = SummaryWriter(str(where), purge_step=self._purge.get(name, 0), flush_secs=5)
        return self._writers[name]

    def _scalars(self, scalars: Mapping[str, float], step: int, branch: str) -> None:
        values = [Summary.Value(tag=tag, simple_value=float(value)) for tag, value in scalars.items()]
        _add(self._writer(branch), Summary(value=values), step)

    def _hparams(self, config: Mapping[str, Any], summary: Mapping[str, Any]) -> None:
        numbers = {f"summary/{k}": float(v) for k, v in flatten(summary) if isinstance(v, int | float)}
        self._scalars(numbers, self._last, "")
        # SummaryWriter.add_hparams would make a run of its own, named by the time. The first of the three summaries,
        # the list of columns, is left out: TensorBoard takes the list of one run for all of them and so hides what
        # other attacks and defences have; without it, it collects the columns of all runs.
        _, start, end = hparams({key: _hparam(value) for key, value in flatten(config)}, {})  # type: ignore[no-untyped-call]
        for part in (start, end):
            _add(self._writer(""), part, self._last)


def _layout() -> dict[str, dict[str, list[Any]]]:
    """Return LAYOUT as SummaryWriter wants it."""
    return {
        category: {title: _chart(title, tags) for title, tags in charts.items()} for category, charts in LAYOUT.items()
    }


def _chart(title: str, tags: Sequence[str]) -> list[Any]:
    if title in BANDS:
        return ["Margin", list(tags)]
    return ["Multiline", [f"^{re.escape(tag)}$" for tag in tags]]  # whole tags: test/acc begins others


def _hparam(value: object) -> int | float | str | None:
    """Return a setting as a hyperparameter; TensorBoard's JSON has no infinity, and torch turns bools into numbers."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        return json.dumps(value)
    return value if math.isfinite(value) else str(value)


def _add(writer: SummaryWriter, summary: Summary, step: int) -> None:
    if writer.file_writer is not None:
        writer.file_writer.add_summary(summary, step)
