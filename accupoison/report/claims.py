"""Claims about triggers, held to paired differences of their effects."""

import re
from collections.abc import Callable, Mapping, Sequence

from accupoison.claims import Claim, Outcome
from accupoison.errors import InputError
from accupoison.report.collect import Run
from accupoison.report.outcomes import Estimate, estimate, trigger_effect
from accupoison.report.table import in_points, markdown

Pair = tuple[str, int]
"""Base model and seed."""
Effects = dict[Pair, tuple[float, float]]
"""Trigger effect net of the coast step, and drop, by pair."""
REPLICATE = re.compile(r"-b-?\d+-s-?\d+$")
"""What a sweep adds to the name of an experiment: base model and seed."""


def claims_table(claims: Sequence[Claim], runs: Sequence[Run]) -> str:
    """Return one row a claim: both trigger effects net of the coast step, their paired difference, and the verdict.

    A claim holds if the 95% t-interval of the difference, over base models, lies above zero; it fails if it lies below.
    Beside it the same for the drop as papers report it, accuracy before the trigger minus accuracy after it, in which
    the momentum of the steps before counts as the trigger's.

    Raises:
        InputError: The runs of a claim are not there.
    """
    found: dict[Outcome, Effects] = {}
    for run in runs:
        name = REPLICATE.sub("", run.path.name)
        for trigger in run.config.trigger.deliver:
            effect, after = trigger_effect(run, trigger), run.after(trigger)
            if effect is not None and after is not None:
                drop, pair = float(run.summary["before"]["acc"]) - after, (run.burnin, run.config.run.seed)
                if pair in found.setdefault((name, trigger), {}):
                    raise InputError(f"{run.path} and another run are both {name} on the same stream; report one sweep")
                found[name, trigger][pair] = effect, drop
    header = [
        "claim",
        "trigger effect",
        "against",
        "difference",
        "n",
        "verdict",
        "difference of drops",
        "verdict on drops",
    ]
    return markdown(header, [_row(claim, found) for claim in claims])


def _row(claim: Claim, found: Mapping[Outcome, Effects]) -> list[str]:
    for outcome in (claim.more, claim.less):
        if outcome is not None and outcome not in found:
            raise InputError(
                f"no run of {outcome[0]} with the triggers {outcome[1]} and coast has ended; sweep the grid"
            )
    more = found[claim.more]
    less = dict.fromkeys(more, (0.0, 0.0)) if claim.less is None else found[claim.less]
    pairs = sorted(set(more) & set(less))

    def over(value: Callable[[Pair], float]) -> Estimate | None:
        return estimate((pair[0], value(pair)) for pair in pairs)

    effect, drop = (over(lambda pair, k=k: more[pair][k] - less[pair][k]) for k in (0, 1))  # type: ignore[misc]
    against = "0" if claim.less is None else in_points(over(lambda pair: less[pair][0]))
    count = "" if effect is None else f"{effect.burnins} / {effect.runs}"
    shown = [in_points(over(lambda pair: more[pair][0])), against, in_points(effect), count, verdict(effect)]
    return [claim.text, *shown, in_points(drop), verdict(drop)]


def verdict(difference: Estimate | None) -> str:
    """Return what an interval says of the claim that the true value is above zero."""
    if difference is None or not difference.half >= 0:
        return "not tested"
    if difference.mean - difference.half > 0:
        return "holds"
    return "fails" if difference.mean + difference.half < 0 else "not shown"
