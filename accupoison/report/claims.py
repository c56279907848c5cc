"""Claims about triggers, held to paired differences of their effects."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from accupoison.errors import InputError
from accupoison.report.collect import Run
from accupoison.report.outcomes import Estimate, estimate, trigger_effect
from accupoison.report.table import in_points, markdown

REPLICATE = re.compile(r"-b-?\d+-s-?\d+$")
"""What a sweep adds to the name of an experiment: base model and seed."""


@dataclass(frozen=True)
class Claim:
    """One trigger does more harm than another.

    Attributes:
        text: The claim in words.
        more: Experiment and trigger that should have the larger effect.
        less: Those that should have the smaller one; None compares with no effect at all.
    """

    text: str
    more: tuple[str, str]
    less: tuple[str, str] | None


def read_claims(grid: Mapping[str, Any]) -> list[Claim]:
    """Return the ``[[claims]]`` of a grid: ``text``, ``more = [EXPERIMENT, TRIGGER]`` and, unless zero, ``less``.

    Raises:
        InputError: There are none, or one is not of this form.
    """
    claims = []
    for entry in grid.get("claims", []):
        try:
            less = entry.get("less")
            claims.append(Claim(str(entry["text"]), _outcome(entry["more"]), None if less is None else _outcome(less)))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"the claim {entry!r} is not of the form text = ..., more = [EXPERIMENT, TRIGGER], less = [...]"
            ) from error
    if not claims:
        raise InputError("the grid has no [[claims]]; add some, with text, more and less")
    return claims


def _outcome(value: Sequence[str]) -> tuple[str, str]:
    experiment, trigger = map(str, value)
    return re.sub(r"[^A-Za-z0-9.]+", "-", experiment), trigger


def claims_table(claims: Sequence[Claim], runs: Sequence[Run]) -> str:
    """Return one row a claim: both trigger effects net of the coast step, their paired difference, and the verdict.

    A claim holds if the 95% t-interval of the difference, over base models, lies above zero; it fails if it lies below.

    Raises:
        InputError: The runs of a claim are not there.
    """
    effects: dict[tuple[str, str], dict[tuple[str, int], float]] = {}
    for run in runs:
        name = REPLICATE.sub("", run.path.name)
        for trigger in run.config.trigger.deliver:
            if (effect := trigger_effect(run, trigger)) is not None:
                effects.setdefault((name, trigger), {})[run.burnin, run.config.run.seed] = effect
    rows = [_row(claim, effects) for claim in claims]
    return markdown(["claim", "trigger effect", "against", "difference", "n", "verdict"], rows)


def _row(claim: Claim, effects: Mapping[tuple[str, str], Mapping[tuple[str, int], float]]) -> list[str]:
    for outcome in (claim.more, claim.less):
        if outcome is not None and outcome not in effects:
            raise InputError(
                f"no run of {outcome[0]} with the triggers {outcome[1]} and coast has ended; sweep the grid"
            )
    more = effects[claim.more]
    less = dict.fromkeys(more, 0.0) if claim.less is None else effects[claim.less]
    pairs = sorted(set(more) & set(less))
    found = [estimate((pair[0], side[pair]) for pair in pairs) for side in (more, less)]
    difference = estimate((pair[0], more[pair] - less[pair]) for pair in pairs)
    against = "0" if claim.less is None else in_points(found[1])
    count = "" if difference is None else f"{difference.burnins} / {difference.runs}"
    return [claim.text, in_points(found[0]), against, in_points(difference), count, verdict(difference)]


def verdict(difference: Estimate | None) -> str:
    """Return what an interval says of the claim that the true value is above zero."""
    if difference is None or not difference.half >= 0:
        return "not tested"
    if difference.mean - difference.half > 0:
        return "holds"
    return "fails" if difference.mean + difference.half < 0 else "not shown"
