"""MEDBN, EMA, RDUMB and DSC per sample against formulas, and what comes of an update that a defence takes back."""

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from accupoison.config.schema import burnin_config
from accupoison.defenses import DEFENSES, Defense, DiscrepancyCorrection
from accupoison.defenses.dsc import correct
from accupoison.defenses.medbn import MedianBatchNorm, MedianNorm, median_statistics
from accupoison.discrepancy import divergence, memorization_discrepancy
from accupoison.errors import ComponentError, InputError
from accupoison.learner import Learner
from accupoison.loop.context import StepContext
from accupoison.loop.simulation import Simulation
from accupoison.measure.accuracy import evaluate
from accupoison.models.view import view_of
from accupoison.records.ledger import Ledger
from accupoison.testing.bench import same
from accupoison.types import Batch, Context, ModelView, Verdict
from tests.messages import refuses
from tests.nets import normal, random_batch, random_net
from tests.simulations import data, simulation, weights_and_statistics


def context() -> StepContext:
    return StepContext(0, "defense", 0, {})


# MEDBN


@pytest.mark.parametrize("size", [1e2, 1e4, 1e6])
def test_an_outlier_moves_the_median_by_one_place_and_the_mean_by_its_size(size: float) -> None:
    x = normal(9, 3, 2, 2)
    far = x.clone()
    far[4] += size
    moved = len(far[4, 0].flatten())
    for channel in range(3):
        ordered = x[:, channel].flatten().sort().values
        at = (len(ordered) - 1) // 2
        centre = median_statistics(far)[0][channel]
        assert ordered[at] <= centre <= ordered[at + moved]
    means = (far.mean((0, 2, 3)) - x.mean((0, 2, 3))).abs()
    torch.testing.assert_close(means, torch.full_like(means, size / 9))
    assert float(median_statistics(far)[1].min()) > size**2 / 10  # as in the paper, the spread is no median


@pytest.mark.parametrize("amount", [1.0, 0.25])
@pytest.mark.parametrize(("layer", "shape"), [(nn.BatchNorm2d, (5, 3, 4, 4)), (nn.BatchNorm1d, (7, 3))])
def test_a_layer_in_the_mode(
    layer: type[nn.modules.batchnorm._BatchNorm], shape: tuple[int, ...], amount: float
) -> None:
    """Output, gradients and running statistics are those of the formula; outside the mode all is as before."""
    norm = layer(3).double()
    with torch.no_grad():
        assert norm.weight is not None
        norm.weight.uniform_(0.5, 2)
        norm.bias.normal_()
    x = normal(*shape).requires_grad_()
    plain = norm.eval()(x).detach()
    axes = [0, *range(2, x.ndim)]
    flat = x.transpose(0, 1).flatten(1)
    count = flat.shape[1]
    centre = flat.sort(dim=1).values[:, (count - 1) // 2]
    var = (flat - centre[:, None]).square().mean(1)
    centre, var = (
        amount * ours + (1 - amount) * usual
        for ours, usual in ((centre, x.mean(axes)), (var, x.var(axes, correction=0)))
    )
    wide = (1, 3, *(1 for _ in shape[2:]))
    weight, bias = norm.weight.view(wide), norm.bias.view(wide)
    wanted = (x - centre.view(wide)) / (var + norm.eps).sqrt().view(wide) * weight + bias
    with MedianNorm(amount) as mode:
        found = norm.train()(x)
        assert torch.equal(norm.eval()(x), F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias))
    assert mode.met == 3
    torch.testing.assert_close(found, wanted)
    weights = normal(*shape, seed=1)
    slopes = [torch.autograd.grad((out * weights).sum(), [x, norm.weight]) for out in (found, wanted)]
    torch.testing.assert_close(*slopes)
    torch.testing.assert_close(norm.running_mean, 0.1 * centre.detach())
    torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * var.detach() * count / (count - 1))
    norm.reset_running_stats()
    assert torch.equal(norm.eval()(x), plain)


def test_one_far_row_does_not_carry_the_running_mean_away() -> None:
    batch = random_batch(1)
    far = batch.x.clone()
    far[2] *= 1e3
    batches = batch, replace(batch, x=far, bounded=False)
    ours, usual = ([_tracked(defense, some) for some in batches] for defense in (MedianBatchNorm(), Defense()))
    assert float((ours[1] - ours[0]).norm()) < 0.02
    assert float((usual[1] - usual[0]).norm()) > 1
    assert not torch.equal(ours[0], usual[0])
    assert torch.equal(_tracked(MedianBatchNorm(amount=0.0), batch), usual[0])


def _tracked(defense: Defense, batch: Batch) -> Tensor:
    learner = Learner(random_net(0), lr=0.1)
    with learner.forward() as forward:
        defense.losses(forward, batch)
    first = next(m for m in learner.model.modules() if isinstance(m, nn.BatchNorm2d))
    assert first.running_mean is not None
    return first.running_mean


