"""Carry out a grid."""

import itertools
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing import parent_process
from pathlib import Path

import torch

from accupoison.config.schema import BurninConfig, OnlineConfig, changes
from accupoison.errors import InputError
from accupoison.records.files import expect, read_json, writing
from accupoison.records.run_directory import RunDirectory
from accupoison.records.tags import METRICS, SUMMARY
from accupoison.runs.base_model import open_data
from accupoison.runs.burnin import FINAL, Progress, run_burnin
from accupoison.runs.engines import Engine, outcomes
from accupoison.runs.fork import FORK, shared_steps
from accupoison.runs.inputs import check_inputs, input_digests, recorded_inputs
from accupoison.runs.interrupt import interruptible
from accupoison.runs.online import OnlineRun
from accupoison.study.collect import ENDED
from accupoison.study.controls import RunSpec
from accupoison.study.grid import Grid

WATCH_EVERY = 5
"""Seconds between looks at base models in training."""


def run_grid(grid: Grid, root: Path, *, engine: Engine, report: Progress) -> dict[Path, Exception]:
    """Make the base models that are missing, then the runs that are missing.

    A run that was cut off goes on where it was saved; one that is finished under the same settings is left alone. One
    that fails does not keep the others from being made. Steps that runs have in common are taken once.

    Args:
        grid: What to do.
        root: The directory of checkpoints.
        engine: What does it.
        report: Told (tasks done, tasks in all, what was done last).

    Returns:
        Why the runs and base models that could not be made could not, by their directories.

    Raises:
        InputError: A base model was made with other settings, or finished runs with other data; or the engine cannot be
            used.
    """
    burnins = [(place, settings) for place, settings in grid.burnins if not trained(place, settings)]
    runs = [spec for spec in grid.runs if not finished(spec)]
    failed: dict[Path, Exception] = {}
    done = itertools.count(1)

    def make(what: Sequence[tuple[Path, BurninConfig | OnlineConfig, Path | None]], total: int) -> None:
        for outcome in outcomes(engine, [(_make, (*one, root)) for one in what]):
            place = what[outcome.task][0]
            if outcome.error is not None:
                failed[place] = outcome.error
            report(next(done), total, outcome.name or f"{place.name} failed")

    with _epochs_told(burnins, report):
        make([(place, settings, None) for place, settings in burnins], len(burnins))
    if burnins and runs:
        done = itertools.count(1)  # what a base model takes says nothing of a run
        report(0, len(runs), "base models are there")
    lost = {settings.run.seed: place for place, settings in burnins if place in failed}
    failed |= {
        s.out: InputError(f"there is no {lost[s.config.start.seed]}") for s in runs if s.config.start.seed in lost
    }
    if runs:  # they will be set beside those that are finished
        _check_inputs([spec for spec in grid.runs if spec not in runs], root)
    left = [spec for spec in runs if spec.out not in failed]
    later = followers(grid.runs, left)
    make([(spec.out, spec.config, _leading(spec.out, later)) for spec in left if spec.out not in later], len(runs))
    make([(spec.out, spec.config, later[spec.out] / FORK) for spec in left if spec.out in later], len(runs))
    for alike in _alike(grid.runs):
        if all(map(finished, alike)):
            for spec in alike:
                with writing(spec.out):
                    (spec.out / FORK).unlink(missing_ok=True)
    return failed


@contextmanager
def _epochs_told(burnins: Sequence[tuple[Path, BurninConfig]], report: Progress) -> Iterator[None]:
    """Tell every few seconds how many epochs of base models are done, which take minutes, wherever they are trained."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(WATCH_EVERY):
            done = [_epochs(place) for place, _ in burnins]
            of = sum(settings.train.epochs for _, settings in burnins)
            models = sum((place / FINAL).exists() for place, _ in burnins)
            report(models, len(burnins), f"training: {sum(done)} of {of} epochs done")

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def _epochs(place: Path) -> int:
    """Return how many epochs a burn-in under way has recorded."""
    try:
        return (place / METRICS).read_bytes().count(b'"time/epoch_s"')
    except OSError:
        return 0


def followers(runs: Sequence[RunSpec], left: Sequence[RunSpec]) -> dict[Path, Path]:
    """Return which runs begin where another one is before its trigger, and that one, by directory.

    Args:
        runs: All runs of a grid.
        left: Those of them that are to be carried out.
    """
    found: dict[Path, Path] = {}
    todo = {spec.out for spec in left}
    for alike in _alike(runs):
        waiting = [spec.out for spec in alike if spec.out in todo]
        first = next((spec.out for spec in alike if (spec.out / FORK).exists()), waiting[0] if waiting else None)
        found |= {out: first for out in waiting if first is not None and out != first}
    return found


def _alike(runs: Sequence[RunSpec]) -> list[list[RunSpec]]:
    """Return the runs that share their steps before the trigger with others, with these."""
    groups: defaultdict[str | None, list[RunSpec]] = defaultdict(list)
    for spec in runs:
        groups[shared_steps(spec.config)].append(spec)
    return [group for key, group in groups.items() if key is not None and len(group) > 1]


def _leading(out: Path, later: Mapping[Path, Path]) -> Path | None:
    """Return the file that a run keeps for those that come later, or None where there are none."""
    return out / FORK if out in later.values() else None


def _check_inputs(finished: Sequence[RunSpec], root: Path) -> None:
    """Raise InputError if a finished run was made from other data or checkpoints than are there now."""
    known: dict[str, dict[str, str]] = {}
    for spec in finished:
        config = spec.config
        key = f"{config.data} {config.start} {config.model} {config.stream.replay}"
        if key not in known:
            known[key] = input_digests(config, root, open_data(config.data, torch.device("cpu"))[0])
        check_inputs(spec.out, config, recorded_inputs(spec.out), known[key])


def _make(out: Path, config: BurninConfig | OnlineConfig, fork: Path | None, root: Path) -> str:
    """Carry out a burn-in or a run in ``out``, or what is left of it, and return its name.

    A run keeps the file ``fork`` where it is its own, and begins with another one's where that is there.
    """
    resume = RunDirectory.holds_run(out)
    with interruptible(patient=parent_process() is not None) as asked:
        if isinstance(config, BurninConfig):
            run_burnin(config, out, resume=resume, progress=silent, should_stop=asked)
        else:
            own = fork is not None and fork.parent == out
            start = fork if fork is not None and not own and fork.exists() else None
            OnlineRun(config, root, out, resume=resume, fork=start, keeps_fork=own).run(silent, asked)
    asked.check()
    return out.name


def trained(place: Path, settings: BurninConfig) -> bool:
    """Return whether a base model is there already, on whatever device it was made.

    Args:
        place: Its directory.
        settings: Its settings.

    Raises:
        InputError: It was made with other settings.
    """
    if not (place / FINAL).exists():
        return False
    if changed := [change for change in changes(settings, place) if not change.startswith("run.device:")]:
        raise InputError(f"{place} was trained with other settings ({changed[0]}); move it away, or change the grid")
    return True


def finished(spec: RunSpec) -> bool:
    """Return whether a run has ended, with the settings that are asked for."""
    summary = spec.out / SUMMARY
    if not summary.exists():
        return False
    content = read_json(summary)
    expect(summary, content, {"status": str})
    return content["status"] in ENDED and not changes(spec.config, spec.out)


def silent(*_: object) -> None:
    """Show nothing of a run's progress: the sweep has a bar of its own."""
