"""What every release promises."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from accupoison.release import Identity, Release
from accupoison.release.base import MEMBERS
from accupoison.rng import generator, global_seed
from accupoison.testing.bench import SEED, Bench, BenchContext, check_state, expect, same, unchanged
from accupoison.types import Batch

SUM = 1e-6
"""How far from 1 a row's probabilities may sum to."""
NEAR = 1e-4
"""How far apart answers to a query may be that comes alone or with others: the model's logits are rounded otherwise."""
SHARPER = 8.0
"""How much surer of itself the model is made: its answers reach from undecided to certain."""
KNOWN = 3
"""Batches that the defender knows for members, and as many for others."""


def check_release(make: Callable[[], Release]) -> None:
    """Try a release on a tiny model of the check's own.

    Answers must be probabilities, one row a query, that sum to 1; keep the label where ``keeps_label`` says so; and be
    the model's own, bit for bit, at the ``neutral`` settings. The same query must get the same answer whenever it is
    asked, and whoever else asks; the same seed must give the same answers. ``fit`` must do with what ``requires``
    lists. No hook may change the model, its inputs or anything global, nor asking what the release has learnt; and what
    :meth:`~accupoison.release.Release.state` returns must be enough to go on from.

    Args:
        make: Returns a new instance with the settings to be tried.

    Raises:
        AssertionError: A promise was broken; the message says which.
    """
    trial = _Trial(make())
    answers = trial.ask()
    _check_answers(trial, answers)
    with torch.no_grad():  # as evaluations ask
        again = trial.ask()
    expect(same(again, answers), f"{trial.name} gave two different answers to a query that was asked twice")
    for how, rows, others in _companies(len(trial.queries)):
        found = trial.ask(rows, others)[: len(rows)]
        near = found.shape == answers[rows].shape and torch.allclose(found, answers[rows], rtol=0, atol=NEAR)
        expect(near, f"{trial.name} lets rows depend on each other: {how} got another answer")
    _check_repeatable(make, answers)
    _check_going_on(make, trial, answers)
    _check_neutral(make)


class _Trial:
    """One release at work in a world of its own."""

    def __init__(self, release: Release, *, fit: bool = True) -> None:
        self.release = release
        self.name = f"release {type(release).__name__}"
        self.bench = Bench.make("eval", SHARPER)
        self.queries = Batch.concat(self.bench.batches)
        if fit:
            self._fit()

    def ask(self, rows: Tensor | None = None, others: Batch | None = None) -> Tensor:
        """Return the answers to some of the queries, and to others that come after them; nothing may change by it."""
        batch = self.queries if rows is None else self.queries.rows(rows)
        batch = batch if others is None else Batch.concat([batch, others])
        view, learnt = self.bench.learner.view(), self.release.state()
        with unchanged(self.bench.learner, f"{self.name}.__call__", batch):
            try:
                answers = self.release(view, batch.x, batch.ids)
            except RuntimeError as error:  # of a gradient, for one
                raise AssertionError(f"{self.name} cannot answer: {error}") from error
        expect(same(learnt, self.release.state()), f"{self.name} changed its own state when it was asked")
        return answers

    def _fit(self) -> None:
        known = Batch.concat([*self.bench.batches[:KNOWN], *self.bench.trusted[:KNOWN]])
        half = len(known) // 2 if MEMBERS in self.release.requires else 0
        members, others = known.rows(slice(0, half)), known.rows(slice(len(known) - half, len(known)))
        needs = ", ".join(sorted(self.release.requires)) or "nothing"
        with unchanged(self.bench.learner, f"{self.name}.fit", members, others):
            try:
                self.release.fit(self.bench.learner.view(), members, others, BenchContext("release", 0))
            except Exception as error:
                raise AssertionError(f"{self.name}.fit got what it requires ({needs}) and failed: {error}") from error


def _check_answers(trial: _Trial, answers: Tensor) -> None:
    name, queries = trial.name, trial.queries
    with torch.no_grad():
        own = trial.bench.learner.view().frozen()(queries.x)
    expect(isinstance(answers, Tensor) and answers.is_floating_point(), f"{name} returned no floating-point tensor")
    expect(
        answers.shape == own.shape,
        f"{name} returned {list(answers.shape)} and not one row of {list(own.shape)} a query",
    )
    expect(not answers.requires_grad, f"{name} returned answers that carry a graph, by which an attacker could descend")
    expect(bool(((answers >= 0) & (answers <= 1)).all()), f"{name} returned probabilities outside [0, 1]")
    off = float((answers.sum(dim=1) - 1).abs().max())
    expect(off <= SUM, f"{name} returned probabilities that do not sum to 1 (off by {off:.2g})")
    if trial.release.keeps_label:
        kept = answers.argmax(dim=1) == own.argmax(dim=1)
        expect(
            bool(kept.all()),
            f"{name} changed {int((~kept).sum())} of {len(kept)} labels, yet says that it keeps them; declare "
            "keeps_label = False",
        )


def _companies(count: int) -> Iterator[tuple[str, Tensor, Batch | None]]:
    """Yield in what company queries come: which of them, in which order, and others after them."""
    every = torch.arange(count)
    for row in (0, count // 2, count - 1):
        yield "one query alone", every[row : row + 1], None
    yield "queries in reverse", every.flip(0), None
    yield "queries shuffled", torch.randperm(count, generator=generator(SEED, "company")), None
    yield "every second query", every[1::2], None
    more = Batch.concat(Bench.make().trusted)
    yield "queries among others", every[: count // 2], more
    yield "one query among white images", every[:1], more.with_x(torch.ones_like(more.x))
    yield "a query that came twice in one batch", every[:4].repeat(2), None


def _check_repeatable(make: Callable[[], Release], answers: Tensor) -> None:
    for seed in (1, 2):  # of the global generators, which must not matter
        with global_seed(seed):
            trial = _Trial(make())
            expect(
                same(trial.ask(), answers),
                f"{trial.name} gave two different answers from one seed; draw from ctx.rng alone, in fit",
            )


def _check_going_on(make: Callable[[], Release], trial: _Trial, answers: Tensor) -> None:
    state = trial.release.state()
    check_state(trial.name, state)
    fresh = _Trial(make(), fit=False)
    fresh.release.set_state(state)
    try:
        found = fresh.ask()
    except Exception as error:
        raise AssertionError(
            f"{trial.name} cannot answer after state() was restored into a fresh one: {error}"
        ) from error
    expect(same(found, answers), f"{trial.name} answered differently after state() was restored into a fresh one")


def _check_neutral(make: Callable[[], Release]) -> None:
    settings = make().neutral
    if settings is None:
        return
    ours, plain = _Trial(replace(make(), **settings)), _Trial(Identity())
    expect(
        same(ours.ask(), plain.ask()),
        f"{ours.name} at its neutral settings {settings} changes what the model says",
    )
