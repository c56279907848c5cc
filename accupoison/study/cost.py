"""What is left of a grid, and what it costs, from what the same machine has recorded."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

from accupoison.config.schema import BurninConfig, OnlineConfig
from accupoison.records.recorder import read_metrics
from accupoison.records.tags import METRICS
from accupoison.runs.burnin import FINAL, run_burnin
from accupoison.runs.online import OnlineRun
from accupoison.study.grid import Grid
from accupoison.study.sweep import finished, followers, silent, trained

STEPS = 2
"""Of a stream in a trial, before the trigger."""
Kind = tuple[str, str]
"""The names of the attack and of the defence, which decide what a step costs."""


@dataclass
class Rates:
    """Recorded wall times.

    Attributes:
        epochs: Of epochs of burn-ins; seconds.
        steps: Of steps with their evaluation, before the trigger and from it on, by kind of run; seconds.
        runs: How many runs these are of.
    """

    epochs: list[float] = field(default_factory=list)
    steps: dict[Kind, tuple[list[float], list[float]]] = field(default_factory=lambda: defaultdict(lambda: ([], [])))
    runs: int = 0

    def add_burnin(self, place: Path) -> None:
        """Take in the burn-in in ``place``."""
        self.epochs += [row["time/epoch_s"] for row in read_metrics(place / METRICS) if "time/epoch_s" in row]

    def add_run(self, place: Path, config: OnlineConfig) -> None:
        """Take in the run in ``place``."""
        self.runs += 1
        for row in read_metrics(place / METRICS):
            if "time/step_s" in row:
                seconds = row["time/step_s"] + row.get("time/evaluate_s", 0.0)
                self.steps[_kind(config)][bool(row["branch"])].append(seconds)

    def of_burnin(self, config: BurninConfig) -> float:
        """Return the seconds that a burn-in takes; NaN where none is known."""
        return _mean(self.epochs) * config.train.epochs

    def of_run(self, config: OnlineConfig) -> tuple[float, float]:
        """Return the seconds that a run takes up to its trigger, and from it on.

        By runs of its kind or else by all; NaN where none is known.
        """
        known = self.steps.get(_kind(config))
        rows = [known] if known else list(self.steps.values())
        before, after = ([seconds for times in rows for seconds in times[part]] for part in (0, 1))
        steps, later = config.stream.steps, len(config.trigger.types) * (1 + config.stream.recovery_steps)
        return _mean(before or after) * steps, _mean(after or before) * later


def estimate(grid: Grid, root: Path, *, trial: bool, kinds: int | None = None) -> str:
    """Return a sentence on what is left to do and what it costs.

    Args:
        grid: What is to be done.
        root: The directory of checkpoints.
        trial: Carry out a few steps of each kind of run that is left and not known yet, and an epoch of a burn-in where
            one is left; else what the finished runs and base models of the grid have recorded is all there is.
        kinds: Of the trial at most; the others are taken to cost as much. None tries all.

    Raises:
        InputError: A directory holds something else, or a trial cannot be carried out.
    """
    burnins = [config for place, config in grid.burnins if not trained(place, config)]
    missing = [spec for spec in grid.runs if not finished(spec)]
    runs = [spec.config for spec in missing]
    rates = Rates()
    for place, _ in grid.burnins:
        if (place / FINAL).exists() and (place / METRICS).exists():
            rates.add_burnin(place)
    for spec in grid.runs:
        if finished(spec):
            rates.add_run(spec.out, spec.config)
    source = f"what {rates.runs} finished runs and their base models took"
    if trial and (tried := _try(rates, burnins[:1], runs, root, kinds)):
        source = f"a trial of {tried}"
    left = f"left to do: {counted(burnins, 'base model')} and {counted(runs, 'run')}"
    later = followers(grid.runs, missing)
    repeated = [spec.config for spec in missing if spec.out in later]
    saved = sum(rates.of_run(config)[0] for config in repeated)
    seconds = sum(map(rates.of_burnin, burnins)) + sum(sum(rates.of_run(config)) for config in runs) - saved
    if repeated:
        steps, every = (sum(config.stream.steps for config in some) for some in (repeated, runs))
        left += f"; {steps} of the {every} steps before triggers are those of another run and are shared"
    if seconds != seconds:
        return f"{left}; what they take is not known before some are finished or tried"
    left += f", which saves {duration(saved)}" if repeated else ""
    return f"{left}; about {duration(seconds)} of one process, by {source}"


def counted(things: Sequence[object], name: str) -> str:
    """Return how many things there are, as in "1 run" or "3 runs"."""
    return f"{len(things)} {name}{'s' * (len(things) != 1)}"


def duration(seconds: float) -> str:
    """Return a time in words, such as "40 s", "12 min" or "3.5 h"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"


def _try(
    rates: Rates, burnins: Sequence[BurninConfig], runs: Sequence[OnlineConfig], root: Path, most: int | None
) -> str:
    """Take in an epoch of the burn-in, if one is given, and a few steps of each kind of run that is not known yet."""
    unknown: Mapping[Kind, OnlineConfig] = {_kind(run): run for run in runs if _kind(run) not in rates.steps}
    chosen = list(unknown.values())[:most]
    with TemporaryDirectory() as folder:
        base = Path(folder) / "base"
        for config in burnins:
            short = replace(config.train, epochs=1, early=None, snapshots=(), patience=None)
            run_burnin(replace(config, train=short), base, resume=False, progress=silent)
            rates.add_burnin(base)
        for number, run in enumerate(chosen):
            start = replace(run.start, checkpoint=str(base / FINAL), reference=None) if burnins else run.start
            stream: Any = replace(run.stream, steps=STEPS, recovery_steps=0)
            tried = replace(run, start=start, stream=stream)
            OnlineRun(tried, root, Path(folder) / str(number), resume=False).run(silent)
            rates.add_run(Path(folder) / str(number), tried)
    parts = ["one epoch"] * bool(burnins)
    each = f"each of {len(chosen)}" if len(chosen) == len(unknown) else f"{len(chosen)} of {len(unknown)}"
    parts += [f"{STEPS} steps and the trigger for {each} kinds of run"] * bool(chosen)
    return ", and of ".join(parts)


def _kind(config: OnlineConfig) -> Kind:
    return config.attack.name, config.defense.name


def _mean(values: Sequence[float]) -> float:
    return fmean(values) if values else float("nan")
