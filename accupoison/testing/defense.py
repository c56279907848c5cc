"""What every defence promises."""

import copy
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from accupoison.defenses import Defense
from accupoison.loop.after_update import Judge, Served
from accupoison.rng import generator
from accupoison.testing.bench import (
    IDS,
    Bench,
    BenchContext,
    Trial,
    check_going_on,
    check_logged,
    check_output,
    check_repeatable,
    expect,
    learn,
    same,
    unchanged,
)
from accupoison.testing.coupling import check_coupling
from accupoison.types import Batch, Grads, ModelView, State, Verdict

Outcome = tuple[Batch, Tensor, Grads, Verdict, Mapping[str, Tensor]]
"""What a defence made of a batch: what the update sees, its losses, its gradients, its verdict, and what is served."""


def check_defense(make: Callable[[], Defense]) -> None:
    """Try a defence on a tiny model of the check's own.

    Every hook must leave the model, its inputs and all global state alone, except that one forward pass in ``losses``
    moves the running statistics; images must stay in [0, 1]; ids must not matter; rows must not depend on each other
    unless ``couples`` is True (see :func:`~accupoison.testing.coupling.check_coupling`; without DP-SGD it may be left
    undeclared), and whoever undoes a step couples; ``losses``, ``gradients`` and ``direct`` must be pure; what is
    ``served`` or amended must have the model's names and shapes; set-up must do with what ``requires`` lists; the same
    seed must give the same output; what :meth:`~accupoison.defenses.Defense.state` returns must be enough to go on
    from; and the ``neutral`` settings must equal standard training bit for bit.

    Args:
        make: Returns a new instance with the settings to be tried.

    Raises:
        AssertionError: A promise was broken; the message says which.
    """
    new = partial(_Trial, make)
    check_repeatable(new)
    _check_relabelling(make)
    _check_trusted_labels(make)
    check_coupling(make)
    for done in (0, 1):
        check_going_on(new, done)
    _Trial(make, bn_mode="eval").play()
    for bn_mode in ("train", "eval"):
        _check_neutral(make, bn_mode)


