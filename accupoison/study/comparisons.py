"""Paired differences between defences, with what chance alone would do."""

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from accupoison.study.collect import Run
from accupoison.study.groups import DEFENCE, Group, group, settings_but
from accupoison.study.outcomes import FEWEST, Estimate, estimate
from accupoison.study.tables import Row, in_points

EXACT = 2**14
"""Sign patterns that are all tried; of more, as many are drawn."""
CAPTION = f"""\
Accuracy after the trigger of the first defence minus that of the second, in points, where the stream shifts under the
corruption as it is then; paired by base model, seed and images; ± is half a 95% t-interval. p: two-sided sign-flip
permutation test of the mean over base models (over streams where there is one base model), exact up to {EXACT} sign
patterns; least p is the smallest that so few units can give. Holm: the same, corrected for all rows of this table.
Below n = {FEWEST} nothing is tested."""


class Comparison(NamedTuple):
    """Two defences on the same streams under the same attack."""

    first: Group
    second: Group
    trigger: str
    difference: Estimate
    p: float | None


def sign_flip(values: Sequence[float]) -> float | None:
    """Return the two-sided p of a mean of zero under a sign-flip permutation test; None below three values."""
    if len(values) < FEWEST:
        return None
    from scipy.stats import permutation_test  # here, as it takes seconds to load

    found = permutation_test(
        (np.asarray(values),),
        lambda sample, axis: abs(sample.mean(axis=axis)),
        permutation_type="samples",
        vectorized=True,
        n_resamples=EXACT,
        alternative="greater",
        rng=np.random.default_rng(0),
    )
    return float(found.pvalue)


def holm(ps: Sequence[float]) -> list[float]:
    """Return p values corrected for being several (Holm 1979), in the same order."""
    corrected, largest = [0.0] * len(ps), 0.0
    for rank, k in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[k]))
        corrected[k] = largest
    return corrected


def compare(runs: Sequence[Run], trigger: str) -> list[Comparison]:
    """Return every pair of defences under the same attack, on the same stream, with all else equal.

    Args:
        runs: The runs.
        trigger: After which accuracies are compared; runs on clean streams follow the clean trigger.
    """
    alike: dict[str, list[Group]] = {}
    for experiment in group(runs):
        alike.setdefault(settings_but(experiment.first.experiment, *DEFENCE), []).append(experiment)
    return [found for groups in alike.values() for found in _pairs(groups, trigger)]


def _pairs(groups: Sequence[Group], trigger: str) -> Iterator[Comparison]:
    for first, second in combinations(groups, 2):
        ours, theirs = (_accuracies(one, trigger) for one in (first, second))
        shared = [pair for pair in ours if pair in theirs]
        difference = estimate((pair[0], ours[pair] - theirs[pair]) for pair in shared)
        if difference is not None and not first.diverged and not second.diverged:
            followed = first.first.followed(trigger)
            yield Comparison(first, second, followed, difference, sign_flip(difference.values))


def _accuracies(experiment: Group, trigger: str) -> dict[tuple[str, int, str, str], float]:
    values = {run.pair: run.after(run.followed(trigger), run.accuracy_now) for run in experiment.runs}
    return {pair: value for pair, value in values.items() if value is not None}


def comparison_rows(runs: Sequence[Run], trigger: str) -> list[Row]:
    """Return :func:`compare` as rows of a table, the p values corrected by Holm's method over all of them."""
    found = compare(runs, trigger)
    corrected = iter(holm([one.p for one in found if one.p is not None]))
    return [_row(one, None if one.p is None else next(corrected)) for one in found]


def _row(one: Comparison, corrected: float | None) -> Row:
    run, other = one.first.first, one.second.first
    least = 2.0 ** (1 - len(one.difference.values))
    cells = {
        "stream": run.config.stream.kind,
        "attack": run.attack,
        "defence": run.defense,
        "against": other.defense,
        "setting": _differing(one.first.setting, one.second.setting),
        "trigger": one.trigger,
        "difference": in_points(one.difference),
        "p": "not tested" if one.p is None else f"{one.p:.3g}",
        "p, Holm": "not tested" if corrected is None else f"{corrected:.3g}",
        "least p": "" if one.p is None else f"{least:.3g}",
        "n": f"{one.difference.burnins} / {one.difference.runs}",
    }
    return Row(cells, one.first.runs + one.second.runs)


def _differing(first: str, second: str) -> str:
    return first if first == second else f"{first or 'default'} against {second or 'default'}"
