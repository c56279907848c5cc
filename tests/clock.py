"""Clocks that tests move on instead of waiting."""

from types import SimpleNamespace

import pytest
from tensorboard.summary.writer import event_file_writer


def next_second(patch: pytest.MonkeyPatch) -> None:
    """Let new event files sort after the old ones: their names begin with the second."""
    before = event_file_writer.time.time
    patch.setattr(event_file_writer, "time", SimpleNamespace(time=lambda: before() + 1))
