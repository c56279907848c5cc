"""The prediction of an update, the stealth constraint and the rounding of signs, held to closed forms."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from accupoison.attacks import Direct
from accupoison.attacks.stealth import SCALES, hide, loss_on
from accupoison.attacks.trigger import craft_trigger
from accupoison.gradients import gradient, pgd_linf
from accupoison.learner import Learner
from accupoison.loop.context import StepContext
from accupoison.models.view import view_of
from accupoison.types import Access, Batch
from tests.messages import refuses
from tests.nets import random_batch, random_net
from tests.oracle import linear


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("steps", [0, 2])
def test_a_preview_is_the_step_that_the_optimiser_takes(nesterov: bool, steps: int) -> None:
    learner = Learner(random_net(0), lr=0.1, momentum=0.9, weight_decay=1e-2, nesterov=nesterov)
    for i in range(steps):
        learner.apply(gradient(learner.view(), random_batch(i).x, random_batch(i).y))
    grads, before = gradient(learner.view(), random_batch(7).x, random_batch(7).y), learner.weights()
    stepped, settled = learner.preview(grads)
    assert torch.equal(learner.weights(), before)
    learner.apply(tuple(g.clone() for g in grads))
    for mine, real in zip(stepped, learner.model.parameters(), strict=True):
        torch.testing.assert_close(mine, real.detach(), rtol=0, atol=1e-14)
    learner.optimizer.param_groups[0]["weight_decay"] = 0.0
    for _ in range(400):
        learner.coast()
    for mine, real in zip(settled, learner.model.parameters(), strict=True):
        torch.testing.assert_close(mine, real.detach(), rtol=0, atol=1e-10)


def world(lr: float = 0.5) -> tuple[Learner, Access, Batch]:
    learner = Learner(linear.linear_net(0), lr=lr, momentum=0.0)
    access = Access(linear.images(2, rows=9), linear.images(3), crafted=True, reoptimise=False, preview=learner.preview)
    return learner, access, linear.images(1, rows=5)


def after_step(learner: Learner, access: Access, batch: Batch) -> float:
    """The loss on the attacker's images after one SGD step on ``batch``, in numpy."""
    weight, bias = linear.arrays(learner.model)  # type: ignore[arg-type]
    slope = linear.gradient(weight, bias, batch.x.numpy(), batch.y.numpy())
    weight, bias = weight - learner.lr * slope[0], bias - learner.lr * slope[1]
    logits = access.val.x.numpy().reshape(len(access.val), -1) @ weight.T + bias
    return float(F.cross_entropy(torch.from_numpy(logits), access.val.y))


def test_a_perturbation_shrinks_until_the_loss_stays_within_the_bound() -> None:
    learner, access, clean = world()
    poison = craft_trigger(learner.view(), clean, access.val, eps=0.3, steps=3)
    losses = [after_step(learner, access, clean.with_x(clean.x + s * (poison - clean.x))) for s in SCALES]
    assert losses[0] > losses[-1], "the poison must be worse than the clean batch for this test to say anything"
    for chosen in range(len(SCALES)):
        metrics: dict[str, float] = {}
        limit = losses[chosen] + 1e-9
        wanted = next(i for i, loss in enumerate(losses) if loss <= limit)
        sent = hide(learner.view(), clean, poison, access, limit, StepContext(0, "attack", 0, metrics))
        torch.testing.assert_close(sent, clean.x + SCALES[wanted] * (poison - clean.x))
        assert metrics == {"attack/feasible": 1.0, "attack/scale": SCALES[wanted]}
    metrics = {}
    sent = hide(learner.view(), clean, poison, access, min(losses) - 1e-3, StepContext(0, "attack", 0, metrics))
    assert torch.equal(sent, clean.x)
    assert metrics == {"attack/feasible": 0.0, "attack/scale": 0.0}