def test_medians_of_a_model_without_batch_norm() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(144, 10)).double()
    with Learner(net, lr=0.1).forward() as forward:
        with refuses("MEDBN batch norm none model.norm batch"):
            MedianBatchNorm().losses(forward, random_batch(0))
        MedianBatchNorm(amount=0.0).losses(forward, random_batch(0))


# EMA


def test_averages_by_hand_and_who_meets_them() -> None:
    """a_t = 0.7 a_(t-1) + 0.3 w_t thrice; accuracy and the stream's loss are those of a, updates those of w."""
    both = (DEFENSES.build("EMA", {"decay": 0.7}), Defense())
    simulated, plain = (simulation("noise", defense, ("none",), steps=3, recovery_steps=0) for defense in both)
    average = {name: value.double() for name, value in weights_and_statistics(simulated.learner).items()}
    for step, (ours, usual) in enumerate(zip(simulated.run(), plain.run(), strict=True)):
        learnt = weights_and_statistics(simulated.learner)
        assert same(learnt, weights_and_statistics(plain.learner))  # what learns is standard training
        average = {name: 0.7 * value + 0.3 * learnt[name].double() for name, value in average.items()}
        served = dict(simulated.served.view().state())
        for name, value in served.items():
            if value.is_floating_point():
                torch.testing.assert_close(value.double(), average[name], rtol=1e-5, atol=1e-6)
            else:
                assert torch.equal(value, learnt[name])
        assert same(served, {name: value.detach() for name, value in simulated.served.model().state_dict().items()})
        assert ours.verdict is Verdict.COMMIT
        assert ours.metrics["optim/grad_norm"] == usual.metrics["optim/grad_norm"]
        differs = ours.metrics["stream/loss"] != usual.metrics["stream/loss"]
        assert differs == (step > 0)
        assert (ours.metrics["defense/discrepancy_sent"] != usual.metrics["defense/discrepancy_sent"]) == (step > 0)
    everything = torch.arange(100)
    assert evaluate(simulated.served.view(), data(), everything) != evaluate(plain.served.view(), data(), everything)


def test_standard_training_serves_the_model_itself() -> None:
    for defense in (Defense(), DEFENSES.build("EMA", {"decay": 0.0})):
        simulated = simulation("noise", defense, ("clean",), steps=1)
        list(simulated.run())
        assert simulated.served.view() is simulated.learner.view()
        assert simulated.served.model() is simulated.learner.model


# RDUMB, and verdicts


def state_of(simulated: Simulation) -> dict[str, Any]:
    return simulated.learner.state()


def test_resets_put_back_weights_statistics_and_momentum_and_forget_members() -> None:
    simulated = simulation("noise", DEFENSES.build("RDUMB", {"every": 2}), ("clean",), steps=4, recovery_steps=1)
    base, ledger, learnt = state_of(simulated), Ledger(), []
    for step in simulated.run():
        ledger.add(step)
        learnt.append(set(ledger.learnt("clean")))
        reset = step.t % 2 == 1
        assert step.verdict is (Verdict.RESET if reset else Verdict.COMMIT)
        assert step.metrics["defense/undone"] == float(reset)
        assert same(state_of(simulated), base) == reset
        assert learnt[-1] == (set() if reset else set(step.clean.ids.tolist()))
        assert (step.metrics["optim/distance_from_start"] == 0) == reset


def test_resets_on_drift() -> None:
    """The drift is the divergence on trusted images of what is there now; above the threshold the base comes back."""
    never = simulation("noise", DEFENSES.build("RDUMB", {"every": None, "drift": 1e9}), ("clean",), steps=4)
    trusted = torch.cat([batch.x for batch in never.trusted])
    answers, drifts = never.learner.view().logits(trusted), []
    for step in never.run():
        if never.t == 1:
            images = never.defense.images  # type: ignore[attr-defined]
            assert len(images) == len(trusted)
            answers = never.defense.answers  # type: ignore[attr-defined]
        drift = float(divergence(answers, never.learner.view().logits(images)).mean().detach())
        assert step.metrics["defense/drift"] == pytest.approx(drift, rel=1e-3)
        drifts.append(drift)
        assert step.verdict is Verdict.COMMIT
    bound = sorted(drifts)[1]
    some = simulation("noise", DEFENSES.build("RDUMB", {"every": None, "drift": bound}), ("clean",), steps=4)
    base = state_of(some)
    verdicts = []
    for step in some.run():
        verdicts.append(step.verdict)
        assert (step.metrics["defense/drift"] > bound) == (step.verdict is Verdict.RESET)
        assert same(state_of(some), base) == (step.verdict is Verdict.RESET)
    assert Verdict.RESET in verdicts


def test_a_diverged_model_is_put_back() -> None:
    defense = DEFENSES.build("RDUMB", {"every": None, "drift": 5.0})
    view, batch = view_of(random_net(0)), random_batch(0)
    defense.setup(view, None, [batch], context())
    broken = random_net(0)
    next(broken.parameters()).data.fill_(math.nan)
    assert defense.after(view, view, context()) is Verdict.COMMIT
    assert defense.after(view, view_of(broken), context()) is Verdict.RESET


