"""What a set of runs says, with its uncertainty."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from accupoison.errors import InputError
from accupoison.study.collect import Run

Pair = tuple[str, int, str, str]
"""See :attr:`accupoison.study.collect.Run.pair`."""
FEWEST = 3
"""Units from which an interval is given; of fewer, the values themselves say more."""


@dataclass(frozen=True)
class Estimate:
    """A mean with a 95% t-interval.

    Attributes:
        mean: The mean.
        half: Half the width of the interval; NaN below :data:`FEWEST` units.
        burnins: Base models behind it.
        runs: Runs behind it.
        over: The interval's unit of replication: "burn-ins", or "streams" where there is only one base model, and the
            interval then says nothing of other base models.
        values: What the mean is over, a number a unit.
    """

    mean: float
    half: float
    burnins: int
    runs: int
    over: str
    values: tuple[float, ...] = ()

    def text(self, digits: int, scale: float = 1) -> str:
        """Return it for people: mean and interval, or the values themselves (once, if they are alike) below three.

        Args:
            digits: After the point.
            scale: What to multiply by: 100 makes points of fractions.
        """
        if not math.isfinite(self.half) and 1 < len(self.values) < FEWEST:
            return ", ".join(dict.fromkeys(f"{scale * value:.{digits}f}" for value in self.values))
        exact = not self.half > 1e-12 or math.isnan(self.mean)  # units that are all alike, but for rounding
        interval = "" if exact else f" ± {scale * self.half:.{digits}f}"
        return f"{scale * self.mean:.{digits}f}{interval}"


@np.errstate(all="ignore")
def estimate(values: Iterable[tuple[str, float | None]]) -> Estimate | None:
    """Return the estimate from (base model, value) pairs, or None without any value.

    Values of one base model are averaged first: streams from the same weights are not independent replications.
    """
    groups: defaultdict[str, list[float]] = defaultdict(list)
    for burnin, value in values:
        if value is not None:
            groups[burnin].append(value)
    if not groups:
        return None
    several = len(groups) > 1
    units = [float(np.mean(group)) for group in groups.values()] if several else next(iter(groups.values()))
    return Estimate(
        float(np.mean(units)),
        half_width(units) if len(units) >= FEWEST else math.nan,
        len(groups),
        sum(len(group) for group in groups.values()),
        "burn-ins" if several else "streams",
        tuple(units),
    )


def half_width(values: Sequence[float]) -> float:
    """Return half the width of the 95% t-interval of the mean; NaN from fewer than two values."""
    return t_quantile(len(values) - 1) * standard_error(values) if len(values) > 1 else math.nan


def t_quantile(freedom: int, share: float = 0.975) -> float:
    """Return the t that ``share`` of Student's distribution lies below: :mod:`scipy.stats` takes seconds to load."""
    return float(stdtrit(freedom, share))


def one_sided(value: Estimate) -> tuple[float, float]:
    """Return the lower and the upper one-sided 95% bound of a mean; infinite below :data:`FEWEST` units."""
    if len(value.values) < FEWEST:
        return -math.inf, math.inf
    slack = t_quantile(len(value.values) - 1, 0.95) * standard_error(value.values)
    return value.mean - slack, value.mean + slack


def standard_error(values: Sequence[float] | NDArray[np.float64]) -> float:
    """Return the standard error of the mean of two values or more."""
    return float(np.std(values, ddof=1) / math.sqrt(len(values)))


def yardstick(runs: Sequence[Run]) -> dict[Pair, Run]:
    """Return, by pair, standard training on the clean stream with a clean trigger: what every harm is measured from.

    Raises:
        InputError: Two runs that differ would serve for one pair.
    """
    controls: dict[Pair, Run] = {}
    for run in runs:
        if run.config.attack.name == "none" and run.defense == "ST" and run.after("clean") is not None:
            other = controls.setdefault(run.pair, run)
            if other.after("clean") != run.after("clean"):
                raise InputError(f"{other.path} and {run.path} are both the clean control; report them separately")
    return controls


def harm(run: Run, trigger: str, clean: Mapping[Pair, Run], key: str = "acc") -> float | None:
    """Return H = A(ST, clean stream, clean trigger) - A(this run), after the trigger and on the same images.

    Args:
        run: The run.
        trigger: The trigger.
        clean: The control of each pair.
        key: Which accuracy.
    """
    control = clean.get(run.pair)
    undisturbed = None if control is None else control.after("clean", key)
    here = run.after(trigger, key)
    return None if undisturbed is None or here is None else undisturbed - here


def trigger_effect(run: Run, trigger: str) -> float | None:
    """Return A(coast) - A(trigger) from the same state: what the trigger does beyond momentum and weight decay."""
    coast, here = run.after("coast"), run.after(trigger)
    return None if coast is None or here is None else coast - here


LEAST_GAIN = 0.01
"""What standard training must gain over FREEZE for the share that a defence keeps of it to mean something."""


@np.errstate(all="ignore")
def retention(
    defended: Mapping[Pair, float], frozen: Mapping[Pair, float], standard: Mapping[Pair, float]
) -> Estimate | None:
    """Return R = (A_defence - A_freeze) / (A_ST - A_freeze) from accuracies by pair, with a jackknife interval.

    The unit is the base model, or the stream where there is one base model. None, withheld, where learning is not worth
    two standard errors, A_ST - A_freeze being then not told from zero, or not :data:`LEAST_GAIN`.

    Args:
        defended: A_defence by pair, in [0, 1].
        frozen: A_freeze by pair.
        standard: A_ST by pair.
    """
    pairs = sorted(set(defended) & set(frozen) & set(standard))
    several = len({pair[0] for pair in pairs}) > 1
    units: defaultdict[Any, list[tuple[float, float]]] = defaultdict(list)
    for pair in pairs:
        gains = (defended[pair] - frozen[pair], standard[pair] - frozen[pair])
        units[pair[0] if several else pair].append(gains)
    means = np.array([np.mean(values, axis=0) for values in units.values()])
    if len(means) < 2 or means[:, 1].mean() < max(LEAST_GAIN, 2 * standard_error(means[:, 1])):
        return None
    retained, gain = means.sum(axis=0)
    without = [(retained - k) / (gain - g) for k, g in means]
    spread = np.sqrt((len(means) - 1) * np.var(without))
    half = t_quantile(len(means) - 1) * float(spread) if len(means) >= FEWEST else math.nan
    models = len({pair[0] for pair in pairs})
    each = tuple(float(kept / learnt) for kept, learnt in means)
    return Estimate(float(retained / gain), half, models, len(pairs), "burn-ins" if several else "streams", each)
