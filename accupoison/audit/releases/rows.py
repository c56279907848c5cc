"""What is judged: releases by name and budget, fitted and asked together where they share a search."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from accupoison.audit.releases.settings import StudySettings
from accupoison.config.releases import parse_release
from accupoison.loop.context import StepContext
from accupoison.release import Release
from accupoison.release.memguard import MemGuard
from accupoison.types import Batch, ModelView, State

UNDEFENDED = "identity"


@dataclass(frozen=True)
class Row:
    """One release that is judged.

    Attributes:
        name: As ``--release`` takes it, such as "defenmi:budget=0.5".
        family: The same without the budget.
        budget: Its bound on the l1 change; None where it has none.
        release: The release, not fitted.
    """

    name: str
    family: str
    budget: float | None
    release: Release

    @property
    def fitted_as(self) -> str:
        """What it is fitted under: budgets of one defence share classifier and search."""
        return self.family if isinstance(self.release, MemGuard) else self.name


def rows_of(study: StudySettings) -> list[Row]:
    """Return the undefended answers and all releases, each at its budgets.

    Raises:
        InputError: A release is unknown, or its settings are.
    """
    found = [Row(UNDEFENDED, UNDEFENDED, None, parse_release(UNDEFENDED))]
    for text in study.releases:
        release = parse_release(text)
        if "budget" not in release.settings or "budget=" in text:
            found.append(Row(text, text, release.settings.get("budget"), release))
            continue
        for budget in study.budgets:
            name = f"{text}{',' if ':' in text else ':'}budget={budget:g}"
            found.append(Row(name, text, budget, parse_release(name)))
    return list({row.name: row for row in found}.values())


def fit(rows: Sequence[Row], view: ModelView, members: Batch, nonmembers: Batch, seed: int) -> dict[str, State]:
    """Return the states of the fitted releases, by :attr:`Row.fitted_as`.

    Args:
        rows: What is judged.
        view: The model that answers.
        members: Samples that it was trained on [M, ...].
        nonmembers: Samples that it was not trained on [N, ...].
        seed: Of all randomness.
    """
    states: dict[str, State] = {}
    for row in rows:
        if row.fitted_as not in states:
            release = row.release.fresh()
            release.fit(view, members, nonmembers, StepContext(seed, f"release/{row.fitted_as}", 0, {}))
            states[row.fitted_as] = release.state()
    return states


def answers(
    rows: Sequence[Row], states: Mapping[str, State], view: ModelView, batch: Batch
) -> Iterator[tuple[Row, NDArray[np.float64], float]]:
    """Yield each release's answers, float64 [N, C], with the seconds that a query took it, the model's included.

    Args:
        rows: What is judged.
        states: Of :func:`fit`.
        view: The model that answers.
        batch: The queries, N rows.
    """
    searches: dict[str, tuple[torch.Tensor, torch.Tensor, float]] = {}
    for row in rows:
        release = row.release.fresh()
        release.set_state(states[row.fitted_as])
        spent, started = 0.0, time.perf_counter()
        if isinstance(release, MemGuard) and release.budget:
            if row.family not in searches:
                found = release.candidates(view, batch.x, batch.ids)
                searches[row.family] = (*found, time.perf_counter() - started)
                started = time.perf_counter()
            probs, noisy, spent = searches[row.family]
            released = release.decide(probs, noisy, batch.ids)
        else:
            released = release(view, batch.x, batch.ids)
        seconds = spent + time.perf_counter() - started
        yield row, released.cpu().double().numpy(), seconds / len(batch)