class _Trial(Trial):
    """One defence at work in a world of its own; every output is checked on the way."""

    def __init__(
        self,
        make: Callable[[], Defense],
        *,
        bn_mode: str = "train",
        rename: Tensor | None = None,
        other_labels: bool = False,
        setup: bool = True,
    ) -> None:
        self.component = self.defense = defense = make()
        self.name = f"defence {type(defense).__name__}"
        self.bench = Bench.make(bn_mode)
        self._judge = Judge(self.bench.learner, defense)
        self._served = Served(self.bench.learner, defense)
        self._rename = rename
        self.reference = self.bench.reference if "snapshot" in defense.requires else None
        trusted = [self._named(batch) for batch in self.bench.trusted]
        if other_labels:
            trusted = [replace(batch, y=batch.y.roll(1)) for batch in trusted]
        self._trusted = trusted if defense.needs_trusted else []
        if setup:
            self._setup()

    def restore(self, state: State) -> None:
        self.defense.restore(state, self.reference)

    def intercept(self, batch: Batch, t: int) -> Batch:
        batch, who = self._named(batch), f"{self.name}.intercept"
        context = self._context(who, "defense", t)
        with self._watch(who, batch):
            seen = self.defense.intercept(self.bench.learner.view(), batch, context)
        check_output(who, seen, context)
        known = torch.isin(seen.ids, batch.ids) | (seen.ids < 0)
        expect(bool(known.all()), f"{who} returned an id that is neither one it received nor negative")
        return seen

    def losses(self, seen: Batch) -> Tensor:
        """Return the losses; the running statistics move as in a training step."""
        learner, who = self.bench.learner, f"{self.name}.losses"
        model, own = learner.state(), copy.deepcopy(self.defense.state())
        once, tracked = self._losses(seen), _tracked(learner.model)
        learner.restore(model)
        expect(same(own, self.defense.state()), f"{who} changed the defence's own state")
        moves = {now - before for now, before in zip(tracked, _tracked(learner.model), strict=True)}
        wanted = int(learner.bn_mode == "train")
        expect(
            moves == {wanted}, f"{who} moved the running statistics {max(moves)} times instead of {wanted} in a step"
        )
        expect(
            once.shape == (len(seen),), f"{who} returned {list(once.shape)}, not one loss for each of {len(seen)} rows"
        )
        expect(once.requires_grad, f"{who} returned losses without a graph, so nothing can be learnt from them")
        expect(bool(once.isfinite().all()), f"{who} returned a loss that is not finite")
        twice = self._losses(seen)
        expect(same(once.detach(), twice.detach()), f"{who} gave two different values on one batch from one state")
        return twice

    def step(self, t: int) -> Outcome | Batch:
        """Return the outcome of one step, or the empty batch if all was rejected."""
        seen, learner = self.intercept(self.bench.batches[t], t), self.bench.learner
        if len(seen) == 0:
            return seen
        losses = self.losses(seen)
        grads, before = torch.autograd.grad(losses.mean(), learner.parameters), self._judge.before()
        passed = self._gradients(grads, t)
        learner.apply(tuple(g.clone() for g in passed), self._directing(t))
        return seen, losses.detach(), passed, self.settle(before, t), self.served()

    def settle(self, before: ModelView | None, t: int) -> Verdict:
        """Return what becomes of a step that has been done, given the model before it."""
        if before is None:
            return Verdict.COMMIT
        self._amend(t)
        who = f"{self.name}.after"
        context = self._context(who, "after", t)
        with self._watch(who, before.state()):
            verdict = self.defense.after(before, self.bench.learner.view(), context)
        expect(isinstance(verdict, Verdict), f"{who} returned {verdict!r}, not a Verdict")
        undone = verdict is not Verdict.COMMIT
        expect(not undone or self.defense.couples is True, f"{who} undid a step, yet `couples` is not True")
        check_logged(who, context)
        self._judge.carry_out(verdict, before)
        return verdict

    def before(self) -> ModelView | None:
        """Return what :meth:`settle` is given."""
        return self._judge.before()

    def served(self) -> Mapping[str, Tensor]:
        """Return the weights and buffers that users meet."""
        who, view = f"{self.name}.served", self.bench.learner.view()
        with self._watch(who):
            served = self.defense.served(view)
        _check_names(who, served, view)
        return self._served.view().state()

    def play(self, first: int = 0) -> list[Outcome | Batch]:
        return [self.step(t) for t in (first, first + 1)]

    def _setup(self) -> None:
        needs = ", ".join(sorted(self.defense.requires)) or "nothing"
        context = self._context(f"{self.name}.setup", "defense-setup", 0)
        try:
            with self._watch(f"{self.name}.setup", *self._trusted):
                self.defense.setup(self.bench.learner.view(), self.reference, self._trusted, context)
        except AssertionError:
            raise
        except Exception as error:
            raise AssertionError(f"{self.name}.setup got what it requires ({needs}) and failed: {error}") from error

    def _losses(self, seen: Batch) -> Tensor:
        learner, who = self.bench.learner, f"{self.name}.losses"
        with learner.forward() as forward, self._watch(who, seen, buffers=learner.bn_mode == "eval"):
            try:
                return self.defense.losses(forward, seen)
            except RuntimeError as error:  # the second tracked forward pass, for one
                raise AssertionError(f"{who} failed: {error}") from error

    def _gradients(self, grads: Grads, t: int) -> Grads:
        momentum, context = self.bench.learner.momentum(), self._context(f"{self.name}.gradients", "update", t)
        return self._twice("gradients", grads, lambda: self.defense.gradients(grads, momentum, context), momentum)

    def _directing(self, t: int) -> Callable[[Grads], Grads] | None:
        direct = self.defense.directing(self.bench.learner.view(), self._context(f"{self.name}.direct", "update", t))
        return None if direct is None else lambda speed: self._twice("direct", speed, lambda: direct(speed))

    def _twice(self, hook: str, grads: Grads, call: Callable[[], Grads], *given: Grads) -> Grads:
        """Return what a pure hook makes of gradients."""
        who, outputs = f"{self.name}.{hook}", []
        for _ in range(2):
            with self._watch(who, grads, *given):
                outputs.append(call())
        expect(same(*outputs), f"{who} gave two different values on one input")
        shapes = [g.shape for g in grads], [g.shape for g in outputs[0]]
        expect(shapes[0] == shapes[1], f"{who} returned other shapes than one gradient a parameter")
        return outputs[0]

    def _amend(self, t: int) -> None:
        who, view = f"{self.name}.amend", self.bench.learner.view()
        context = self._context(who, "after", t)
        with self._watch(who):
            amended = self.defense.amend(view, context)
        _check_names(who, amended, view)
        check_logged(who, context)
        self._judge.amend(context)
        again = {name: tensor for name, tensor in view.state().items() if name in (amended or {})}
        expect(same(dict(amended or {}), again), f"{who} gave two different values on one model")

    def _context(self, who: str, role: str, t: int) -> BenchContext:
        return BenchContext(role, t, "" if "trusted-current" in self.defense.requires else who)

    def _watch(self, who: str, *given: object, buffers: bool = True) -> AbstractContextManager[None]:
        return unchanged(self.bench.learner, who, *given, self.bench.reference.state(), buffers=buffers)

    def _named(self, batch: Batch) -> Batch:
        return batch if self._rename is None else replace(batch, ids=self._rename[batch.ids])


