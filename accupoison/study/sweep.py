"""Carry out a grid on this machine."""

from collections.abc import Callable, Sequence
from multiprocessing import parent_process
from pathlib import Path

import torch

from accupoison.config.schema import BurninConfig, changes
from accupoison.errors import InputError
from accupoison.records.files import expect, read_json
from accupoison.records.run_directory import RunDirectory
from accupoison.records.tags import SUMMARY
from accupoison.runs.base_model import open_data
from accupoison.runs.burnin import FINAL, run_burnin
from accupoison.runs.interrupt import interruptible
from accupoison.runs.online import OnlineRun, check_inputs, input_digests, recorded_inputs
from accupoison.runs.workers import carry_out
from accupoison.study.grid import Grid, RunSpec

Report = Callable[[int, int, str], None]
"""Told (tasks done, tasks in all, what was done last)."""

DONE = ("finished", "diverged")


def run_grid(grid: Grid, root: Path, *, jobs: int, report: Report) -> None:
    """Make the base models that are missing, then the runs that are missing.

    A run that was cut off goes on where it was saved; one that is finished under the same settings is left alone.

    Args:
        grid: What to do.
        root: The directory of checkpoints.
        jobs: Processes at once; the machine's cores are divided among them.
        report: Told of everything that ends.

    Raises:
        InputError: A directory holds something else, or a run cannot start.
    """
    burnins = [(place, settings) for place, settings in grid.burnins if not _trained(place, settings)]
    runs = [spec for spec in grid.runs if not _finished(spec)]
    total = len(burnins) + len(runs)
    for done, name in enumerate(carry_out([(_make_burnin, item) for item in burnins], jobs), 1):
        report(done, total, name)
    if runs:  # they will be set beside those that are finished
        _check_inputs([spec for spec in grid.runs if spec not in runs], root)
    for done, name in enumerate(carry_out([(_make_run, (spec, root)) for spec in runs], jobs), len(burnins) + 1):
        report(done, total, name)


def _check_inputs(finished: Sequence[RunSpec], root: Path) -> None:
    """Raise InputError if a finished run was made from other data or checkpoints than are there now."""
    known: dict[str, dict[str, str]] = {}
    for spec in finished:
        config = spec.config
        key = f"{config.data} {config.start} {config.model} {config.stream.replay}"
        if key not in known:
            known[key] = input_digests(config, root, open_data(config.data, torch.device("cpu"))[0])
        check_inputs(spec.out, config, recorded_inputs(spec.out), known[key])


def _make_burnin(place: Path, settings: BurninConfig) -> str:
    resume = RunDirectory.holds_run(place)
    with interruptible(patient=parent_process() is not None) as asked:
        run_burnin(settings, place, resume=resume, progress=_silent, should_stop=asked)
    asked.check()
    return place.name


def _make_run(spec: RunSpec, root: Path) -> str:
    resume = RunDirectory.holds_run(spec.out)
    with interruptible(patient=parent_process() is not None) as asked:
        OnlineRun(spec.config, root, spec.out, resume=resume).run(_silent, asked)
    asked.check()
    return spec.out.name


def _trained(place: Path, settings: BurninConfig) -> bool:
    if not (place / FINAL).exists():
        return False
    if changed := changes(settings, place):
        raise InputError(f"{place} was trained with other settings ({changed[0]}); move it away, or change the grid")
    return True


def _finished(spec: RunSpec) -> bool:
    summary = spec.out / SUMMARY
    if not summary.exists():
        return False
    found = read_json(summary)
    expect(summary, found, {"status": str})
    if found["status"] not in DONE:
        return False
    return not changes(spec.config, spec.out)


def _silent(done: int, total: int, words: str) -> None:
    """Show nothing: the sweep has a bar of its own."""
