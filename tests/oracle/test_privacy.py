"""DP-SGD held to the naive loop, to plain SGD, and its epsilon to closed forms."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from opacus.accountants.analysis import rdp
from scipy.stats import norm
from torch import Tensor, nn
from torch.nn.utils import weight_norm

from accupoison.defenses import DEFENSES, Defense
from accupoison.gradients import gradient
from accupoison.learner import Learner
from accupoison.loop.context import StepContext
from accupoison.measure.dp_accountant import epsilon_of, gaussian_delta, gaussian_epsilon
from accupoison.models.factory import ModelSpec, build_model
from accupoison.models.view import view_of
from accupoison.testing.bench import same
from accupoison.types import Batch, Grads
from accupoison.updates import DPSGD, SGD, check_private, private_gradients
from tests.messages import refuses
from tests.nets import random_batch

pytestmark = pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:opacus.*")


def net() -> nn.Module:
    return build_model(ModelSpec(name="convnet", width=4, norm="group")).double()


def learner(**settings: float) -> Learner:
    return Learner(net(), lr=0.1, **{"weight_decay": 1e-2, **settings})  # type: ignore[arg-type]


def private(
    of: Learner, batch: Batch, *, noise: float = 0.0, norm: float = 1e9, chunk: int = 4, seed: int = 0
) -> Grads:
    rng = torch.Generator().manual_seed(seed)
    losses = Defense().losses
    return private_gradients(of, losses, batch, noise_multiplier=noise, max_grad_norm=norm, chunk=chunk, rng=rng)


def naive(of: Learner, batch: Batch, bound: float) -> list[Tensor]:
    """Return the mean of clipped gradients, one sample at a time."""
    view, total = view_of(of.model), [torch.zeros_like(p) for p in of.model.parameters()]
    for i in range(len(batch)):
        grads = gradient(view, batch.x[i : i + 1], batch.y[i : i + 1])
        size = torch.sqrt(sum((g**2).sum() for g in grads))  # type: ignore[arg-type]
        factor = min(1.0, bound / (float(size) + 1e-6))
        total = [t + factor * g for t, g in zip(total, grads, strict=True)]
    return [t / len(batch) for t in total]


@pytest.mark.parametrize("chunk", [1, 3, 6, 100])
@pytest.mark.parametrize("bound", [0.05, 0.5, 1e9])
def test_gradients_are_clipped_as_in_the_naive_loop(bound: float, chunk: int) -> None:
    of, batch = learner(), random_batch(1, size=16)
    for mine, exact in zip(private(of, batch, norm=bound, chunk=chunk), naive(of, batch, bound), strict=True):
        torch.testing.assert_close(mine, exact, rtol=1e-8, atol=1e-10)


def test_without_noise_and_clipping_it_is_plain_sgd_and_otherwise_it_is_not() -> None:
    batch, steps = random_batch(1, size=16), {}
    for name, rule in {
        "sgd": SGD(),
        "dp": DPSGD(noise_multiplier=0.0, max_grad_norm=1e9),
        "noisy": DPSGD(noise_multiplier=0.1, max_grad_norm=1e9),
        "clipped": DPSGD(noise_multiplier=0.0, max_grad_norm=0.1),
    }.items():
        of = learner()
        for t in range(2):
            rule.step(of, Defense(), batch, StepContext(0, "update", t, {}))
        steps[name] = of.weights()
    torch.testing.assert_close(steps["dp"], steps["sgd"], rtol=0, atol=1e-9)
    assert float((steps["noisy"] - steps["sgd"]).abs().max()) > 1e-3
    assert float((steps["clipped"] - steps["sgd"]).abs().max()) > 1e-4


def test_changing_one_row_moves_no_other_rows_gradient() -> None:
    """With a single row changed, the sum moves by the difference of that row's two clipped gradients alone."""
    of, bound = learner(), 0.2
    batch, other = random_batch(1, size=16), random_batch(2, size=16)
    x = batch.x.clone()
    x[3] = other.x[0]
    changed = Batch(x, batch.y, batch.ids)
    moved = [a - b for a, b in zip(private(of, changed, norm=bound), private(of, batch, norm=bound), strict=True)]
    alone = [
        (a - b) / len(batch)
        for a, b in zip(
            naive(of, changed.rows(slice(3, 4)), bound), naive(of, batch.rows(slice(3, 4)), bound), strict=True
        )
    ]
    for mine, exact in zip(moved, alone, strict=True):
        torch.testing.assert_close(mine, exact, rtol=1e-7, atol=1e-10)
    size = float(torch.cat([m.flatten() for m in moved]).norm())
    assert 0 < size <= 2 * bound / len(batch) + 1e-9


def test_the_noise_has_the_size_it_should_and_comes_from_the_generator() -> None:
    of, batch = learner(), random_batch(1, size=16)
    clean = torch.cat([g.flatten() for g in private(of, batch, norm=0.5)])
    noisy, again, other = (
        torch.cat([g.flatten() for g in private(of, batch, norm=0.5, noise=2.0, seed=seed)]) for seed in (0, 0, 1)
    )
    assert torch.equal(noisy, again)
    assert not torch.equal(noisy, other)
    noise = noisy - clean
    assert float(noise.std()) == pytest.approx(2.0 * 0.5 / len(batch), rel=0.05)
    assert abs(float(noise.mean())) < 4 * float(noise.std()) / math.sqrt(len(noise))


