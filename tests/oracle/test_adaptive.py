"""Attackers who know the defence: what they climb, what they keep, and that more of anything never costs them harm."""

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from accupoison.attacks import ATTACKS, Accumulative, Noise, PixelAttack
from accupoison.attacks.ascent import Ascent, ascending
from accupoison.attacks.running_norm import followed
from accupoison.attacks.statistics import statistics_harm, statistics_slope
from accupoison.attacks.through_dsc import ThroughDSC, corrected
from accupoison.attacks.under_radar import UnderRadar, packed_rows
from accupoison.attacks.unrolled import loss_at, updated
from accupoison.data import quantise
from accupoison.defenses import DEFENSES, Defense, DiscrepancyCorrection
from accupoison.defenses.gate import Gate
from accupoison.defenses.trust_proj import TrustedProjection
from accupoison.discrepancy import batch_discrepancy, memorization_discrepancy
from accupoison.gradients import gradient
from accupoison.learner import Learner
from accupoison.loop.access import KnownDefense, access_for
from accupoison.loop.context import StepContext
from accupoison.models.view import view_of
from accupoison.types import Access, Batch, Context, Grads, ModelView, Verdict
from accupoison.updates import SGD
from tests.messages import refuses
from tests.nets import random_batch, random_net
from tests.oracle import linear
from tests.simulations import run, simulation

EPS, ROWS = 32 / 255, 6
KNOWN = {"under-radar", "denial", "through-dsc", "unrolled"}
NAMES = [*sorted(KNOWN), "statistics", "accumulative-statistics"]


@dataclass
class World:
    """A model that has learnt a little, with an early one and a DSC whose threshold poison would break."""

    learner: Learner = field(default_factory=lambda: Learner(random_net(0), lr=0.05, momentum=0.9, weight_decay=1e-3))
    batch: Batch = field(default_factory=lambda: random_batch(1, ROWS))
    share: float = 1.01

    def __post_init__(self) -> None:
        self.reference = self.learner.snapshot()
        for i in range(2):
            SGD().step(self.learner, Defense(), random_batch(i + 5), StepContext(0, "update", i, {}))
        self.threshold = self.share * batch_discrepancy(self.learner.view(), self.reference, self.batch.x)
        self.defense = DiscrepancyCorrection(threshold=self.threshold, steps=2)
        self.defense.setup(self.learner.view(), self.reference, [], StepContext(0, "setup", 0, {}))

    def attack(self, name: str, **settings: Any) -> Ascent:  # noqa: ANN401
        attack = ATTACKS.build(name, {"eps": EPS, **settings})
        assert isinstance(attack, Ascent)
        attack.setup(self.learner.view(), self.access(attack), StepContext(0, "attack-setup", 0, {}))
        return attack

    def access(self, attack: PixelAttack, defense: Defense | None = None) -> Access:
        known = KnownDefense(self.learner, defense or self.defense, self.reference, 0, 3)
        given = {"val": random_batch(2, 9), "trigger": random_batch(3), "crafted": False, "reoptimise": False}
        return access_for(attack, SGD(), known, **given)

    def sends(self, name: str, **settings: Any) -> tuple[Tensor, dict[str, float]]:  # noqa: ANN401
        metrics: dict[str, float] = {}
        attack = self.attack(name, **settings)
        sent = attack.poison(self.learner.view(), self.batch, StepContext(0, "attack", 1, metrics))
        assert float((sent.x - self.batch.x).abs().max()) <= attack.eps + 1e-12
        return sent.x, metrics

    def discrepancy(self, x: Tensor) -> float:
        return batch_discrepancy(self.learner.view(), self.reference, x)


def worth(metrics: dict[str, float]) -> tuple[float, float]:
    return metrics.get("attack/feasible", 1.0), metrics["attack/objective"]


