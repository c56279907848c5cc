"""SGD against momentum arithmetic written out by hand."""

import math
from dataclasses import dataclass

import pytest
import torch

from accupoison.defenses import Defense, Freeze
from accupoison.learner import Learner
from accupoison.loop.context import StepContext
from accupoison.testing import unchanged
from accupoison.types import Batch, Context, Grads, Verdict
from accupoison.updates import SGD
from tests.messages import refuses
from tests.nets import random_batch, random_net
from tests.oracle import linear


class ByHand:
    """Momentum and weight decay as SGD's definition has them: v = m v + g + d w; w = w - lr v."""

    def __init__(self, learner: Learner, lr: float, momentum: float, decay: float) -> None:
        self.weights = [p.detach().clone() for p in learner.model.parameters()]
        self.velocity = [torch.zeros_like(w) for w in self.weights]
        self.lr, self.momentum, self.decay = lr, momentum, decay

    def step(self, grads: list[torch.Tensor]) -> None:
        for w, v, g in zip(self.weights, self.velocity, grads, strict=True):
            v.mul_(self.momentum).add_(g + self.decay * w)
            w.sub_(self.lr * v)

    def gradient(self, batch: Batch) -> list[torch.Tensor]:
        weight, bias = (w.numpy() for w in self.weights)
        return [torch.from_numpy(g) for g in linear.gradient(weight, bias, batch.x.numpy(), batch.y.numpy())]


def context(metrics: dict[str, float] | None = None) -> StepContext:
    return StepContext(0, "update", 0, {} if metrics is None else metrics)


def close(learner: Learner, hand: ByHand) -> None:
    for ours, theirs in ((tuple(learner.model.parameters()), hand.weights), (learner.momentum(), hand.velocity)):
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a.detach(), b, rtol=0, atol=1e-14)


@pytest.mark.parametrize(("momentum", "decay"), [(0.9, 0.0), (0.9, 0.01), (0.5, 0.1), (0.0, 0.01)])
def test_updates_and_coasting(momentum: float, decay: float) -> None:
    learner = Learner(linear.linear_net(0), lr=0.3, momentum=momentum, weight_decay=decay)
    hand, rule = ByHand(learner, 0.3, momentum, decay), SGD()
    zeros = [torch.zeros_like(w) for w in hand.weights]
    for seed in (1, 2, None, 3, None, None):
        if seed is None:
            learner.coast()
            hand.step(zeros)
        else:
            batch, metrics = linear.images(seed), dict[str, float]()
            grads = hand.gradient(batch)
            assert rule.step(learner, Defense(), batch, context(metrics)) is Verdict.COMMIT
            norm = math.sqrt(sum(float((g**2).sum()) for g in grads))
            assert metrics["optim/grad_norm"] == pytest.approx(norm, rel=1e-12)
            hand.step(grads)
        if momentum:
            close(learner, hand)
        else:
            torch.testing.assert_close(learner.weights(), torch.cat([w.flatten() for w in hand.weights]))
    assert all(p.grad is None for p in learner.model.parameters())


def test_clipping_comes_after_the_defence() -> None:
    @dataclass(kw_only=True)
    class Tenfold(Defense):
        def gradients(self, grads: Grads, momentum: Grads, ctx: Context) -> Grads:
            return tuple(10 * g for g in grads)

    learner, batch = Learner(linear.linear_net(0), lr=1.0, momentum=0.0), linear.images(1)
    hand = ByHand(learner, 1.0, 0.0, 0.0)
    grads = hand.gradient(batch)
    before = learner.weights()
    SGD(clip_norm=0.25).step(learner, Tenfold(), batch, context())
    step = before - learner.weights()
    assert float(step.norm()) == pytest.approx(0.25, rel=1e-9)
    along = torch.cat([g.flatten() for g in grads])
    torch.testing.assert_close(step, 0.25 * along / along.norm())
    SGD(clip_norm=0.25, clip_kind="linf").step(learner, Tenfold(), batch, context())
    assert float((before - step - learner.weights()).abs().max()) == pytest.approx(0.25, rel=1e-9)


def test_an_empty_batch_changes_nothing() -> None:
    learner = Learner(random_net(0), lr=0.1, weight_decay=0.1)
    SGD().step(learner, Defense(), random_batch(1), context())  # fills momentum and counters
    batch, metrics = random_batch(2), dict[str, float]()
    for defense in (Defense(), Freeze()):
        with unchanged(learner, "an empty batch", batch):
            empty = Freeze().intercept(learner.view(), batch, context())
            assert SGD().step(learner, defense, empty, context(metrics)) is Verdict.SKIP
    assert not metrics
    with pytest.raises(AssertionError), unchanged(learner, "a full one"):
        SGD().step(learner, Defense(), batch, context())


def test_one_update_moves_the_statistics_once() -> None:
    learner, batch, m = Learner(random_net(0), lr=0.1), random_batch(1), 0.1
    norm = next(x for x in learner.model.children() if isinstance(x, torch.nn.BatchNorm2d))
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    before = norm.running_mean.clone(), norm.running_var.clone()
    with torch.no_grad():
        inputs = next(learner.model.children())(batch.x)
    SGD().step(learner, Defense(), batch, context())
    torch.testing.assert_close(norm.running_mean, (1 - m) * before[0] + m * inputs.mean((0, 2, 3)))
    torch.testing.assert_close(norm.running_var, (1 - m) * before[1] + m * inputs.var((0, 2, 3)))
    assert int(norm.num_batches_tracked) == 1
    frozen = Learner(random_net(0), lr=0.1, bn_mode="eval")
    statistics = {name: b.clone() for name, b in frozen.model.named_buffers()}
    start = frozen.weights()
    SGD().step(frozen, Defense(), batch, context())
    assert not torch.equal(frozen.weights(), start)
    assert all(torch.equal(b, statistics[name]) for name, b in frozen.model.named_buffers())


def test_a_second_tracked_pass_is_refused() -> None:
    learner, batch = Learner(random_net(0), lr=0.1), random_batch(1)
    with learner.forward() as forward:
        first = forward(batch.x)
        untracked = forward(batch.x)
        with refuses("second forward pass", RuntimeError):
            forward(batch.x, track=True)
    assert torch.equal(first, untracked)
    with learner.forward() as forward:
        forward(batch.x / 2, track=False)
        forward(batch.x)
    norm = next(x for x in learner.model.children() if isinstance(x, torch.nn.BatchNorm2d))
    assert norm.num_batches_tracked is not None
    assert int(norm.num_batches_tracked) == 2
    assert not learner.model.training
