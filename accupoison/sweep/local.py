"""Carry out a grid on this machine."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch

from accupoison.burnin import FINAL, run_burnin
from accupoison.config import plain
from accupoison.errors import InputError
from accupoison.files import read_json
from accupoison.online import OnlineRun
from accupoison.rundir import CONFIG, RunDirectory, differences
from accupoison.settings import BurninConfig, at_home
from accupoison.sweep.grid import Grid, RunSpec
from accupoison.tags import SUMMARY

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
        for name in _carry_out(tasks, jobs):
            done += 1
            report(done, total, name)


def _carry_out(tasks: list[tuple[Callable[..., str], tuple[Any, ...]]], jobs: int) -> Iterator[str]:
    if jobs == 1 or len(tasks) == 1:  # a single one gets all cores, and needs no process to be started
        yield from (task(*arguments) for task, arguments in tasks)
        return
    threads = max(1, (os.cpu_count() or 1) // jobs)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, initializer=_prepare, initargs=(threads,)) as pool:
        futures: list[Future[str]] = [pool.submit(task, *arguments) for task, arguments in tasks]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _prepare(threads: int) -> None:
    torch.set_num_threads(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Leave when the sweep is killed: what is saved is safe, and a process that nobody waits for would never end."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


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
    if not summary.exists() or read_json(summary)["status"] not in DONE:
        return False
    return not differences(at_home(plain(spec.config), spec.out), read_json(spec.out / CONFIG))


def _silent(done: int, total: int, words: str) -> None:
    """Show nothing: the sweep has a bar of its own."""
