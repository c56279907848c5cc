"""Carry out a grid on this machine."""

from collections.abc import Sequence
from multiprocessing import parent_process
from pathlib import Path

import torch

from accupoison.config.schema import BurninConfig, OnlineConfig, changes
from accupoison.errors import InputError
from accupoison.records.files import expect, read_json
from accupoison.records.run_directory import RunDirectory
from accupoison.records.tags import SUMMARY
from accupoison.runs.base_model import open_data
from accupoison.runs.burnin import FINAL, Progress, run_burnin
from accupoison.runs.interrupt import interruptible
from accupoison.runs.online import OnlineRun, check_inputs, input_digests, recorded_inputs
from accupoison.runs.workers import carry_out
from accupoison.study.collect import ENDED
from accupoison.study.grid import Grid, RunSpec


def run_grid(grid: Grid, root: Path, *, jobs: int, report: Progress) -> None:
    """Make the base models that are missing, then the runs that are missing.

    A run that was cut off goes on where it was saved; one that is finished under the same settings is left alone.

    Args:
        grid: What to do.
        root: The directory of checkpoints.
        jobs: Processes at once; the machine's cores are divided among them.
        report: Told (tasks done, tasks in all, what was done last).

    Raises:
        InputError: A directory holds something else, or a run cannot start.
    """
    burnins = [(place, settings) for place, settings in grid.burnins if not _trained(place, settings)]
    runs = [spec for spec in grid.runs if not _finished(spec)]
    total = len(burnins) + len(runs)
    for done, name in enumerate(carry_out([(_make, (*burnin, root)) for burnin in burnins], jobs), 1):
        report(done, total, name)
    if runs:  # they will be set beside those that are finished
        _check_inputs([spec for spec in grid.runs if spec not in runs], root)
    for done, name in enumerate(
        carry_out([(_make, (spec.out, spec.config, root)) for spec in runs], jobs), len(burnins) + 1
    ):
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


def _make(out: Path, config: BurninConfig | OnlineConfig, root: Path) -> str:
    """Carry out a burn-in or a run in ``out``, or what is left of it, and return its name."""
    resume = RunDirectory.holds_run(out)
    with interruptible(patient=parent_process() is not None) as asked:
        if isinstance(config, BurninConfig):
            run_burnin(config, out, resume=resume, progress=_silent, should_stop=asked)
        else:
            OnlineRun(config, root, out, resume=resume).run(_silent, asked)
    asked.check()
    return out.name


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
    content = read_json(summary)
    expect(summary, content, {"status": str})
    return content["status"] in ENDED and not changes(spec.config, spec.out)


def _silent(done: int, total: int, words: str) -> None:
    """Show nothing: the sweep has a bar of its own."""
