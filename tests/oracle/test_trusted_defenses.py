"""STAT-TRUST, TRUST-PROJ, GATE, STACK and STACK-CURRENT against their formulas, and the hooks by which they act."""

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from accupoison.config.schema import burnin_config
from accupoison.defenses import DEFENSES, Defense
from accupoison.defenses.gate import Gate
from accupoison.defenses.stat_trust import TrustedStatistics
from accupoison.defenses.trust_proj import TrustedProjection, project, trusted_rows
from accupoison.errors import InputError
from accupoison.gradients import gradient, inner
from accupoison.learner import Learner
from accupoison.loop.context import StepContext
from accupoison.models.copies import reestimate_batchnorm
from accupoison.models.view import view_of
from accupoison.testing.bench import same
from accupoison.types import Batch, Context, Grads, ModelView, Verdict
from accupoison.updates import SGD
from tests.messages import refuses
from tests.nets import normal, random_batch, random_net
from tests.simulations import outcome, simulation, weights_and_statistics

OFF: dict[str, Any] = {"statistics": "off", "project": False, "cap": math.inf, "delta": math.inf}


def context() -> StepContext:
    return StepContext(0, "defense", 0, {})


def norm(grads: Grads) -> float:
    return math.sqrt(float(inner(grads, grads)))


def directions(seed: int) -> tuple[Grads, Grads]:
    u, h = (tuple(normal(*shape, seed=seed + k) for shape in ((3, 4), (5,), (2, 2, 2))) for k in (0, 100))
    return u, h


# TRUST-PROJ


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("cap", [math.inf, 3.0, 0.5])
def test_a_projected_direction_is_orthogonal_and_short(seed: int, cap: float) -> None:
    u, h = directions(seed)
    against = float(inner(u, h)) < 0
    for sign in (1, -1):  # one of the two is at odds with h
        given = tuple(sign * x for x in u)
        found = project(given, h, cap=cap)
        along = float(inner(given, h))
        wanted = given
        if (sign > 0) == against:
            wanted = tuple(x - along / norm(h) ** 2 * y for x, y in zip(given, h, strict=True))
        wanted = tuple(x * min(1.0, cap * norm(h) / norm(wanted)) for x in wanted)
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-14)
        assert float(inner(found, h)) >= -1e-12
        assert norm(found) <= cap * norm(h) * (1 + 1e-12)
        only_short = project(given, h, cap=cap, conflict=False)
        torch.testing.assert_close(
            only_short, tuple(x * min(1.0, cap * norm(h) / norm(given)) for x in given), rtol=1e-12, atol=1e-14
        )
    leaves = [x.clone().requires_grad_() for x in u]
    assert torch.autograd.gradcheck(lambda *x: project(x, h, cap=cap), leaves)  # attackers follow it
    nothing = tuple(torch.zeros_like(x) for x in h)
    assert project(u, nothing) is u
    assert norm(project(u, nothing, cap=1.0)) == 0


