"""Carry out a grid on this machine."""

from collections.abc import Callable
from pathlib import Path

from accupoison.burnin import FINAL, run_burnin
from accupoison.config import plain
from accupoison.errors import InputError
from accupoison.files import expect, read_json
from accupoison.online import OnlineRun
from accupoison.rundir import CONFIG, RunDirectory, differences
from accupoison.settings import BurninConfig, at_home
from accupoison.sweep.grid import Grid, RunSpec
from accupoison.tags import SUMMARY
from accupoison.workers import carry_out

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
    done = 0
    for tasks in ([(_make_burnin, item) for item in burnins], [(_make_run, (spec, root)) for spec in runs]):
        for name in carry_out(tasks, jobs):
            done += 1
            report(done, total, name)


def _make_burnin(place: Path, settings: BurninConfig) -> str:
    resume = RunDirectory.holds_run(place)
    run_burnin(settings, place, resume=resume, progress=_silent)
    return place.name


def _make_run(spec: RunSpec, root: Path) -> str:
    resume = RunDirectory.holds_run(spec.out)
    OnlineRun(spec.config, root, spec.out, resume=resume).run(_silent)
    return spec.out.name


def _trained(place: Path, settings: BurninConfig) -> bool:
    if not (place / FINAL).exists():
        return False
    if changes := differences(at_home(plain(settings), place), read_json(place / CONFIG)):
        raise InputError(f"{place} was trained with other settings ({changes[0]}); move it away, or change the grid")
    return True


def _finished(spec: RunSpec) -> bool:
    summary = spec.out / SUMMARY
    if not summary.exists():
        return False
    found = read_json(summary)
    expect(summary, found, {"status": str})
    if found["status"] not in DONE:
        return False
    return not differences(at_home(plain(spec.config), spec.out), read_json(spec.out / CONFIG))


def _silent(done: int, total: int, words: str) -> None:
    """Show nothing: the sweep has a bar of its own."""
