"""What every attack promises."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from accupoison.attacks import Attack, PixelAttack
from accupoison.attacks.planned import PlannedAttack
from accupoison.data.fabricated import FIRST_FABRICATED
from accupoison.defenses import DiscrepancyCorrection
from accupoison.loop.access import KnownDefense, access_for
from accupoison.loop.checks import SLACK
from accupoison.testing.bench import (
    SEED,
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
from accupoison.updates import SGD


def check_attack(make: Callable[[], Attack]) -> None:
    """Try an attack on a tiny model of the check's own.

    Every hook must leave the model, its inputs and all global state alone; the images must stay in [0, 1] and, if the
    attack is ``bounded``, within ``eps`` of the clean ones; labels must stay unless it says that they do not; rows must
    keep their place, and those of its own come after them, under fabricated ids; the same seed must give the same
    output; and what :meth:`~accupoison.attacks.Attack.state` returns must be enough to go on from. At the settings that
    it calls ``neutral``, if it does, batches must stay as they are; what a planned attack plans must not depend on the
    model or on the run.

    Args:
        make: Returns a new instance with the settings to be tried.

    Raises:
        AssertionError: A promise was broken; the message says which.
    """
    for reoptimise in (False, True) if _crafts(make()) else (False,):
        new = partial(_Trial, make, reoptimise=reoptimise)
        check_repeatable(new)
        for poisoned in (0, 1):
            check_going_on(new, poisoned)
    _check_randomness(make)
    _check_no_budget(make)
    _check_neutral(make)
    _check_plan(make)


def known_defense(bench: Bench) -> KnownDefense:
    """Return what an attacker who knows the defence sees of a calibrated DSC."""
    defense = DiscrepancyCorrection(steps=2)
    defense.setup(bench.learner.view(), bench.reference, bench.trusted, BenchContext("known", 0))
    return KnownDefense(bench.learner, defense, bench.reference, SEED, 2)


def _crafts(attack: Attack) -> bool:
    return type(attack).trigger is not Attack.trigger


class _Trial(Trial):
    """One attack at work in a world of its own; every output is checked on the way."""

    def __init__(self, make: Callable[[], Attack], *, reoptimise: bool = False, setup: bool = True) -> None:
        self.component = self.attack = make()
        self.name = f"attack {type(self.attack).__name__}"
        self.bench = bench = Bench.make()
        self.access = access_for(
            self.attack,
            SGD(),
            known_defense(bench),
            val=bench.val,
            trigger=bench.trigger,
            crafted=_crafts(self.attack),
            reoptimise=reoptimise,
            population=bench.population,
        )
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
        """Return two poisoned batches and the trigger, if it makes one, the model learning in between."""
        batches = [self.step(first), self.step(first + 1)]
        return [*batches, *([self.hook("trigger", self.access.trigger, first + 2)] if self.access.crafted else [])]

    def _check_promises(self, hook: str, clean: Batch, sent: Batch) -> None:
        who, attack = f"{self.name}.{hook}", self.attack
        shape, dtype, rows = (sent.x.shape, clean.x.shape), (sent.x.dtype, clean.x.dtype), len(clean)
        fits = shape[0][1:] == shape[1][1:] and (len(sent) == rows if attack.keeps_ids else len(sent) >= rows)
        expect(fits, f"{who} made images {list(shape[0])} of {list(shape[1])}")
        expect(dtype[0] == dtype[1], f"{who} made {dtype[0]} images of {dtype[1]} ones")
        kept = same(sent.y[:rows], clean.y)
        expect(not attack.keeps_labels or kept, f"{who} changed a label, yet keeps_labels is True")
        expect(same(sent.ids[:rows], clean.ids), f"{who} changed the id or the place of a row")
        made = bool((sent.ids[rows:] <= -FIRST_FABRICATED).all())
        expect(made, f"{who} added rows whose ids are not those of accupoison.data.fabricated.fabricated_id")
        sent = sent.rows(slice(0, rows))
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


def _check_neutral(make: Callable[[], Attack]) -> None:
    neutral = getattr(make(), "neutral", None)
    if neutral is None:
        return
    trial = _Trial(lambda: replace(make(), **neutral))
    for t, clean in enumerate(trial.bench.batches):
        sent = trial.hook("poison", clean, t)
        expect(same(sent, clean), f"{trial.name} changed a batch at its neutral settings {neutral}")


def _check_plan(make: Callable[[], Attack]) -> None:
    if not isinstance(make(), PlannedAttack):
        return
    plans = []
    for role in ("one", "another"):
        attack, bench = make(), Bench.make()
        if role == "another" and not attack.sees_model:
            learn(bench.learner, bench.batches[0])
        access = Access(bench.val, bench.trigger, crafted=False, reoptimise=False, population=bench.population)
        assert isinstance(attack, PlannedAttack)
        attack.setup(bench.learner.view(), access, BenchContext(role, 0))
        plans.append([attack.changed_ids, attack.changed_y, attack.own_ids, attack.own_y, attack.own_steps])
    expect(same(*plans), f"attack {type(make()).__name__} plans otherwise in another run, so its replays would differ")
