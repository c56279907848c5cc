"""What a grid claims, one trigger does more harm than another, and what its runs say of it."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from accupoison.errors import InputError
from accupoison.records.files import directory_name
from accupoison.study.collect import Run
from accupoison.study.outcomes import Estimate, estimate, trigger_effect
from accupoison.study.tables import Row, in_points

Treatment = tuple[str, str]
"""Experiment and trigger."""


@dataclass(frozen=True)
class Claim:
    """One trigger does more harm than another.

    Attributes:
        text: The claim in words.
        more: Experiment and trigger that should have the larger effect.
        less: Those that should have the smaller one; None compares with no effect at all.
    """

    text: str
    more: Treatment
    less: Treatment | None


def read_claims(grid: Mapping[str, Any]) -> list[Claim]:
    """Return the ``[[claims]]`` of a grid: ``text``, ``more = [EXPERIMENT, TRIGGER]`` and, unless zero, ``less``.

    Raises:
        InputError: There are none, or one is not of this form.
    """
    entries, claims = grid.get("claims", []), []
    if not isinstance(entries, list):
        raise InputError(
            f"claims = {entries!r} is not a list of tables; write [[claims]], with two brackets, before each"
        )
    for entry in entries:
        try:
            less = entry.get("less")
            claims.append(
                Claim(str(entry["text"]), _treatment(entry["more"]), None if less is None else _treatment(less))
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"the claim {entry!r} is not of the form text = ..., more = [EXPERIMENT, TRIGGER], less = [...]"
            ) from error
    if not claims:
        raise InputError("the grid has no [[claims]]; add some, with text, more and less")
    return claims


def _treatment(value: Sequence[str]) -> Treatment:
    experiment, trigger = map(str, value)
    return directory_name(experiment), trigger


Replicate = tuple[str, int]
"""Base model and seed."""
Effects = dict[Replicate, tuple[float, float, float]]
"""Trigger effect net of the coast step, drop, and minus the accuracy after the trigger, by pair."""
REPLICATE = re.compile(r"-b-?\d+-s-?\d+$")
"""What a sweep adds to the name of an experiment: base model and seed."""


def claims_rows(claims: Sequence[Claim], runs: Sequence[Run]) -> list[Row]:
    """Return one row a claim: both trigger effects net of the coast step, and three paired differences with verdicts.

    The first difference is that of the effects: what the trigger does, and nothing else. The second is that of the
    drops as papers report them, accuracy before the trigger minus accuracy after it, in which the momentum of the steps
    before counts as the trigger's. The third is that of the accuracies after the trigger: all harm, the accumulation's
    too. A claim holds if the 95% t-interval over base models lies above zero; it fails if it lies below.

    Raises:
        InputError: The runs of a claim are not there, or two runs would serve for one.
    """
    effects: dict[Treatment, Effects] = {}
    sources: dict[Treatment, list[Run]] = {}
    for run in runs:
        name = REPLICATE.sub("", run.path.name)
        for trigger in run.config.trigger.types:
            effect, after = trigger_effect(run, trigger), run.after(trigger)
            if effect is not None and after is not None:
                drop, pair = float(run.summary["before"]["acc"]) - after, (run.burnin, run.config.run.seed)
                if pair in effects.setdefault((name, trigger), {}):
                    raise InputError(f"{run.path} and another run are both {name} on the same stream; report one sweep")
                effects[name, trigger][pair] = effect, drop, -after
                sources.setdefault((name, trigger), []).append(run)
    header = ["claim", "trigger effect", "against", "net of coast", "drop", "accuracy after", "n"]
    rows = [(claim, dict(zip(header, _row(claim, effects), strict=True))) for claim in claims]
    return [
        Row(cells, tuple(sources[claim.more] + (sources[claim.less] if claim.less else []))) for claim, cells in rows
    ]


def _row(claim: Claim, effects: Mapping[Treatment, Effects]) -> list[str]:
    for treatment in (claim.more, claim.less):
        if treatment is not None and treatment not in effects:
            raise InputError(
                f"no run of {treatment[0]} with the triggers {treatment[1]} and coast has ended; sweep the grid"
            )
    more = effects[claim.more]
    less = dict.fromkeys(more, (0.0, 0.0, 0.0)) if claim.less is None else effects[claim.less]
    pairs = sorted(set(more) & set(less))

    def over(value: Callable[[Replicate], float]) -> Estimate | None:
        return estimate((pair[0], value(pair)) for pair in pairs)

    differences = [over(lambda pair, k=k: more[pair][k] - less[pair][k]) for k in range(3)]  # type: ignore[misc]
    effect = differences[0]
    against = "0" if claim.less is None else in_points(over(lambda pair: less[pair][0]))
    judged = [f"{in_points(difference)} {verdict(difference)}".strip() for difference in differences]
    if claim.less is None:
        judged[2] = ""  # an accuracy alone is no difference
    count = "" if effect is None else f"{effect.burnins} / {effect.runs}"
    return [claim.text, in_points(over(lambda pair: more[pair][0])), against, *judged, count]


def verdict(difference: Estimate | None) -> str:
    """Return what an interval says of the claim that the true value is above zero."""
    if difference is None or not difference.half >= 0:
        return "not tested"
    if difference.mean - difference.half > 0:
        return "holds"
    return "fails" if difference.mean + difference.half < 0 else "not shown"