@pytest.mark.parametrize("cap", [math.inf, 0.7])
def test_what_is_left_is_the_momentum_and_the_step(cap: float) -> None:
    """By hand for three steps: u = 0.9 v + g + 0.01 w, projected by h; w moves by -0.1 u, and v is u."""
    learner = Learner(random_net(0), lr=0.1, momentum=0.9, weight_decay=0.01)
    defense, trusted = TrustedProjection(cap=cap), random_batch(50, 8)
    defense.setup(learner.view(), None, [trusted], context())
    redirected = []
    for t in range(3):
        batch, view, metrics = random_batch(t), learner.view(), dict[str, float]()
        grads = gradient(view, batch.x, batch.y, train=True)
        h = gradient(view, trusted.x, trusted.y, train=True)
        weights = tuple(p.detach().clone() for p in view.params())
        u = tuple(0.9 * v + g + 0.01 * w for v, g, w in zip(learner.momentum(), grads, weights, strict=True))
        u = project(u, h, cap=cap)
        SGD().step(learner, defense, batch, StepContext(0, "update", t, metrics))
        torch.testing.assert_close(learner.momentum(), u, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(
            tuple(learner.view().params()),
            tuple(w - 0.1 * x for w, x in zip(weights, u, strict=True)),
            rtol=1e-9,
            atol=1e-12,
        )
        assert float(inner(learner.momentum(), h)) >= -1e-12
        assert norm(learner.momentum()) <= cap * norm(h) * (1 + 1e-12)
        redirected.append(metrics["defense/redirected"])
    assert max(redirected) > 0


def test_momentum_alone_is_projected_as_well() -> None:
    """After coast the momentum is what the defence has left of it, with whatever norm its cap allows."""
    simulated = simulation("noise", DEFENSES.build("TRUST-PROJ", {"cap": 1e-3}), ("coast",), steps=2, recovery_steps=0)
    plain = simulation("noise", "ST", ("coast",), steps=2, recovery_steps=0)
    lengths = []
    for one in (simulated, plain):
        steps = list(one.run())
        lengths.append(norm(one.learner.momentum()))
        assert steps[-1].metrics["optim/update_norm"] == pytest.approx(0.05 * lengths[-1], rel=1e-3)
    assert lengths[0] < 0.01 * lengths[1]
    assert steps[-1].metrics.get("defense/redirected") is None


def test_momentum_that_is_directed_without_momentum_and_with_nesterovs() -> None:
    batch = random_batch(0)
    grads = gradient(view_of(random_net(0)), batch.x, batch.y)
    learner = Learner(random_net(0), lr=0.1, momentum=0.0)
    before = [p.detach().clone() for p in learner.parameters]
    learner.apply(grads, lambda u: tuple(2 * x for x in u))
    for p, w, g in zip(learner.parameters, before, grads, strict=True):
        torch.testing.assert_close(p.detach(), w - 0.2 * g)
    assert not any(map(bool, learner.optimizer.state.values()))
    with pytest.raises(ValueError, match="nesterov"):
        Learner(random_net(0), lr=0.1, nesterov=True).apply(grads, lambda u: u)


# GATE


def test_the_gate_opens_up_to_its_bound_and_not_beyond() -> None:
    before, now, canaries = view_of(random_net(0)), view_of(random_net(1)), random_batch(7, 12)
    losses = [F.cross_entropy(view.logits(canaries.x), canaries.y, reduction="none") for view in (before, now)]
    rises = (losses[1] - losses[0]).detach()
    worse = (before, now) if float(rises.mean()) > 0 else (now, before)
    rise, error = abs(float(rises.mean())), float(rises.std(correction=1)) / math.sqrt(12)
    for z in (0.0, 1.5):
        for slack, verdict in ((1e-9, Verdict.COMMIT), (-1e-9, Verdict.ROLLBACK)):
            if rise - z * error + slack >= 0:
                assert _gated(*worse, canaries, delta=rise - z * error + slack, z=z) is verdict
    assert rise > 1e-9
    assert _gated(*worse, canaries, delta=0.0, z=(rise + 1e-9) / error) is Verdict.COMMIT
    assert _gated(*worse, canaries, delta=0.0, z=(rise - 1e-9) / error) is Verdict.ROLLBACK
    assert _gated(before, before, canaries, delta=0.0, z=0.0) is Verdict.COMMIT  # equal: the bound itself
    assert _gated(worse[1], worse[0], canaries, delta=0.0, z=0.0) is Verdict.COMMIT
    broken = random_net(0)
    next(broken.parameters()).data.fill_(math.nan)
    assert _gated(before, view_of(broken), canaries, delta=10.0, z=0.0) is Verdict.ROLLBACK


def _gated(before: ModelView, view: ModelView, canaries: Batch, *, delta: float, z: float) -> Verdict:
    defense = Gate(delta=delta, z=z)
    defense.setup(before, None, [canaries], context())
    return defense.after(before, view, context())


DELTA = 0.005
"""Nats by which some steps of a stream of random images make the canaries lose more, and some less."""


def test_a_step_that_the_gate_takes_back_leaves_nothing() -> None:
    simulated = simulation("noise", DEFENSES.build("GATE", {"delta": DELTA, "z": 0.0}), ("coast", "clean"), steps=5)
    before, verdicts = simulated.learner.state(), []
    for step in simulated.run():
        verdicts.append(step.verdict)
        taken_back = step.metrics["defense/canary_rise"] > step.metrics["defense/canary_bound"] == DELTA
        assert taken_back == (step.verdict is Verdict.ROLLBACK)
        if step.t < 5:
            assert taken_back == same(simulated.learner.state()["model"], before["model"])
            assert taken_back == (not simulated.learner.state()["optimizer"]["state"])
        before = simulated.learner.state()
    assert {Verdict.COMMIT, Verdict.ROLLBACK} == set(verdicts)


# STAT-TRUST


def test_statistics_are_those_of_trusted_images_under_the_weights_of_the_moment() -> None:
    """Weights learn as in standard training, since an update normalises by its own batch."""
    simulated, plain = (simulation("noise", name, ("clean",), steps=3) for name in ("STAT-TRUST", "ST"))
    for _ in zip(simulated.run(), plain.run(), strict=True):
        images = simulated.defense.images  # type: ignore[attr-defined]
        assert len(images) == 20
        wanted = reestimate_batchnorm(plain.learner.model, [images]).state_dict()
        assert same(weights_and_statistics(simulated.learner), {name: v.detach() for name, v in wanted.items()})
        assert not same(weights_and_statistics(simulated.learner), weights_and_statistics(plain.learner))


def test_frozen_statistics_stay_those_of_the_beginning() -> None:
    simulated = simulation("accumulative", DEFENSES.build("STAT-TRUST", {"statistics": "frozen"}), ("coast",))
    begun = weights_and_statistics(simulated.learner)
    list(simulated.run())
    now = weights_and_statistics(simulated.learner)
    assert {name for name in now if not torch.equal(now[name], begun[name])} >= {"0.weight", "9.weight"}
    kept = [name for name in now if "running" in name]
    assert len(kept) == 4
    assert all(torch.equal(now[name], begun[name]) for name in kept)


def test_a_model_without_batch_norm_has_no_statistics() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(144, 10)).double()
    for mode in ("frozen", "reestimated"):
        defense = TrustedStatistics(statistics=mode)
        defense.setup(view_of(net), None, [random_batch(0)], context())
        assert defense.amend(view_of(net), context()) == {}


