"""A run as TensorBoard shows it."""

import json
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.types_pb2 import DT_FLOAT
from tensorboard.plugins.scalar.metadata import create_summary_metadata
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from accupoison.records.files import flatten, writing
from accupoison.records.tags import BANDS, LAYOUT, TAGS, check_tags, shown_as


class TensorBoard:
    """A run as TensorBoard shows it: one entry, whatever its triggers are.

    The curve of a tag goes from the first step to the end of the last branch. The accuracies of each other branch are a
    curve of their own, ``TAG@BRANCH``, into which the steps before the branches part are written as well.

    Args:
        directory: The run's directory.
        branches: The names of the branches, in the order they run.
        purge: The step from which on TensorBoard hides what an earlier process wrote; 0 is everything.
        recorded: Tags that an earlier process has recorded.
    """

    def __init__(
        self, directory: Path, branches: Sequence[str] = (), purge: int = 0, recorded: Iterable[str] = ()
    ) -> None:
        self.directory = directory
        self._main = branches[-1] if branches else ""
        self._others = [name for name in branches if name not in ("", self._main)]
        self._described: set[str] = set()
        self._recorded = {shown_as(tag) for tag in recorded}
        self._charts = _layout(self._recorded)
        with writing(directory):
            # Always with a purge: TensorBoard takes the first in a directory for the start of the run and ignores it.
            self._writer = SummaryWriter(str(directory), purge_step=purge, flush_secs=5)

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
        names = {tag: shown_as(tag) for tag in metrics}
        found = {names[tag]: (value, tag) for tag, value in metrics.items()} if branch in ("", self._main) else {}
        for other in self._others:
            if branch in ("", other):
                found |= {f"{names[t]}@{other}": (value, t) for t, value in metrics.items() if names[t] != t}
        with writing(self.directory):
            self._add(Summary(value=[self._value(name, *entry) for name, entry in found.items()]), step)
            if not self._recorded >= self._described:
                self._recorded |= self._described
                if (charts := _layout(self._recorded)) != self._charts:  # TensorBoard takes the last one
                    self._charts = charts
                    self._writer.add_custom_scalars(charts)

    def image(self, name: str, pixels: NDArray[np.uint8], step: int) -> None:
        """Add a picture.

        Args:
            name: Such as "images/rows".
            pixels: [H, W, 3].
            step: Steps taken, from 0.

        Raises:
            InputError: The event file cannot be written.
        """
        with writing(self.directory):
            self._writer.add_image(name, pixels, step, dataformats="HWC")

    def text(self, name: str, markdown: str) -> None:
        """Add a text in Markdown for the TEXT tab, under ``name``; InputError if it cannot be written."""
        with writing(self.directory):
            self._writer.add_text(name, markdown, 0)

    def flush(self) -> None:
        """Write what is buffered."""
        with writing(self.directory):
            self._writer.flush()

    def close(self, settings: Mapping[str, Any] | None = None) -> None:
        """Close the event file, after a line for the HPARAMS tab if there are ``settings``.

        Args:
            settings: What the line says, by section: results first, then the configuration.
        """
        try:
            with writing(self.directory):
                if settings is not None:
                    self._hparams(flatten(settings))
        finally:
            with writing(self.directory):
                self._writer.close()

    def _value(self, name: str, value: float, tag: str) -> Summary.Value:
        new = name not in self._described  # TensorBoard keeps the first description of a tag
        self._described.add(name)
        meaning = TAGS.get(tag, "") if new else ""
        metadata = create_summary_metadata(display_name="", description=meaning) if new else SummaryMetadata()
        tensor = TensorProto(dtype=DT_FLOAT, float_val=[float(value)])
        return Summary.Value(tag=name, metadata=metadata, tensor=tensor)

    def _hparams(self, settings: Iterable[tuple[str, Any]]) -> None:
        # SummaryWriter.add_hparams would make a run of its own, named by the time. The first of the three summaries,
        # the list of columns, is left out: TensorBoard takes the list of one run for all of them and so hides what
        # other attacks and defences have; without it, it collects the columns of all runs.
        _, start, end = hparams({key: _hparam(value) for key, value in settings}, {})  # type: ignore[no-untyped-call]
        for part in (start, end):
            self._add(part, 0)

    def _add(self, summary: Summary, step: int) -> None:
        if self._writer.file_writer is not None:
            self._writer.file_writer.add_summary(summary, step)


def _layout(recorded: Collection[str]) -> dict[str, dict[str, list[Any]]]:
    """Return the charts of LAYOUT that are not empty, as SummaryWriter wants them."""
    layout = {
        category: {title: _chart(title, tags) for title, tags in charts.items() if shown_as(tags[0]) in recorded}
        for category, charts in LAYOUT.items()
    }
    return {category: charts for category, charts in layout.items() if charts}


def _chart(title: str, tags: Sequence[str]) -> list[Any]:
    names = [shown_as(tag) for tag in tags]
    if title in BANDS:
        return ["Margin", names]
    return ["Multiline", [f"^{re.escape(name)}(@.*)?$" for name in names]]  # whole tags: accuracy/test begins others


def _hparam(value: object) -> int | float | str | None:
    """Return a setting as a hyperparameter; TensorBoard's JSON has no infinity, and torch turns bools into numbers."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        return json.dumps(value)
    return value if math.isfinite(value) else str(value)