@dataclass(kw_only=True)
class Gate(Defense):
    """Takes back every second step: what a gate on canaries will do."""

    couples: ClassVar[bool | None] = True

    def after(self, before: ModelView, view: ModelView, ctx: Context) -> Verdict:
        assert not torch.equal(before.params()[0], view.params()[0])
        return Verdict.ROLLBACK if ctx.t % 2 else Verdict.COMMIT


def test_a_step_taken_back_leaves_weights_and_statistics_and_no_momentum() -> None:
    simulated, ledger = simulation("noise", Gate(), ("coast", "clean"), steps=3), Ledger()
    before: dict[str, Any] = {}
    for step in simulated.run():
        ledger.add(step)
        now = state_of(simulated)
        taken_back = step.verdict is Verdict.ROLLBACK
        assert taken_back == bool(step.t % 2)  # also where momentum alone has moved the model
        if step.t < 3:
            assert taken_back == (step.t > 0 and same(now["model"], before["model"]))
            assert taken_back == (not now["optimizer"]["state"])
        assert step.metrics["defense/undone"] == float(taken_back)
        before = now
    steps = set(ledger.learnt("clean").values())
    assert steps == {0, 2, 4}


def test_who_undoes_a_batch_couples_its_rows() -> None:
    @dataclass(kw_only=True)
    class Denies(Gate):
        couples: ClassVar[bool | None] = False

    class Silent(Denies):
        def after(self, before: ModelView, view: ModelView, ctx: Context) -> Verdict:
            return super().after(before, view, ctx)

    assert Silent.couples is None
    with pytest.raises(ComponentError, match="couples"):
        list(simulation("noise", Denies(), ("clean",)).run())


@pytest.mark.parametrize("name", ["EMA", "RDUMB"])
def test_a_burn_in_lets_nobody_judge(name: str) -> None:
    with refuses(name, InputError):
        burnin_config([{"defense": {"name": name}}, {"attack": {"name": "none"}}])


# DSC per sample


def test_only_rows_above_the_threshold_are_corrected() -> None:
    live, early, batch = view_of(random_net(0)), view_of(random_net(1)), random_batch(2)
    alone = memorization_discrepancy(live, early, batch.x).detach()
    threshold = float(alone.sort().values[2:4].mean())
    above = alone > threshold
    x, taken = correct(live, early, batch, threshold, steps=4, per_sample=True)
    assert 0 < taken <= 4
    assert torch.equal(x[~above], batch.x[~above])
    assert all(bool((x[i] != batch.x[i]).any()) for i in above.nonzero()[:, 0])
    for row in above.nonzero()[:, 0]:  # each goes the way that it goes in a batch of its own
        one = batch.rows(row.view(1))
        torch.testing.assert_close(correct(live, early, one, threshold, steps=4)[0], x[row].unsqueeze(0))
    whole, _ = correct(live, early, batch, threshold, steps=4)
    assert bool((whole[~above] != batch.x[~above]).any())  # the mean is above, so by default all are
    of_all = [correct(live, early, batch, -1.0, steps=3, per_sample=which)[0] for which in (False, True)]
    assert torch.equal(*of_all)
    assert correct(live, early, batch, math.inf, per_sample=True)[1] == 0


def test_rows_are_held_to_what_rows_of_trusted_batches_have() -> None:
    live, early = view_of(random_net(0)), view_of(random_net(1))
    trusted = [random_batch(seed) for seed in range(22)]
    rows = torch.cat([memorization_discrepancy(live, early, batch.x).detach() for batch in trusted[:20]])
    defense = DiscrepancyCorrection(per_sample=True)
    defense.setup(live, early, trusted, context())
    assert defense.base == pytest.approx(float(rows.mean() + 3 * rows.std()), rel=1e-6)
    mean = DiscrepancyCorrection()
    mean.setup(live, early, trusted, context())
    assert mean.base < defense.base


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("MEDBN", {"amount": 1.5}, "defense.amount 1.5 [0, 1]"),
        ("EMA", {"decay": 1.0}, "defense.decay 1.0 0.9"),
        ("EMA", {"decay": math.nan}, "defense.decay nan"),
        ("RDUMB", {"every": 0}, "defense.every 0 none"),
        ("RDUMB", {"drift": -0.5}, "defense.drift -0.5 none"),
    ],
)
def test_settings_that_make_no_sense(name: str, settings: dict[str, Any], words: str) -> None:
    with refuses(words):
        DEFENSES.build(name, settings)


def test_drift_without_trusted_images() -> None:
    with refuses("RDUMB data.trusted defense.drift=none"):
        DEFENSES.build("RDUMB", {"drift": 0.1}).setup(view_of(random_net(0)), None, [], context())