@pytest.mark.parametrize("name", NAMES)
def test_more_steps_and_restarts_never_lower_the_objective(name: str) -> None:
    world = World()
    tried = ((1, 1), (3, 1), (5, 1), (5, 2))
    found = [worth(world.sends(name, steps=steps, restarts=restarts)[1]) for steps, restarts in tried]
    assert found == sorted(found)
    assert found[-1] > found[0]


def test_more_knowledge_never_lowers_the_objective() -> None:
    """What attackers who know less find is among the candidates of those who know more."""
    world = World()
    view, context = world.learner.view(), StepContext(0, "attack", 1, {})
    rows = torch.ones(ROWS, dtype=torch.bool)
    for name, settings in (("under-radar", {}), ("through-dsc", {}), ("accumulative-statistics", {"rho": 5.0})):
        attack = world.attack(name, steps=4, **settings)
        unaware = Accumulative(eps=EPS, steps=4)  # whose four steps are those of the first search
        unaware.setup(view, world.access(unaware), StepContext(0, "attack-setup", 0, {}))
        problem = attack.problem(view, world.batch, rows, context)
        x = quantise(unaware.poison(view, world.batch, context).x, world.batch.x)
        best = attack.poison(view, world.batch, context).x
        assert problem.worth(best) >= max(problem.worth(settled) for settled in problem.settle(x))
        assert problem.worth(best) > problem.worth(world.batch.x)
    mean, knapsack = (worth(world.sends("under-radar", steps=3, spend=spend)[1]) for spend in ("mean", "knapsack"))
    assert knapsack >= mean


@pytest.mark.parametrize("kappa", [1.0, 0.995])
@pytest.mark.parametrize("spend", ["mean", "knapsack"])
def test_the_mean_discrepancy_stays_below_the_threshold(spend: str, kappa: float) -> None:
    world = World()
    unaware, _ = world.sends("under-radar", steps=3, kappa=1e6)
    assert world.discrepancy(unaware) > world.threshold  # else this test says nothing
    sent, metrics = world.sends("under-radar", steps=3, kappa=kappa, spend=spend)
    assert torch.equal(quantise(sent, world.batch.x), sent)  # the stream's own rounding changes nothing
    assert world.discrepancy(sent) <= kappa * world.threshold
    assert metrics["attack/feasible"] == 1
    assert not torch.equal(sent, world.batch.x)


def test_every_row_stays_below_the_threshold_or_as_it_was() -> None:
    world = World()
    view, reference = world.learner.view(), world.reference
    with torch.no_grad():
        clean = memorization_discrepancy(view, reference, world.batch.x)
    world.threshold = float(clean.median())
    world.defense = DiscrepancyCorrection(threshold=world.threshold)
    world.defense.setup(view, reference, [], StepContext(0, "setup", 0, {}))
    sent, metrics = world.sends("under-radar", steps=3, kappa=1.0, spend="sample")
    with torch.no_grad():
        found = memorization_discrepancy(view, reference, sent)
    untouched = (sent == world.batch.x).flatten(1).all(1)
    assert bool(((found <= world.threshold) | untouched).all())
    assert int((found <= world.threshold).sum()) >= int((clean <= world.threshold).sum())
    assert int((~untouched).sum()) > 0
    assert metrics["attack/feasible"] == float((found <= world.threshold).all())


def test_a_batch_that_no_poison_fits_is_sent_clean() -> None:
    world = World(share=0.01)
    sent, metrics = world.sends("under-radar", steps=1)
    assert torch.equal(sent, world.batch.x)
    assert metrics["attack/feasible"] == 0


def test_the_trigger_is_drawn_back_below_the_threshold() -> None:
    world = World()
    attack, open_one = world.attack("under-radar", kappa=1.0), world.attack("under-radar", hide_trigger=False)
    for one in (attack, open_one):
        clean = one.access.trigger
        world.defense.base = 1.0001 * world.discrepancy(clean.x)
    context = StepContext(0, "attack", 3, {})
    hidden, shown = (one.trigger(world.learner.view(), clean, context).x for one in (attack, open_one))
    assert world.discrepancy(shown) > world.defense.base  # else this test says nothing
    assert world.discrepancy(hidden) <= world.defense.base