def test_the_bound_is_measured_from_the_start_and_survives_a_restart() -> None:
    learner, access, clean = world()
    attack = Direct(eps=0.3, steps=3, max_loss_increase=0.0)
    attack.setup(learner.view(), access, StepContext(0, "attack-setup", 0, {}))
    assert attack.start_loss == pytest.approx(loss_on(learner.view(), access.val))
    learner.apply(tuple(10 * g for g in gradient(learner.view(), clean.x, clean.y)))  # the loss moves
    other = Direct(eps=0.3, steps=3, max_loss_increase=0.0)
    other.restore(attack.state(), access)
    sent = [a.poison(learner.view(), clean, StepContext(0, "attack", 1, {})).x for a in (attack, other)]
    assert torch.equal(*sent)
    free = Direct(eps=0.3, steps=3)
    free.setup(learner.view(), access, StepContext(0, "attack-setup", 0, {}))
    assert not torch.equal(free.poison(learner.view(), clean, StepContext(0, "attack", 1, {})).x, sent[0])


def test_without_a_preview_there_is_no_stealth() -> None:
    learner, _, clean = world()
    access = Access(linear.images(2), linear.images(3), crafted=True, reoptimise=False)
    with refuses("needs Access.preview", ValueError):
        hide(learner.view(), clean, clean.x, access, 1.0, StepContext(0, "attack", 0, {}))


def test_rounding_leaves_flat_pixels_where_they_are() -> None:
    clean = torch.full((1, 4), 0.5, dtype=torch.float64)
    slope = torch.tensor([[0.1, -0.1, 4e-4, -6e-4]], dtype=torch.float64)
    plain, rounded = (
        pgd_linf(clean, lambda x: (x * slope).sum(), eps=0.2, steps=2, round_sign=r) for r in (False, True)
    )
    np.testing.assert_allclose(plain.numpy(), [[0.7, 0.3, 0.7, 0.3]])
    np.testing.assert_allclose(rounded.numpy(), [[0.7, 0.3, 0.5, 0.3]])


def test_attacks_round_where_they_are_told_to() -> None:
    view, batch = view_of(random_net(0)), random_batch(1)
    access = Access(random_batch(2), random_batch(3), crafted=True, reoptimise=False)
    sent = {}
    for rounding in (False, True):
        attack = Direct(eps=0.1, steps=1, round_sign=rounding)
        attack.setup(view, access, StepContext(0, "attack-setup", 0, {}))
        sent[rounding] = attack.poison(view, batch, StepContext(0, "attack", 0, {})).x
        expected = craft_trigger(view, batch, access.val, eps=0.1, steps=1, round_sign=rounding)
        assert torch.equal(sent[rounding], expected)
    still = (sent[True] == batch.x) & (sent[False] != batch.x)
    assert 0 < int(still.sum()) < still.numel()


def taught(seed: int, rows: int) -> Batch:
    """Return images whose labels a linear model can learn."""
    batch = linear.images(seed, rows=rows)
    teacher = torch.randn(4, batch.x[0].numel(), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return Batch(batch.x, ((batch.x - 0.5).flatten(1) @ teacher.T).argmax(1), batch.ids)


@pytest.mark.parametrize("bound", [0.02, 0.1])
def test_a_stealthy_attack_keeps_the_bound_over_many_steps(bound: float) -> None:
    """With momentum: what is predicted for one step alone would be carried over the bound by the steps before."""

    def losses(stealth: float | None) -> tuple[list[float], list[float]]:
        learner = Learner(linear.linear_net(0), lr=0.03, momentum=0.9)
        view, val = learner.view(), taught(2, 200)
        for t in range(60):  # a model that is learning
            learner.apply(gradient(view, taught(100 + t, 40).x, taught(100 + t, 40).y))
        attack, found, scales = Direct(eps=0.3, steps=3, max_loss_increase=stealth), [loss_on(view, val)], []
        access = Access(val, taught(3, 5), crafted=False, reoptimise=False, preview=learner.preview)
        attack.setup(view, access, StepContext(0, "setup", 0, {}))
        for t in range(12):
            batch, metrics = taught(200 + t, 40), dict[str, float]()
            sent = attack.poison(view, batch, StepContext(0, "attack", t, metrics))
            learner.apply(gradient(view, sent.x, sent.y))
            found.append(loss_on(view, val))
            scales.append(metrics.get("attack/scale", 1.0))
        return found, scales

    bold, _ = losses(None)
    shy, scales = losses(bound)
    assert max(bold) > bold[0] + 0.2, "the attack must break the bound for this test to say anything"
    assert all(loss <= shy[0] + bound + 1e-9 for loss in shy)
    assert 0 < sum(scales) < len(scales)