def test_current_statistics_are_those_of_images_as_the_world_has_them() -> None:
    """The same images, corrupted as the stream's are at that step."""
    simulated = simulation("noise", "STACK-CURRENT", ("clean",), steps=3, kind="shift:contrast")
    defense: Any = simulated.defense
    shift, found = simulated.stream.shift, []
    assert shift is not None
    for step in simulated.run():
        now = shift(defense.images, defense.ids, step.t)
        wanted = reestimate_batchnorm(simulated.learner.model, [now]).state_dict()
        assert same(weights_and_statistics(simulated.learner), {name: v.detach() for name, v in wanted.items()})
        found.append(float((now - defense.images).abs().max()))
    assert found == sorted(found)
    assert found[0] == 0 < found[1]


def test_without_a_shift_current_statistics_are_those_of_the_stack() -> None:
    ours = DEFENSES.build("STACK-CURRENT", {"buffer": 8})
    stack = DEFENSES.build("STACK", {"buffer": 8, "delta": math.inf})
    both = [simulation("accumulative", one, ("coast", "clean"), steps=3) for one in (ours, stack)]
    assert same(*([outcome(step) for step in one.run()] for one in both))


# STACK


def test_a_stack_with_one_part_on_is_that_part_and_with_none_standard_training() -> None:
    on: dict[str, dict[str, Any]] = {
        "ST": {},
        "STAT-TRUST": {"statistics": "reestimated"},
        "TRUST-PROJ": {"project": True, "cap": 0.5},
        "GATE": {"delta": 0.0, "z": 0.0},
    }
    stacks = []
    for name, settings in on.items():
        alone, stack = DEFENSES.build(name, settings), DEFENSES.build("STACK", {**OFF, **settings})
        both = [simulation("noise", one, ("coast", "clean"), steps=3) for one in (alone, stack)]
        steps = [[_acts(outcome(step)) for step in one.run()] for one in both]
        assert same(steps[0], steps[1])
        states = [one.learner.state() for one in both]
        assert same(*states)
        stacks.append(states[1])
    assert sum(same(stacks[0], other) for other in stacks) == 1


