"""What every attack promises."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from accupoison.attacks import Attack, PixelAttack
from accupoison.loop.checks import SLACK
from accupoison.testing.bench import (
    Bench,
    BenchContext,
    Trial,
    check_going_on,
    check_output,
    check_repeatable,
    expect,
    learn,
    same,
    unchanged,
)
from accupoison.types import Access, Batch, State


def check_attack(make: Callable[[], Attack]) -> None:
    """Try an attack on a tiny model of the check's own.

    Every hook must leave the model, its inputs and all global state alone; the images must stay in [0, 1] and, if the
    attack is ``bounded``, within ``eps`` of the clean ones; labels and ids must stay unless it says that they do not;
    the same seed must give the same output; and what :meth:`~accupoison.attacks.Attack.state` returns must be enough
    to go on from.

    Args:
        make: Returns a new instance with the settings to be tried.

    Raises:
        AssertionError: A promise was broken; the message says which.
    """
    for reoptimise in (False, True):
        new = partial(_Trial, make, reoptimise=reoptimise)
        check_repeatable(new)
        for poisoned in (0, 1):
            check_going_on(new, poisoned)
    _check_randomness(make)
    _check_no_budget(make)


class _Trial(Trial):
    """One attack at work in a world of its own; every output is checked on the way."""

    def __init__(self, make: Callable[[], Attack], *, reoptimise: bool = False, setup: bool = True) -> None:
        self.component = self.attack = make()
        self.name = f"attack {type(self.attack).__name__}"
        self.bench = bench = Bench.make()
        preview = bench.learner.preview
        self.access = Access(val=bench.val, trigger=bench.trigger, crafted=True, reoptimise=reoptimise, preview=preview)
        self.context = BenchContext("attack-setup", 0)
        if setup:
            with unchanged(bench.learner, f"{self.name}.setup", self.access.val, self.access.trigger):
                self.attack.setup(bench.learner.view(), self.access, self.context)

    def hook(self, hook: str, clean: Batch, t: int) -> Batch:
        self.context, learner = BenchContext("attack", t), self.bench.learner
        with unchanged(learner, f"{self.name}.{hook}", clean, self.access.val, self.access.trigger):
            sent: Batch = getattr(self.attack, hook)(learner.view(), clean, self.context)
        check_output(f"{self.name}.{hook}", sent, self.context)
        self._check_promises(hook, clean, sent)
        return sent

    def restore(self, state: State) -> None:
        self.attack.restore(state, self.access)

    def step(self, t: int) -> Batch:
        sent = self.hook("poison", self.bench.batches[t], t)
        learn(self.bench.learner, sent)
        return sent

    def play(self, first: int = 0) -> list[Batch]:
        """Return two poisoned batches and the trigger, the model learning in between."""
        return [self.step(first), self.step(first + 1), self.hook("trigger", self.access.trigger, first + 2)]

    def _check_promises(self, hook: str, clean: Batch, sent: Batch) -> None:
        who, attack = f"{self.name}.{hook}", self.attack
        shape, dtype = (sent.x.shape, clean.x.shape), (sent.x.dtype, clean.x.dtype)
        expect(shape[0] == shape[1], f"{who} made images {list(shape[0])} of {list(shape[1])}")
        expect(dtype[0] == dtype[1], f"{who} made {dtype[0]} images of {dtype[1]} ones")
        expect(not attack.keeps_labels or same(sent.y, clean.y), f"{who} changed a label, yet keeps_labels is True")
        expect(not attack.keeps_ids or same(sent.ids, clean.ids), f"{who} changed an id, yet keeps_ids is True")
        if (budget := attack.budget(trigger=hook == "trigger")) is not None:
            distance = float((sent.x - clean.x).abs().max())
            expect(
                distance <= budget + SLACK, f"{who} moved a pixel by {distance:.4g}, over its budget of {budget:.4g}"
            )


def _check_randomness(make: Callable[[], Attack]) -> None:
    first = _Trial(make)
    outputs, contexts = [], []
    for t in range(4):
        trial = _Trial(make, setup=False)
        trial.restore(first.attack.state())
        outputs.append(trial.hook("poison", trial.bench.batches[0], t))
        contexts.append(trial.context)
    alike = all(same(output, outputs[0]) for output in outputs)
    if not any(context.asked_rng or context.asked_t for context in contexts):
        expect(alike, f"{first.name}.poison differs from step to step, yet asks for neither ctx.rng nor ctx.t")
    elif all(context.asked_rng for context in contexts) and not same(outputs[0], first.bench.batches[0]):
        expect(not alike, f"{first.name}.poison asks for ctx.rng, yet returns the same at every step")


def _check_no_budget(make: Callable[[], Attack]) -> None:
    attack = make()
    if not isinstance(attack, PixelAttack) or not attack.bounded:
        return
    trial = _Trial(lambda: replace(attack, eps=0.0), reoptimise=True)
    for sent, clean in zip(trial.play(), (*trial.bench.batches[:2], trial.bench.trigger), strict=True):
        expect(same(sent.x, clean.x), f"{trial.name} changed an image with eps 0")