@pytest.mark.parametrize("side", [32, 16])  # vgg16 ends in maps of a single pixel
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])  # runs have the second
@pytest.mark.parametrize("name", ["resnet18", "preact-resnet18", "vgg16", "mobilenetv2", "resnet8", "convnet"])
def test_every_network_can_be_trained_privately(name: str, layout: torch.memory_format, side: int) -> None:
    model = build_model(ModelSpec(name=name, width=8, norm="group"))
    check_private(Learner(model, lr=0.1), name, random_batch(1, rows=1, size=side, dtype=torch.float32))
    of, batch = Learner(model.double().to(memory_format=layout), lr=0.1), random_batch(1, rows=3, size=side)
    for mine, exact in zip(private(of, batch, norm=0.3, chunk=2), naive(of, batch, 0.3), strict=True):
        torch.testing.assert_close(mine, exact, rtol=1e-7, atol=1e-10)


def test_a_frozen_layer_stays_out() -> None:
    of, batch = learner(), random_batch(1, rows=3, size=16)
    whole = naive(of, batch, 1e9)
    of.model.get_submodule("body.0").requires_grad_(False)
    part = Learner(of.model, lr=0.1)
    check_private(part, "convnet", batch.rows(slice(1)))
    for mine, exact in zip(private(part, batch), whole[1:], strict=True):
        torch.testing.assert_close(mine, exact, rtol=1e-8, atol=1e-10)


def test_nothing_is_left_behind() -> None:
    of, batch = learner(), random_batch(1, size=16)
    state, view = of.state(), of.view()
    before = view.logits(batch.x)
    private(of, batch, noise=1.0)
    assert same(of.state(), state)
    assert torch.equal(view.logits(batch.x), before)
    for p in of.model.parameters():
        assert p.grad is None
        assert not hasattr(p, "grad_sample")
        assert not hasattr(p, "summed_grad")
    assert all(not m._forward_hooks and not m._backward_hooks for m in of.model.modules())


@pytest.mark.parametrize("name", [name for name in DEFENSES.names() if not DEFENSES.get(name).couples])
def test_defences_whose_rows_are_their_own_reduce_to_themselves(name: str) -> None:
    """Without noise and clipping a defence under DP-SGD takes the step it takes under SGD."""
    weights = []
    for rule in (SGD(), DPSGD(noise_multiplier=0.0, max_grad_norm=1e9)):
        of, defense = learner(), DEFENSES.build(name, {})
        defense.setup(of.view(), None, [random_batch(5, size=16)], StepContext(0, "defense-setup", 0, {}))
        seen = defense.intercept(of.view(), random_batch(1, size=16), StepContext(0, "defense", 0, {}))
        rule.step(of, defense, seen, StepContext(0, "update", 0, {}))
        weights.append(of.weights())
    torch.testing.assert_close(*weights, rtol=0, atol=1e-8)


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
def test_batch_norm_and_unknown_layers_are_refused() -> None:
    row = random_batch(1, rows=1, size=16, dtype=torch.float32)
    with refuses("body.1 mixes model.norm"):
        check_private(Learner(build_model(ModelSpec(name="convnet", width=4)), lr=0.1), "convnet", row)

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))
            self.register_buffer("table", torch.zeros(3))

    model: Callable[[], nn.Module] = lambda: nn.Sequential(Odd(), nn.BatchNorm1d(3))  # noqa: E731
    with refuses("mixes all of them"):
        check_private(Learner(model(), lr=0.1), "odd", row)
    normed = build_model(ModelSpec(name="convnet", width=4, norm="group"))
    assert isinstance(normed.fc, nn.Linear)
    weight_norm(normed.fc)  # Opacus takes the layer for an ordinary one, and then misses a gradient
    with refuses("Opacus per-sample normed"):
        check_private(Learner(normed, lr=0.1), "normed", row)


@pytest.mark.parametrize("mu", [0.05, 0.5, 1.0, 3.0, 10.0])
@pytest.mark.parametrize("delta", [1e-9, 1e-5, 1e-2])
def test_epsilon_solves_the_exact_condition(mu: float, delta: float) -> None:
    epsilon = gaussian_epsilon(mu, delta)
    if epsilon > 0:
        assert gaussian_delta(epsilon, mu) == pytest.approx(delta, rel=1e-6)
    else:
        assert gaussian_delta(0.0, mu) <= delta
    draws = np.linspace(-40, 40, 400_001)  # delta by its definition: the integral of (p - e^epsilon q)+
    p, q = norm.pdf(draws, mu), norm.pdf(draws)
    excess = np.trapezoid(np.maximum(p - math.exp(min(epsilon, 700)) * q, 0), draws)
    assert excess == pytest.approx(min(delta, gaussian_delta(epsilon, mu)), rel=1e-3, abs=1e-12)


@pytest.mark.parametrize(("visits", "sigma"), [(1, 1.0), (10, 2.0), (100, 5.0), (30, 1.0)])
def test_opacus_bounds_it_from_above(visits: int, sigma: float) -> None:
    orders = [1 + x / 10 for x in range(1, 100)] + list(range(12, 200))
    spent = rdp.compute_rdp(q=1.0, noise_multiplier=sigma, steps=visits, orders=orders)
    bound, _ = rdp.get_privacy_spent(orders=orders, rdp=spent, delta=1e-5)
    exact = epsilon_of(visits, sigma, 1e-5)
    assert 0.7 * bound < exact <= bound


def test_epsilon_at_the_ends() -> None:
    assert epsilon_of(0, 1.0, 1e-5) == 0
    assert epsilon_of(1, 0.0, 1e-5) == math.inf
    assert epsilon_of(4, 2.0, 1e-5) == epsilon_of(1, 1.0, 1e-5)
    assert epsilon_of(1e4, 1.0, 1e-5) > 1000  # finite still
    values = [epsilon_of(k, 1.0, 1e-5) for k in (1, 2, 5, 20)]
    assert values == sorted(values)