def test_the_knapsack_takes_rows_by_gain_for_cost() -> None:
    clean, x = torch.zeros(4, 1), torch.tensor([[1.0], [1.0], [1.0], [1.0]])
    gain, cost = torch.tensor([[3.0], [1.0], [-1.0], [4.0]]), torch.tensor([3.0, 0.5, 0.1, 8.0])
    chosen = packed_rows(x, gain, clean, lambda some: some[:, 0] * cost - 1.0)  # 4 may be spent in all
    assert chosen[:, 0].tolist() == [1, 1, 0, 0]  # by 2, 1, 0.5 for each nat; the third would lower the objective


def test_statistics_after_a_pass_are_those_of_an_update() -> None:
    learner, batch = Learner(random_net(0), lr=0.1), random_batch(1)
    logits, found = followed(learner.view(), batch.x, train=True)
    torch.testing.assert_close(logits, learner.view().logits(batch.x, train=True), rtol=0, atol=1e-13)
    with learner.forward() as forward:
        forward(batch.x)
    norms = [module for module in learner.model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == len(found)
    for norm, (mean, var) in zip(norms, found, strict=True):
        torch.testing.assert_close(mean, norm.running_mean, rtol=0, atol=1e-13)
        torch.testing.assert_close(var, norm.running_var, rtol=0, atol=1e-13)


def test_the_slope_by_running_statistics() -> None:
    view, val = view_of(random_net(0)), random_batch(2, 9)
    now, slope = statistics_slope(view, val)
    for layer in range(len(now)):
        for part in (0, 1):
            moved: list[float] = []
            for h in (1e-6, -1e-6):
                given = [[mean.clone(), var.clone()] for mean, var in now]
                given[layer][part][2] += h
                logits, _ = followed(view, val.x, train=False, given=[(mean, var) for mean, var in given])
                moved.append(float(F.cross_entropy(logits, val.y).detach()))
            assert (moved[0] - moved[1]) / 2e-6 == pytest.approx(float(slope[layer][part][2]), abs=1e-8)


def test_statistics_move_along_the_slope_more_than_noise_moves_them() -> None:
    world = World()
    view, harm = world.learner.view(), statistics_harm(world.learner.view(), random_batch(2, 9))
    sent, metrics = world.sends("statistics")
    assert metrics["attack/objective"] == pytest.approx(float(harm(sent).detach()))
    noise = Noise(eps=EPS, kind="rademacher")
    noise.access = world.access(noise)
    for seed in range(5):
        noisy = noise.poison(view, world.batch, StepContext(seed, "attack", 0, {})).x
        assert float(harm(sent).detach()) > float(harm(noisy).detach()) + 1e-3


def test_a_predicted_update_is_the_victims_to_the_last_statistic() -> None:
    world = World()
    view, access = world.learner.view(), world.access(world.attack("unrolled", steps=1))
    first, second, val = random_batch(20), random_batch(21), random_batch(22)
    prepared = updated(view, access, first.x, first.y)
    fired = updated(view, access, second.x, second.y, prepared)
    expected = float(loss_at(view, val, fired).detach())
    for t, batch in enumerate((first, second)):
        SGD().step(world.learner, Defense(), batch, StepContext(0, "update", t, {}))
        (weights, momentum), statistics = (prepared, fired)[t]
        pairs: list[tuple[Tensor, Tensor | None]] = [*zip(weights, world.learner.parameters, strict=True)]
        pairs += [*zip(momentum, world.learner.momentum(), strict=True)]
        norms = [module for module in world.learner.model.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm, (mean, var) in zip(norms, statistics, strict=True):
            pairs += [(mean, norm.running_mean), (var, norm.running_var)]
        for mine, real in pairs:
            assert real is not None
            torch.testing.assert_close(mine.detach(), real.detach(), rtol=0, atol=1e-12)
    assert expected == pytest.approx(float(F.cross_entropy(view.logits(val.x), val.y).detach()), abs=1e-12)


def test_a_predicted_update_is_projected_as_the_victims_is() -> None:
    world, val, first = World(), random_batch(22), random_batch(20)
    view = world.learner.view()
    defense = TrustedProjection(cap=0.7)
    defense.setup(view, world.reference, [random_batch(30, 8)], StepContext(0, "setup", 0, {}))
    access = world.access(world.attack("unrolled", steps=1), defense)
    x = first.x.clone().requires_grad_()
    weights, momentum = updated(view, access, x, first.y)[0]
    (slope,) = torch.autograd.grad(torch.stack([w.sum() for w in weights]).sum(), x)
    assert float(slope.abs().max()) > 0
    metrics: dict[str, float] = {}
    SGD().step(world.learner, defense, first, StepContext(0, "update", 0, metrics))
    assert metrics["defense/redirected"] > 0.1
    for mine, real in zip((*weights, *momentum), (*world.learner.parameters, *world.learner.momentum()), strict=True):
        torch.testing.assert_close(mine.detach(), real.detach(), rtol=0, atol=1e-12)
    by_batch = loss_at(view, val, (None, None), train=True)
    expected = F.cross_entropy(view.logits(val.x, train=True), val.y)
    torch.testing.assert_close(by_batch, expected, rtol=0, atol=1e-12)
    assert abs(float((by_batch - loss_at(view, val, (None, None))).detach())) > 1e-3


@dataclass(kw_only=True)
class Halves(Defense):
    """Halves the direction, in a way that autograd does not see."""

    def direct(self, direction: Grads, view: ModelView, ctx: Context) -> Grads:
        return tuple(x.detach() / 2 for x in direction)


def test_where_a_defence_has_no_slope_the_attacker_takes_that_of_one_that_leaves_all() -> None:
    world = World()
    known = KnownDefense(world.learner, Halves(), world.reference, 0, 3)
    x = torch.tensor([3.0, -1.0], requires_grad=True)
    (left,) = known.direct((x,))
    (slope,) = torch.autograd.grad(left.sum(), x)
    assert left.tolist() == [1.5, -0.5]
    assert slope.tolist() == [1, 1]
    assert KnownDefense(world.learner, Defense(), world.reference, 0, 3).direct((x,))[0] is x


def test_where_a_defence_has_statistics_of_its_own_the_attacker_looks_by_those_of_its_images() -> None:
    world = World()
    view = world.learner.view()
    objectives = []
    for name, mode in (("ST", "eval"), ("ST", "train"), ("STAT-TRUST", "eval")):
        defense, attack = DEFENSES.build(name, {}), ATTACKS.build("unrolled", {"eps": EPS, "steps": 1, "bn_mode": mode})
        assert isinstance(attack, Ascent)
        defense.setup(view, world.reference, [random_batch(30, 8)], StepContext(0, "setup", 0, {}))
        attack.setup(view, world.access(attack, defense), StepContext(0, "attack-setup", 0, {}))
        attack.crafted = random_batch(3).x
        problem = attack.problem(view, world.batch, torch.ones(ROWS).bool(), StepContext(0, "a", 1, {}))
        objectives.append(float(problem.harm(world.batch.x).detach()))
    assert objectives[1] == objectives[2] != objectives[0]


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_the_unrolled_objective_and_its_slope(mode: str) -> None:
    world = World()
    attack = world.attack("unrolled", steps=1, mu=2.0, delta=0.0, bn_mode=mode)
    problem = attack.problem(world.learner.view(), world.batch, torch.ones(ROWS).bool(), StepContext(0, "a", 1, {}))
    slope, x, h = ascending(problem.harm)(world.batch.x), world.batch.x, 1e-5
    for place in ((0, 1, 3, 3), (4, 2, 0, 6)):
        ends = [x.clone(), x.clone()]
        ends[0][place] += h
        ends[1][place] -= h
        ahead, behind = (float(problem.harm(end).detach()) for end in ends)
        assert (ahead - behind) / (2 * h) == pytest.approx(float(slope[place]), rel=1e-3, abs=1e-8)


@pytest.mark.parametrize("z", [0.0, 0.1])
@pytest.mark.parametrize("what", ["poison", "trigger"])
def test_who_knows_the_gate_goes_as_far_as_it_lets_him(what: str, z: float) -> None:
    """Its canaries are the attacker's images here, so what he predicts is what it sees; unaware, he is undone."""
    found: dict[str, tuple[float, Verdict]] = {}
    sent = World().batch
    for who in ("clean", "unaware", "aware"):
        world, metrics = World(share=100), dict[str, float]()
        view, before, gate = world.learner.view(), world.learner.snapshot(), Gate(delta=0.0, z=z)
        gate.setup(view, world.reference, [random_batch(2, 9)], StepContext(0, "setup", 0, {}))
        attack = ATTACKS.build("unrolled", {"eps": EPS, "steps": 6, "mu": 0.0, "kappa": 0.9})
        assert isinstance(attack, Ascent)
        attack.setup(view, world.access(attack, gate if who == "aware" else None), StepContext(0, "setup", 0, {}))
        attack.crafted = sent.x  # that of the one who is unaware
        if who != "clean":
            send = attack.trigger if (who, what) == ("aware", "trigger") else attack.poison
            sent = send(view, world.batch, StepContext(0, "attack", 1, {}))
        SGD().step(world.learner, Defense(), sent, StepContext(0, "update", 1, {}))
        verdict = gate.after(before, view, StepContext(0, "after", 1, metrics))
        found[who] = metrics["defense/canary_rise"], verdict
    assert found["unaware"][1] is Verdict.ROLLBACK
    assert found["aware"][1] is found["clean"][1] is Verdict.COMMIT
    assert found["clean"][0] < found["aware"][0] <= 0.9 * metrics["defense/canary_bound"] + 1e-12


def test_the_correctors_derivative_is_the_identity() -> None:
    """By hand: the slope at x is that of the objective at C(x), and C is what the defence itself does."""
    world = World(share=0.5)  # so that DSC corrects every batch
    attack, view = world.attack("through-dsc"), world.learner.view()
    context = StepContext(0, "attack", 0, {})
    passed = world.defense.intercept(view, world.batch, StepContext(0, "defense", 0, {}))
    assert not torch.equal(passed.x, world.batch.x)
    problem = attack.problem(view, world.batch, torch.ones(ROWS).bool(), context)
    assert isinstance(attack, ThroughDSC)
    agreeing = attack.agreeing(view, world.batch, context)
    by_hand = ascending(lambda x: agreeing(x, passed.y))(passed.x)
    torch.testing.assert_close(ascending(problem.harm)(world.batch.x), by_hand, rtol=1e-9, atol=1e-12)
    assert problem.worth(world.batch.x)[1] == pytest.approx(float(agreeing(passed.x, passed.y).detach()))


def test_the_smooth_corrector_adds_the_switch() -> None:
    world = World(share=0.9)
    view = world.learner.view()
    attack, context = world.attack("through-dsc", backward="smooth", temperature=0.2), StepContext(0, "attack", 0, {})
    assert isinstance(attack, ThroughDSC)
    every, plain = torch.ones(ROWS).bool(), world.attack("through-dsc").problem
    problem, plain_one = attack.problem(view, world.batch, every, context), plain(view, world.batch, every, context)
    passed = world.defense.intercept(view, world.batch, StepContext(0, "defense", 0, {}))
    agreeing = attack.agreeing(view, world.batch, context)
    along = ascending(lambda x: agreeing(x, passed.y))(passed.x)
    leaf = world.batch.x.clone().requires_grad_()
    soft = torch.sigmoid((memorization_discrepancy(view, world.reference, leaf).mean() - world.threshold) / 0.2)
    (of_switch,) = torch.autograd.grad(soft, leaf)
    expected = along + (along * (passed.x - world.batch.x)).sum() * of_switch
    torch.testing.assert_close(ascending(problem.harm)(world.batch.x), expected, rtol=1e-8, atol=1e-12)
    assert problem.worth(world.batch.x) == plain_one.worth(world.batch.x)  # forward they are one


def test_rows_are_followed_through_a_defence_by_their_ids() -> None:
    sent = linear.images(0, rows=3)
    passed = Batch(sent.x[[2, 0, 1]] * 0.5, sent.y[[2, 0, 1]], torch.tensor([2, 0, -7]))  # one dropped, one made up
    x = sent.x.clone().requires_grad_()
    out = corrected(x, sent, passed, torch.ones(()))
    torch.testing.assert_close(out.detach(), passed.x)
    (slope,) = torch.autograd.grad(out.sum(), x)
    assert slope.flatten(1).mean(1).tolist() == [1, 0, 1]


def test_few_rows_deny_learning() -> None:
    world = World()
    sent, _ = world.sends("denial", ratio=0.34, eps=8 / 255)
    assert int((sent != world.batch.x).flatten(1).any(1).sum()) == 2
    context: dict[str, float] = {}
    for x, steps in ((world.batch.x, 0), (sent, 2)):
        world.defense.intercept(world.learner.view(), world.batch.with_x(x), StepContext(0, "defense", 1, context))
        assert context["defense/inner_steps"] == steps


def test_who_knows_nothing_is_told_nothing() -> None:
    for name in ATTACKS.names():
        access = simulation(name, triggers=("clean",)).access
        assert (access.defense is not None) == (name in KNOWN)
        assert (access.step is not None) == (name == "unrolled")


def test_what_cannot_be_attacked_is_refused() -> None:
    world = World(learner=Learner(random_net(0), lr=0.05, bn_mode="eval"))
    with refuses("the attack statistics moves batch norm's running statistics and this model does not move them"):
        world.attack("statistics")
    for name in ("unrolled", "denial"):
        attack = ATTACKS.build(name, {})
        bare = Access(random_batch(2), random_batch(3), crafted=False, reoptimise=False)
        with refuses(f"the attack {name}"):
            attack.setup(world.learner.view(), bare, StepContext(0, "setup", 0, {}))


def test_below_the_radar_of_a_stream() -> None:
    """As sent, rounded and uncropped, no batch and no trigger is corrected."""
    defense = DiscrepancyCorrection(slope=0.0)
    attack = ATTACKS.build("under-radar", {"steps": 2, "kappa": 0.999, "eps": 0.2})
    steps = run(attack, defense, augment="none", steps=2)
    assert len(steps) > 2
    for step in steps[:3]:
        under = step.metrics["defense/discrepancy_sent"] <= step.metrics["defense/threshold"]
        assert under == (step.metrics["defense/inner_steps"] == 0)
        assert under or step.metrics["defense/discrepancy_clean"] > step.metrics["defense/threshold"]


def test_gradients_of_a_view_are_as_before_beside_a_watch() -> None:
    """The layers of our own give way where a mode waits for PyTorch's functions, to the same values."""
    view, batch = view_of(random_net(0)), random_batch(1)
    logits, _ = followed(view, batch.x, train=False)
    slopes = torch.autograd.grad(F.cross_entropy(logits, batch.y), view.params())
    torch.testing.assert_close(slopes, gradient(view, batch.x, batch.y), rtol=1e-9, atol=1e-12)


def test_the_radar_is_of_those_before_the_defence() -> None:
    """An attacker in the training code comes after it: nothing need be kept."""
    world = World()
    attack = world.attack("under-radar", channel="code", steps=1)
    assert isinstance(attack, UnderRadar)
    assert attack.over(world.learner.view(), world.batch, StepContext(0, "attack", 0, {})) is None
