"""Defences against textbook formulas."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from accupoison.defenses import AdversarialTraining, Clip, DiscrepancyCorrection, Trades
from accupoison.defenses.at import perturb
from accupoison.defenses.clip import clip
from accupoison.defenses.dsc import correct
from accupoison.discrepancy import batch_discrepancy, divergence
from accupoison.learner import Learner
from accupoison.loop.context import StepContext
from accupoison.models.view import view_of
from tests.messages import refuses
from tests.nets import random_batch, random_net


def context(t: int = 0) -> StepContext:
    return StepContext(0, "defense", t, {})


def grads(scale: float, seed: int = 0) -> tuple[Tensor, ...]:
    rng = torch.Generator().manual_seed(seed)
    return tuple(scale * torch.randn(shape, generator=rng) for shape in [(4, 3), (4,), (2, 2, 3, 3)])


@pytest.mark.parametrize(("norm", "order"), [("l2", 2.0), ("linf", math.inf)])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_clip_agrees_with_torch(norm: str, order: float, scale: float) -> None:
    """Torch divides by norm + 1e-6, hence the tolerance."""
    ours = clip(grads(scale), 0.5, norm)
    parameters = [nn.Parameter(torch.zeros_like(g)) for g in grads(scale)]
    for parameter, g in zip(parameters, grads(scale), strict=True):
        parameter.grad = g
    torch.nn.utils.clip_grad_norm_(parameters, 0.5, norm_type=order)
    for a, parameter in zip(ours, parameters, strict=True):
        torch.testing.assert_close(a, parameter.grad, rtol=1e-5, atol=0)
    size = torch.cat([g.flatten() for g in ours]).norm(order)
    whole = float(torch.cat([g.flatten() for g in grads(scale)]).norm(order))
    assert float(size) == pytest.approx(min(0.5, whole), rel=1e-6)
    assert Clip(max_norm=0.5, norm=norm).gradients(grads(scale), (), context())[0].equal(ours[0])


def test_clip_leaves_small_and_zero_gradients_bit_for_bit() -> None:
    for some, bound in ((grads(1e-4), 0.5), (grads(1e3), math.inf), (tuple(g * 0 for g in grads(1.0)), 0.5)):
        assert all(torch.equal(a, b) for a, b in zip(clip(some, bound), some, strict=True))


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_trades_loss(mode: str) -> None:
    """CE(f(x), y) + beta KL(f(x) || f(x')), both forwards in the update mode, on a network of one's own."""
    net, batch = random_net(0), random_batch(1)
    learner, twin = Learner(random_net(0), lr=0.1, bn_mode=mode), net.train(mode == "train")
    defense = Trades(beta=6.0, steps=3)
    seen = defense.intercept(learner.view(), batch, context())
    with learner.forward() as forward:
        losses = defense.losses(forward, seen)
    clean = F.log_softmax(twin(batch.x), 1)
    after_clean = {name: b.clone() for name, b in twin.named_buffers()}
    adversarial = F.log_softmax(twin(seen.extra["x_adv"]), 1)
    kl = F.kl_div(adversarial, clean, reduction="none", log_target=True).sum(1)
    torch.testing.assert_close(losses, F.nll_loss(clean, batch.y, reduction="none") + 6.0 * kl, rtol=0, atol=1e-12)
    batchmean = F.kl_div(adversarial, clean, reduction="batchmean", log_target=True)
    torch.testing.assert_close(losses.mean(), F.nll_loss(clean, batch.y) + 6.0 * batchmean, rtol=0, atol=1e-12)
    assert float(kl.detach().min()) > 0
    for name, buffer in learner.model.named_buffers():  # the clean images alone move the statistics
        torch.testing.assert_close(buffer, after_clean[name], rtol=0, atol=1e-14)


def test_trades_search_climbs_the_divergence() -> None:
    view, batch = view_of(random_net(0)), random_batch(1)
    reference, reached = view.logits(batch.x), []
    for steps in (0, 1, 5):
        x = Trades(steps=steps, step_size=0.01, eps=0.04).intercept(view, batch, context()).extra["x_adv"]
        assert float((x - batch.x).abs().max()) <= 0.04 + 1e-12
        reached.append(float(divergence(reference, view.logits(x)).mean().detach()))
    assert 0 < reached[0] < reached[1] < reached[2]
    start = Trades(steps=0).intercept(view, batch, context()).extra["x_adv"] - batch.x
    inside = (batch.x > 0.01) & (batch.x < 0.99)
    assert float(start[inside].std()) == pytest.approx(0.001, rel=0.1)
    again = Trades(steps=0).intercept(view, batch, context(1)).extra["x_adv"] - batch.x
    assert not torch.equal(start, again)


@pytest.mark.parametrize("seed", range(3))
def test_adversarial_training_ascends_and_descends(seed: int) -> None:
    view, batch = view_of(random_net(seed)), random_batch(seed + 10)

    def loss(x: Tensor) -> float:
        return float(F.cross_entropy(view.logits(x), batch.y).detach())

    for direction, sign in (("ascend", 1), ("descend", -1)):
        path = [perturb(view, batch, eps=0.1, step_size=0.01, steps=n, direction=direction) for n in range(4)]
        assert torch.equal(path[0], batch.x)
        losses = [sign * loss(x) for x in path]
        assert losses == sorted(losses)
        assert losses[-1] > losses[0] + 0.005
        seen = AdversarialTraining(eps=0.1, step_size=0.01, steps=3, direction=direction).intercept(
            view, batch, context()
        )
        assert torch.equal(seen.x, path[-1])


def test_inner_searches_move_by_step_size_and_stop_at_the_ball() -> None:
    view, batch = view_of(random_net(0)), random_batch(1)
    inside = (batch.x > 0.2) & (batch.x < 0.8)
    one = perturb(view, batch, eps=0.1, step_size=0.02, steps=1)
    moved = (one - batch.x).abs()[inside]
    assert float(((moved - 0.02).abs() < 1e-12).double().mean()) > 0.9  # the rest has no gradient
    many = perturb(view, batch, eps=0.1, step_size=0.04, steps=10)
    assert float((many - batch.x).abs().max()) == pytest.approx(0.1, abs=1e-12)
    assert float(many.min()) >= 0.0
    assert float(many.max()) <= 1.0


def test_correction_stops_at_the_first_batch_below_the_threshold() -> None:
    live, early, batch = view_of(random_net(0)), view_of(random_net(1)), random_batch(2)
    path = [correct(live, early, batch, -1.0, steps=n)[0] for n in range(6)]
    values = [batch_discrepancy(live, early, x) for x in path]
    for goal in range(6):
        threshold = values[goal] * (1 + 1e-9)  # a search rounds in another way
        first = next(n for n, value in enumerate(values) if value <= threshold)
        x, taken = correct(live, early, batch, threshold, steps=5)
        assert taken == first
        assert torch.equal(x, path[first])
    x, taken = correct(live, early, batch, -1.0, steps=5)
    assert taken == 5
    losses = [float(F.cross_entropy(live.logits(v), batch.y).detach()) for v in (batch.x, x)]
    assert losses[1] < losses[0] - 0.01  # what it does to get there is to lower the loss


def test_the_threshold_is_calibrated_and_grows() -> None:
    live, early = view_of(random_net(0)), view_of(random_net(1))
    trusted = [random_batch(seed) for seed in range(25)]
    values = torch.tensor([batch_discrepancy(live, early, b.x) for b in trusted[:20]], dtype=torch.float64)
    defense = DiscrepancyCorrection(slope=0.25)
    defense.setup(live, early, trusted, context())
    base = float(values.mean() + 3 * values.std())
    metrics: dict[str, float] = {}
    defense.intercept(live, trusted[0], StepContext(0, "defense", 4, metrics))
    assert metrics["defense/threshold"] == pytest.approx(base + 0.25 * 4, rel=1e-6)
    fixed = DiscrepancyCorrection(threshold=0.5, slope=0.02)
    fixed.setup(live, early, [], context())
    fixed.intercept(live, trusted[0], StepContext(0, "defense", 10, metrics))
    assert metrics["defense/threshold"] == pytest.approx(0.7)


def test_what_dsc_cannot_do_without() -> None:
    live, early, trusted = view_of(random_net(0)), view_of(random_net(1)), [random_batch(2)]
    with refuses("none start.reference"):
        DiscrepancyCorrection().setup(live, None, trusted, context())
    with refuses("20 trusted batches got 1 defense.threshold"):
        DiscrepancyCorrection().setup(live, early, trusted, context())


@pytest.mark.parametrize("value", [-0.1, 1.5, math.nan])
def test_settings_that_make_no_sense(value: float) -> None:
    for make in (AdversarialTraining, Trades, DiscrepancyCorrection):
        with refuses("defense.eps"):
            make(eps=value)
    for make in (AdversarialTraining, Trades, DiscrepancyCorrection):
        with refuses("defense.steps -1 is negative"):
            make(steps=-1)
        with refuses("defense.step_size 0.0 0"):
            make(step_size=0.0)
    with refuses("descend"):
        AdversarialTraining(direction="decend")
    with refuses("linf"):
        Clip(norm="inf")