def _acts(step: list[object]) -> list[object]:
    metrics = step[6]
    assert isinstance(metrics, dict)
    quiet = {"defense/undone"}  # which a stack logs whether or not it judges
    return [*step[:6], {tag: value for tag, value in metrics.items() if tag not in quiet}, step[7]]


def test_the_images_of_the_projection_are_no_canaries() -> None:
    trusted = [random_batch(seed) for seed in (0, 1, 0)]  # they go round again
    everything = trusted_rows(trusted, 100, "STACK")
    assert everything.ids.tolist() == torch.cat([batch.ids for batch in trusted[:2]]).tolist()
    stack: Any = DEFENSES.build("STACK", {})
    stack.setup(view_of(random_net(0)), None, trusted, context())
    assert torch.equal(torch.cat([stack.buffer_x, stack.canaries_x]), everything.x)
    assert torch.equal(torch.cat([stack.buffer_y, stack.canaries_y]), everything.y)
    assert torch.equal(stack.images, everything.x)


# what makes no sense


@dataclass(kw_only=True)
class Directs(Defense):
    """Has a say on the momentum, for which a burn-in does not ask."""

    couples: ClassVar[bool | None] = False

    def direct(self, direction: Grads, view: ModelView, ctx: Context) -> Grads:
        return direction


def test_a_burn_in_asks_nobody() -> None:
    for name, words in (("STACK", "STACK trusted-labelled trusted-unlabelled"), ("GATE", "GATE trusted-labelled")):
        with refuses(words, InputError):
            burnin_config([{"defense": {"name": name}}, {"attack": {"name": "none"}}])
    with refuses("judges", InputError):
        replace(burnin_config([{"attack": {"name": "none"}}]), defense=Directs())


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("STAT-TRUST", {"statistics": "frosen"}, "defense.statistics frosen frozen"),
        ("TRUST-PROJ", {"cap": 0.0}, "defense.cap 0.0 inf"),
        ("TRUST-PROJ", {"buffer": 0}, "defense.buffer 0 200"),
        ("GATE", {"delta": -1.0}, "defense.delta -1.0 inf"),
        ("GATE", {"z": math.nan}, "defense.z nan 1.645"),
        ("GATE", {"canaries": 1}, "defense.canaries 1 2"),
        ("STACK", {"z": -1.0}, "defense.z -1.0"),
        ("STACK", {"cap": -1.0}, "defense.cap -1.0"),
    ],
)
def test_settings_that_make_no_sense(name: str, settings: dict[str, Any], words: str) -> None:
    with refuses(words):
        DEFENSES.build(name, settings)


@pytest.mark.parametrize("name", ["STAT-TRUST", "TRUST-PROJ", "GATE", "STACK"])
def test_nobody_is_trusted(name: str) -> None:
    with refuses(f"{name} 0 data.trusted 4"):
        DEFENSES.build(name, {}).setup(view_of(random_net(0)), None, [], context())
    DEFENSES.build(name, {k: v for k, v in OFF.items() if k in DEFENSES.settings(name)}).setup(
        view_of(random_net(0)), None, [], context()
    )
    if name in ("GATE", "STACK"):
        with refuses(f"{name} 1 data.trusted 4"):
            DEFENSES.build(name, {}).setup(view_of(random_net(0)), None, [random_batch(0, 1)], context())