def _check_names(who: str, given: Mapping[str, Tensor] | None, view: ModelView) -> None:
    own = view.state()
    fits = all(name in own and tensor.shape == own[name].shape for name, tensor in (given or {}).items())
    expect(fits, f"{who} returned other names or shapes than those of the model")


def _tracked(model: nn.Module) -> list[int]:
    return [int(b) for name, b in model.named_buffers() if name.endswith("num_batches_tracked")]


def _check_relabelling(make: Callable[[], Defense]) -> None:
    rename = torch.randperm(IDS, generator=generator(0, "rename"))
    plain, renamed = _Trial(make), _Trial(make, rename=rename)
    for a, b in zip(plain.play(), renamed.play(), strict=True):
        seen, other = (o if isinstance(o, Batch) else o[0] for o in (a, b))
        ids = torch.where(seen.ids < 0, seen.ids, rename[seen.ids.clamp(min=0)])
        rest = [[] if isinstance(o, Batch) else o[1:] for o in (a, b)]
        expect(
            same(replace(seen, ids=ids), other) and same(*rest),
            f"{plain.name} treats the same rows differently under other ids",
        )


def _check_trusted_labels(make: Callable[[], Defense]) -> None:
    if not make().needs_trusted or "trusted-labelled" in make().requires:
        return
    trial, other = _Trial(make), _Trial(make, other_labels=True)
    expect(
        same(trial.play(), other.play()),
        f"{trial.name} uses the labels of trusted images, yet requires trusted-unlabelled ones only",
    )


def _check_neutral(make: Callable[[], Defense], bn_mode: str) -> None:
    settings = make().neutral
    if settings is None:
        return
    ours = _Trial(lambda: replace(make(), **settings), bn_mode=bn_mode)
    plain = _Trial(Defense, bn_mode=bn_mode)
    for t in range(3):
        for trial in (ours, plain):
            before = trial.before()
            learn(trial.bench.learner, trial.intercept(trial.bench.batches[t], t), trial.defense, t)
            trial.settle(before, t)
        states = ours.bench.learner.state(), plain.bench.learner.state()
        for part in ("model", "optimizer"):
            expect(
                same(states[0][part], states[1][part]),
                f"{ours.name} at its neutral settings {settings} differs from standard training in the {part} "
                f"after {t + 1} {bn_mode}-mode updates",
            )
        expect(
            same(dict(ours.served()), dict(plain.served())),
            f"{ours.name} at its neutral settings {settings} serves another model than standard training",
        )
