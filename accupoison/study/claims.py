"""What a grid claims: one trigger does more harm than another."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from accupoison.errors import InputError
from accupoison.records.files import directory_name

Outcome = tuple[str, str]
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
    more: Outcome
    less: Outcome | None


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
            claims.append(Claim(str(entry["text"]), _outcome(entry["more"]), None if less is None else _outcome(less)))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"the claim {entry!r} is not of the form text = ..., more = [EXPERIMENT, TRIGGER], less = [...]"
            ) from error
    if not claims:
        raise InputError("the grid has no [[claims]]; add some, with text, more and less")
    return claims


def _outcome(value: Sequence[str]) -> Outcome:
    experiment, trigger = map(str, value)
    return directory_name(experiment), trigger
