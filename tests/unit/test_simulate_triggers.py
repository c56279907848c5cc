"""What arrives when the accumulation ends, and when."""

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from accupoison.attacks import Attack, PixelAttack
from accupoison.attacks.trigger import craft_trigger
from accupoison.errors import InputError
from accupoison.models.view import view_of
from accupoison.testing.bench import same
from accupoison.types import Batch, Context, ModelView, Phase, Step, Verdict
from tests.simulations import BRANCHES, EPS, attack_of, distance, run, simulation, weights_and_statistics


def test_coasting_is_momentum_alone() -> None:
    simulated = simulation(triggers=("coast",))
    steps = simulated.run()
    for _ in range(3):
        next(steps)
    learner = simulated.learner
    weights, before = [p.detach().clone() for p in learner.model.parameters()], weights_and_statistics(learner)
    velocity = [v.clone() for v in learner.momentum()]
    step = next(steps)
    assert (step.phase, step.branch, step.verdict) == (Phase.TRIGGER, "coast", Verdict.COMMIT)
    assert len(step.clean) == len(step.sent) == len(step.seen) == 0
    for p, w, v, now in zip(learner.model.parameters(), weights, velocity, learner.momentum(), strict=True):
        torch.testing.assert_close(now, 0.9 * v + 1e-3 * w)
        torch.testing.assert_close(p.detach(), w - 0.05 * (0.9 * v + 1e-3 * w))
    assert step.metrics["optim/update_norm"] > 1e-4
    parameters = dict(learner.model.named_parameters())
    assert all(
        same(value, before[name]) for name, value in learner.model.state_dict().items() if name not in parameters
    )


def test_no_trigger_is_no_step() -> None:
    skipped, clean = run(triggers=("none",)), run(triggers=("clean",))
    assert [s.phase for s in skipped] == [Phase.ORDINARY] * 3 + [Phase.RECOVER]
    assert same(skipped[-1].clean, clean[-1].clean)  # the recovery sees the same batches
    assert run(triggers=("none",), recovery_steps=0)[-1].t == 2


@dataclass(kw_only=True)
class Triggerless(Attack):
    def poison(self, view: ModelView, batch: Batch, ctx: Context) -> Batch:
        return batch


def test_an_attack_without_a_trigger_is_refused_one_before_the_stream() -> None:
    steps = simulation(Triggerless(), triggers=("adversarial",)).run()
    with pytest.raises(InputError, match="the attack Triggerless makes no trigger; give trigger"):
        next(steps)
    assert Phase.TRIGGER in [s.phase for s in run(Triggerless(), triggers=("clean",))]


@dataclass(kw_only=True)
class Counting(PixelAttack):
    calls: list[tuple[str, int]] = field(default_factory=list, init=False)

    def poison(self, view: ModelView, batch: Batch, ctx: Context) -> Batch:
        self.calls.append(("poison", ctx.t))
        return batch.with_x((batch.x + self.eps).clamp(0, 1))

    def trigger(self, view: ModelView, clean: Batch, ctx: Context) -> Batch:
        self.calls.append(("trigger", ctx.t))
        return super().trigger(view, clean, ctx)


def test_poison_comes_before_the_trigger_and_not_after() -> None:
    attack = Counting(steps=1)
    simulated = simulation(attack, triggers=BRANCHES, augment="none", recovery_steps=2)
    steps = list(simulated.run())
    assert attack.calls == [("poison", 0), ("poison", 1), ("poison", 2), ("trigger", 3)]
    for step in steps:
        attacked = step.phase is Phase.ORDINARY or (step.phase is Phase.TRIGGER and step.branch == "adversarial")
        if step.branch != "coast" or step.phase is Phase.RECOVER:
            assert distance(step) == pytest.approx(EPS if attacked else 0.0, abs=1e-6)
            assert step.metrics["attack/linf"] == distance(step)
    fired = [s.clean for s in steps if s.phase is Phase.TRIGGER and len(s.clean)]
    assert len(fired) == 2
    assert all(same(clean, simulated.access.trigger) for clean in fired)
    assert set(fired[0].ids.tolist()).isdisjoint(torch.cat([s.clean.ids for s in steps if not s.branch]).tolist())


def test_firing_ends_the_accumulation() -> None:
    simulated, phases = simulation(triggers=("none", "adversarial"), steps=6), []
    for step in simulated.run():
        phases.append((step.t, step.branch, step.phase))
        if step.t in (1, 3):
            simulated.end_accumulation()  # the second time comes too late
    assert phases == [
        (0, "", Phase.ORDINARY),
        (1, "", Phase.ORDINARY),
        (3, "none", Phase.RECOVER),
        (2, "adversarial", Phase.TRIGGER),
        (3, "adversarial", Phase.RECOVER),
    ]
    assert simulated.horizon == 2
    at_once = simulation()
    at_once.end_accumulation()
    assert [s.phase for s in at_once.run()] == [Phase.TRIGGER, Phase.RECOVER]


def delivered(attack: PixelAttack, trigger: str) -> tuple[list[float], Step, Tensor]:
    """Return the crafted trigger's distance after each step, the trigger step, and what the last weights make of it."""
    simulated = simulation(attack, triggers=(trigger,), augment="none", quantise=False)
    distances, steps = [], simulated.run()
    for _ in range(3):
        next(steps)
        assert attack.crafted is not None
        distances.append(float((attack.crafted - simulated.access.trigger.x).abs().max()))
    access, view = simulated.access, view_of(simulated.learner.model)
    centre = (
        access.trigger.with_x(attack.crafted)
        if attack.warm_start_ball and attack.crafted is not None
        else access.trigger
    )
    again = craft_trigger(view, centre, access.val, eps=attack.eps, steps=attack.steps)
    return distances, next(steps), again


def test_an_adversarial_trigger_is_crafted_once() -> None:
    start = simulation()
    first = craft_trigger(start.learner.view(), start.access.trigger, start.access.val, eps=EPS, steps=2)
    for attack in (attack_of("accumulative"), attack_of("none"), attack_of("none", warm_start_ball=True)):
        distances, step, again = delivered(attack, "adversarial")
        assert torch.equal(step.sent.x, first)  # by the weights of the start
        assert not torch.equal(step.sent.x, again)
        assert distances == [distances[0]] * 3


def test_an_optimised_trigger_is_crafted_anew_from_the_clean_one() -> None:
    attack = attack_of("accumulative")
    distances, step, again = delivered(attack, "optimised")
    assert torch.equal(step.sent.x, again)  # by the weights of the end
    assert max(distances) <= EPS + 1e-6
    assert float((step.sent.x - step.clean.x).abs().max()) <= EPS + 1e-6
    fresh = attack_of("accumulative")
    targets = []
    for _ in zip(range(3), simulation(fresh, triggers=("optimised",)).run(), strict=False):
        assert fresh.crafted is not None
        targets.append(fresh.crafted.clone())
    assert not torch.equal(targets[0], targets[1])
    assert not torch.equal(targets[1], targets[2])


def test_a_recentred_trigger_leaves_the_ball() -> None:
    distances, step, again = delivered(attack_of("accumulative", warm_start_ball=True), "optimised")
    assert torch.equal(step.sent.x, again)
    assert EPS + 1e-3 < distances[0] < distances[1] < distances[2] < distance(step)
    assert step.metrics["attack/linf"] == distance(step)
