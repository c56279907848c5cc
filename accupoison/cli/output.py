"""What the commands print."""

import json
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from math import inf
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, TextIO, cast

import click

from accupoison.cli.group import one_line
from accupoison.records.files import dump_row

if TYPE_CHECKING:  # takes seconds to load, which --help can do without
    from accupoison.study.collect import Run

LINES_EVERY, WORTH_SAYING = 30, 10
"""Seconds between lines of progress, and that must be left for the first one."""
TENSORBOARD = "http://localhost:6006/?smoothing=0&runColorGroup=regex:(.*)-s"
UNTICK = 'untick "Ignore outliers in chart scaling", which cuts off a drop'
STOPPING = b"\nstopping after this step; press Ctrl-C again to stop at once\n"


class _Terminal:
    """Standard error as a progress bar sees it; that the terminal has gone must not keep a run from being saved."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

    def write(self, text: str) -> None:
        """Write, if there still is a terminal."""
        with suppress(OSError):
            self._stream.write(text)

    def flush(self) -> None:
        """Flush, if there still is a terminal."""
        with suppress(OSError):
            self._stream.flush()


def curves_text(logs: Path, program: str = "tensorboard") -> str:
    """Return how to see the curves of the runs in a directory: not smoothed, one colour for all seeds of a setting."""
    return f"curves:\n  {program} --logdir {shlex.quote(str(logs))}\n  {TENSORBOARD}\n  {UNTICK}"


@contextmanager
def progress_bar(label: str, *, hidden: bool) -> Iterator[Callable[[int, int, str], None]]:
    """Give a function to call with (steps done, steps in all, a few words).

    On a terminal it is a bar with the time that is left; elsewhere a line on standard error after the first step, with
    the time that the rest will take, and then one every half minute.
    """
    if hidden or sys.stderr.isatty():
        words, file = "", cast(TextIO, _Terminal(sys.stderr))
        with click.progressbar(
            range(1), label=label, file=file, hidden=hidden, item_show_func=lambda _: words, show_pos=True
        ) as bar:

            def show(done: int, total: int, text: str) -> None:
                nonlocal words
                words, bar.length = text, total
                bar.update(done - bar.pos)
                bar.render_progress()

            yield show
        return
    yield _lines(label)


def _lines(label: str) -> Callable[[int, int, str], None]:
    """Return what says progress where there is no terminal."""
    begun = monotonic()
    before: int | None = None  # steps that an earlier process has made
    said, doing = -inf, ""

    def tell(done: int, total: int, text: str) -> None:
        nonlocal begun, before, said, doing
        now = monotonic()
        if not done:  # loading, or calibrating, or a base model in training
            kind = text.partition(" ")[0]
            if kind != doing or before is not None:
                begun, before, doing = now, None, kind
            elif now - max(said, begun) >= LINES_EVERY:
                said = now
                _Terminal(sys.stderr).write(f"{one_line(f'{label}: {text}')}\n")
            return
        before = done - 1 if before is None else before
        left = (now - begun) / (done - before) * (total - done)
        if now - said >= LINES_EVERY and (said > 0 or left >= WORTH_SAYING):
            from accupoison.study.cost import duration  # here, as torch takes seconds to load

            said = now
            line = f"{label}: {done} of {total}, about {duration(left)} left; {text}"
            _Terminal(sys.stderr).write(f"{one_line(line)}\n")

    return tell


def note(text: str) -> None:
    """Say something on standard error, on one line."""
    click.echo(one_line(text), err=True)


def gather(paths: Sequence[Path], *, needed: bool = True) -> "list[Run]":
    """Return the ended runs in ``paths``; what cannot be used is named on standard error.

    Args:
        paths: Where they are.
        needed: Without any the exit code is 1.
    """
    from accupoison.study.collect import collect

    runs = collect(paths, note, needed=needed)
    if needed and not runs:
        note(f"no run is left in {', '.join(map(str, paths))}")
        click.get_current_context().exit(1)
    return runs


def table(rows: Sequence[Mapping[str, str]]) -> str:
    """Return rows, of which there is at least one, as a Markdown table; their keys are the header."""
    from accupoison.study.tables import table_text

    return table_text(rows)


def percent(value: float) -> str:
    """Return a fraction as a percentage."""
    return f"{value:.1%}"


def json_text(result: Mapping[str, Any]) -> str:
    """Return strict JSON, for which "nan", "inf" and "-inf" are strings."""
    return json.dumps(json.loads(dump_row(result)), indent=2)


def online_text(summary: dict[str, Any]) -> str:
    """Return the outcome of an online run for a person."""
    lines = [summary["threat_model"]]
    labels = {"start": "start", "before": f"before the trigger (step {summary['horizon']})"}
    lines += [_accuracy_line(label, summary[mark]) for mark, label in labels.items() if mark in summary]
    words = {"after": "after the trigger", "end": "at the end"}
    for branch, marks in summary["branches"].items():
        lines += [_accuracy_line(f"{branch}: {words[mark]}", values) for mark, values in marks.items()]
    if "release" in summary:
        cost = summary["release"]
        accuracies = f"accuracy {percent(cost['accuracy_undefended'])} -> {percent(cost['accuracy'])}"
        lines.append(f"  {change_text(cost)}; {accuracies}; {1000 * cost['time/query_s']:.2f} ms a query")
    if "suspects" in summary:
        lines.append(f"  {suspects_text(summary['suspects'])}")
    if summary["status"] == "diverged":
        lines.append("  diverged: weights or gradients are no longer finite numbers, so the run ends here")
    return "\n".join(lines)


def suspects_text(facts: Mapping[str, Any]) -> str:
    """Say how well a defence has told the poisoned samples from the others."""
    told = f"; AUC {facts['auc']:.3f} of telling the poisoned ones" if "auc" in facts else ""
    return f"found wrong: {facts['flagged']:.0f} of {facts['samples']:.0f} samples, {facts['poisoned']:.0f} are{told}"


def change_text(facts: Mapping[str, Any]) -> str:
    """Say what a release, of this ``spec``, changes of answers."""
    change = f"{facts['l1_members']:.3f} of members, {facts['l1_others']:.3f} of others"
    return f"released by {facts['spec']}: l1 change {change}; {percent(facts['labels_kept'])} of labels kept"


def _accuracy_line(label: str, values: dict[str, float]) -> str:
    text = f"  {label:38} test accuracy {percent(values['acc'])}"
    if "acc_bn_reestimated" in values:
        text += f", with batch norm re-estimated {percent(values['acc_bn_reestimated'])}"
    return text
