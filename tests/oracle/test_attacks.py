"""Crafting held to softmax regression in closed form and to central differences."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from accupoison import gradients
from accupoison.attacks import Accumulative, Direct, Noise
from accupoison.attacks.accumulative import alignment, alignment_gradient, craft_accumulative
from accupoison.attacks.trigger import craft_trigger
from accupoison.data import quantise
from accupoison.data.corruptions import Shift
from accupoison.gradients import gradient, gradient_and_hvp, inner, normalize_each, pgd_linf
from accupoison.loop.context import StepContext
from accupoison.models.view import view_of
from accupoison.types import Access, Batch, Grads
from tests.nets import random_batch, random_net
from tests.oracle import linear
from tests.oracle.linear import Array

EPS = 0.05


def slope(function: Callable[[Array], float], at: Array, h: float = 1e-6) -> Array:
    """Return central differences of ``function`` in every entry."""
    out = np.zeros_like(at)
    for index in np.ndindex(at.shape):
        ahead, behind = at.copy(), at.copy()
        ahead[index] += h
        behind[index] -= h
        out[index] = (function(ahead) - function(behind)) / (2 * h)
    return out


def test_gradient() -> None:
    net, batch = linear.linear_net(0), linear.images(1)
    exact = linear.gradient(*linear.arrays(net), batch.x.numpy(), batch.y.numpy())
    for ours, theirs in zip(gradient(view_of(net), batch.x, batch.y), exact, strict=True):
        torch.testing.assert_close(ours, torch.from_numpy(theirs), rtol=0, atol=1e-14)


def test_units_are_taken_tensor_by_tensor() -> None:
    grads = (torch.tensor([[3.0, 4.0]]), torch.zeros(2), torch.tensor([-1e-9]))
    ours = normalize_each(grads)
    torch.testing.assert_close(ours, (torch.tensor([[0.6, 0.8]]), torch.zeros(2), torch.tensor([-1.0])))
    assert float(inner(ours, ours)) == pytest.approx(2.0)  # one for every tensor that is not zero


@pytest.mark.parametrize("train", [False, True])
def test_curvature_does_not_depend_on_the_chunks(train: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    view, batch = view_of(random_net(0)), random_batch(1, rows=11)
    vector = normalize_each(gradient(view, random_batch(2).x, random_batch(2).y))
    whole = gradient(view, batch.x, batch.y, train=train, graph=True)
    exact = torch.autograd.grad(inner(whole, vector), view.params(), retain_graph=True)
    for size in (11, 4):  # batch statistics are those of the whole batch, whatever the chunks
        monkeypatch.setattr(gradients, "rows_at_once", lambda *_, size=size: size)
        slope, times = gradient_and_hvp(view, batch, train=train)
        torch.testing.assert_close(slope, whole, rtol=0, atol=1e-13)
        for _ in range(2):  # a graph that waited is used once
            torch.testing.assert_close(times(vector), exact, rtol=0, atol=1e-13)


@pytest.mark.parametrize("seed", range(3))
def test_the_second_order_term_is_the_gradient_of_the_alignment(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradients, "rows_at_once", lambda *_: 4)
    view, trigger, val = view_of(random_net(seed)), random_batch(seed + 1), random_batch(seed + 2, rows=11)
    value = alignment(view, trigger, val)
    exact, (ours, said) = torch.autograd.grad(value, view.params()), alignment_gradient(view, trigger, val)
    torch.testing.assert_close(ours, exact, rtol=1e-9, atol=1e-12)
    assert said == pytest.approx(float(value.detach()), abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_alignment(seed: int) -> None:
    net, a, b = linear.linear_net(seed), linear.images(seed + 10), linear.images(seed + 20, rows=5)
    exact = linear.cosine(*linear.arrays(net), a, b)
    assert float(alignment(view_of(net), a, b).detach()) == pytest.approx(exact, abs=1e-13)
    assert float(alignment(view_of(net), a, a).detach()) == pytest.approx(2.0, abs=1e-13)


@pytest.mark.parametrize("seed", range(3))
def test_first_step_of_the_trigger(seed: int) -> None:
    net, clean, val = linear.linear_net(seed), linear.images(seed + 10), linear.images(seed + 20, rows=5)
    weight, bias = linear.arrays(net)
    down = -slope(lambda x: linear.cosine(weight, bias, clean.with_x(torch.from_numpy(x)), val), clean.x.numpy())
    crafted = craft_trigger(view_of(net), clean, val, eps=EPS, steps=1)
    _moved_along(crafted, clean.x, down)


@pytest.mark.parametrize("objective", ["both", "second_order"])
@pytest.mark.parametrize("seed", range(3))
def test_first_step_of_the_poison(seed: int, objective: str) -> None:
    net, clean = linear.linear_net(seed), linear.images(seed + 10)
    trigger, val, gamma = linear.images(seed + 20), linear.images(seed + 30, rows=5), 0.7
    weight, bias = linear.arrays(net)
    second = [
        slope(lambda w: linear.cosine(w, bias, trigger, val), weight),
        slope(lambda b: linear.cosine(weight, b, trigger, val), bias),
    ]
    goal, y = linear.units(second), clean.y.numpy()
    if objective == "both":
        normal = linear.units(linear.gradient(weight, bias, clean.x.numpy(), y))
        goal = [gamma * n + s for n, s in zip(normal, goal, strict=True)]

    def agreement(x: Array) -> float:
        return linear.dot(linear.units(linear.gradient(weight, bias, x, y)), goal)

    settings = {"eps": EPS, "objective": objective, "gamma": gamma}
    crafted = craft_accumulative(view_of(net), trigger, clean, val, steps=1, **settings)  # type: ignore[arg-type]
    _moved_along(crafted, clean.x, slope(agreement, clean.x.numpy()))
    small = {**settings, "eps": 0.005}
    nearby = craft_accumulative(view_of(net), trigger, clean, val, steps=4, **small)  # type: ignore[arg-type]
    assert agreement(nearby.numpy()) > agreement(clean.x.numpy()) + 1e-4


def _moved_along(crafted: Tensor, clean: Tensor, direction: Array) -> None:
    """Assert that a single step of 2 eps, cut back to eps, went along the sign of a direction."""
    expected = clean + EPS * torch.from_numpy(np.sign(direction))
    certain = torch.from_numpy(np.abs(direction) > 1e-7)  # beyond the error of the differences
    assert float(certain.double().mean()) > 0.95
    torch.testing.assert_close(crafted[certain], expected[certain], rtol=0, atol=1e-15)


def test_objectives_are_the_terms_of_one_another() -> None:
    net, clean, val = linear.linear_net(0), linear.images(1), linear.images(2)
    view, trigger, other = view_of(net), linear.images(3), linear.images(4)

    def craft(objective: str, aimed: Batch = trigger, gamma: float = 1.0) -> Tensor:
        return craft_accumulative(view, aimed, clean, val, eps=EPS, steps=3, objective=objective, gamma=gamma)

    assert torch.equal(craft("both", gamma=0.0), craft("second_order"))
    assert torch.equal(craft("second_order", gamma=5.0), craft("second_order"))
    assert torch.equal(craft("first_order", other), craft("first_order"))
    assert not torch.equal(craft("both", other), craft("both"))
    assert not torch.equal(craft("both"), craft("second_order"))


def smooth_net(seed: int) -> nn.Sequential:
    """Return a network without kinks: across a ReLU's kink a gradient jumps, and differences of it mean nothing."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1, bias=False),
            nn.BatchNorm2d(4),
            nn.Softplus(),
            nn.AvgPool2d(4),
            nn.Flatten(),
            nn.Linear(16, 10),
        )
    return net.double().eval()


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_tilt_is_the_slope_of_the_alignment(seed: int, train: bool) -> None:
    """A five-point stencil errs by h^4 / 30 times a fifth derivative and by some 1e-15 / h: 1e-9 leaves room for both.

    The slope itself is of order 0.01 to 1.
    """
    net, trigger, val = smooth_net(seed), random_batch(seed + 10), random_batch(seed + 20)
    view, rng, h = view_of(net), torch.Generator().manual_seed(seed), 1e-3
    second, value = alignment_gradient(view, trigger, val, train=train)
    assert value == pytest.approx(float(alignment(view, trigger, val, train=train).detach()), abs=1e-14)
    start = [p.detach().clone() for p in net.parameters()]
    for _ in range(3):
        direction = [torch.randn(p.shape, generator=rng, dtype=p.dtype) for p in start]
        length = torch.cat([d.flatten() for d in direction]).norm()
        direction = [d / length for d in direction]

        def at(step: float, along: list[Tensor] = direction) -> float:
            with torch.no_grad():
                for p, p0, d in zip(net.parameters(), start, along, strict=True):
                    p.copy_(p0 + step * d)
            return float(alignment(view, trigger, val, train=train).detach())

        measured = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h)
        exact = float(inner(second, tuple(direction)))
        assert abs(exact) > 1e-4
        assert measured == pytest.approx(exact, abs=1e-9)
        at(0.0)


@pytest.mark.parametrize("seed", range(3))
def test_crafting_does_what_it_is_for(seed: int) -> None:
    """Small steps along the crafted gradients: the poison lowers the alignment, the trigger raises the loss on val."""
    net, clean, trigger = random_net(seed), random_batch(seed + 10), random_batch(seed + 20)
    view, val, eps = view_of(net), random_batch(seed + 30, rows=12), 16 / 255
    crafted = trigger.with_x(craft_trigger(view, trigger, val, eps=eps, steps=4))
    assert float((alignment(view, trigger, val) - alignment(view, crafted, val)).detach()) > 0.05
    second = alignment_gradient(view, crafted, val)[0]
    for objective in ("both", "second_order"):
        x = craft_accumulative(view, crafted, clean, val, eps=eps, steps=4, objective=objective)
        helps = [float(inner(normalize_each(gradient(view, images, clean.y)), second)) for images in (clean.x, x)]
        assert helps[1] > helps[0]  # a step against the gradient lowers the alignment by that much


@pytest.mark.parametrize("eps", [8 / 255, 16 / 255, 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_quantised_poison_stays_in_the_ball(eps: float, dtype: torch.dtype) -> None:
    view = view_of(random_net(0, dtype))
    clean, trigger, val = (random_batch(seed, dtype=dtype) for seed in (1, 2, 3))
    for x in (
        craft_trigger(view, clean, val, eps=eps, steps=3),
        craft_accumulative(view, trigger, clean, val, eps=eps, steps=3),
    ):
        levels, before = (quantise(x, clean.x) * 255).double(), (clean.x * 255).double()
        moved = (levels - before).abs().round()
        assert int(moved.max()) == int(eps * 255 + 1e-6)  # the whole budget, not a level more
        assert float((levels - levels.round()).abs().max()) < 1e-4
        assert float((moved > 0).double().mean()) > 0.25


@pytest.mark.parametrize("steps", [2, 4, 8])
def test_pgd_linf(steps: int) -> None:
    """On a linear objective every step goes the same way, 2 eps / steps far, until the ball or the range stops it."""
    clean = torch.tensor([[0.5, 0.5, 0.02, 0.99, 0.5]], dtype=torch.float64)
    pull = torch.tensor([1.0, -2.0, -1.0, 3.0, 0.0], dtype=torch.float64)
    visited: list[Tensor] = []

    def objective(x: Tensor) -> Tensor:
        visited.append(x.detach().clone())
        return (x * pull).sum()

    x = pgd_linf(clean, objective, eps=0.1, steps=steps)
    assert not x.requires_grad
    assert len(visited) == steps
    for taken, at in enumerate([*visited, x]):
        expected = (clean + pull.sign() * min(taken * 0.2 / steps, 0.1)).clamp(0, 1)
        torch.testing.assert_close(at, expected, rtol=0, atol=1e-14)
    torch.testing.assert_close(x, torch.tensor([[0.6, 0.4, 0.0, 1.0, 0.5]], dtype=torch.float64))


def test_noise() -> None:
    """Uniform noise has standard deviation eps / sqrt 3, Rademacher noise eps; both are drawn anew at each step."""
    clean, eps, view = linear.images(0, rows=200), 0.05, view_of(linear.linear_net(0))
    for kind, spread in (("uniform", eps / 3**0.5), ("rademacher", eps)):
        attack = Noise(kind=kind, eps=eps)
        moved = [
            attack.poison(view, clean, StepContext(seed, "attack", t, {})).x - clean.x
            for seed, t in ((0, 0), (0, 1), (1, 0))
        ]
        for noise in moved:
            assert float(noise.std()) == pytest.approx(spread, rel=0.05)
            assert abs(float(noise.mean())) < 4 * spread / noise.numel() ** 0.5
        for other in moved[1:]:
            shared = float((moved[0] * other).mean()) / spread**2
            assert abs(shared) < 4 / other.numel() ** 0.5
    torch.testing.assert_close(moved[0].abs(), torch.full_like(clean.x, eps))  # rademacher: the whole budget everywhere


@pytest.mark.parametrize("ratio", [0.0, 0.3, 1.0])
def test_a_ratio_of_the_rows_is_poisoned_and_drawn_anew(ratio: float) -> None:
    clean, view, attack = linear.images(0, rows=20), view_of(linear.linear_net(0)), Noise(eps=0.05, ratio=ratio)
    moved = [
        (attack.poison(view, clean, StepContext(0, "attack", t, {})).x != clean.x).flatten(1).any(1) for t in range(2)
    ]
    assert [int(rows.sum()) for rows in moved] == [round(20 * ratio)] * 2
    assert bool((moved[0] != moved[1]).any()) == (ratio == 0.3)


def test_the_rows_of_a_ratio_are_crafted_as_a_batch_of_their_own() -> None:
    view, clean = view_of(random_net(0)), random_batch(1, rows=8)
    access = Access(random_batch(2), random_batch(3), crafted=True, reoptimise=False)
    half, whole = (Accumulative(eps=EPS, steps=2, ratio=ratio) for ratio in (0.5, 1.0))
    for attack in (half, whole):
        attack.setup(view, access, StepContext(0, "attack-setup", 0, {}))
    sent = half.poison(view, clean, StepContext(0, "attack", 0, {})).x
    rows = (sent != clean.x).flatten(1).any(1).nonzero().flatten()
    assert len(rows) == 4
    drawn = torch.randperm(8, generator=StepContext(0, "attack", 0, {}).rng("ratio"))[:4]
    alone = whole.perturb(view, clean.rows(drawn), StepContext(0, "attack", 0, {}))
    assert torch.equal(sent[drawn], alone)


def test_the_attackers_images_are_drawn_anew_at_each_step() -> None:
    access = Access(random_batch(2, rows=10), random_batch(3), crafted=True, reoptimise=False)
    attack = Accumulative(val_size=4)
    attack.access = access
    first, again, second = (attack.val(StepContext(0, "attack", t, {})).ids.tolist() for t in (0, 0, 1))
    assert first == again != second
    assert len(set(first)) == 4
    assert set(first) <= set(access.val.ids.tolist())
    whole = Accumulative(val_size=99)
    whole.access = access
    assert whole.val(StepContext(0, "attack", 0, {})) is access.val
    shift, now = Shift("contrast", 0, 5), access.val.x
    for t in (0, 4):  # where images shift, the attacker's do
        now = whole.val(StepContext(0, "attack", t, {}, shift=shift)).x
        assert torch.equal(now, shift(access.val.x, access.val.ids, t))
    assert float((now - access.val.x).abs().max()) > 0.1


def test_crafting_in_train_mode_uses_batch_statistics() -> None:
    view, batch, val = view_of(random_net(0)), random_batch(1), random_batch(2)
    access = Access(val, random_batch(3), crafted=True, reoptimise=False)
    modes = {}
    for mode in ("eval", "train"):
        attack = Direct(eps=EPS, steps=1, bn_mode=mode)
        attack.setup(view, access, StepContext(0, "attack-setup", 0, {}))
        modes[mode] = attack.poison(view, batch, StepContext(0, "attack", 0, {})).x
        expected = craft_trigger(view, batch, val, eps=EPS, steps=1, train=mode == "train")
        assert torch.equal(modes[mode], expected)
    assert not torch.equal(modes["eval"], modes["train"])


def test_a_zero_gradient_leaves_the_rest_in_charge() -> None:
    """One tensor without gradient must not silence the attack, as t / |t| would."""
    net, val = linear.linear_net(0), linear.images(2)
    with torch.no_grad():
        for p in net.parameters():
            p.zero_()
    batch = linear.images(1, rows=linear.CLASSES)
    even = Batch(batch.x, torch.arange(linear.CLASSES), batch.ids)  # one image of each class: errors cancel
    view = view_of(net)
    assert float(gradient(view, even.x, even.y)[1].abs().max()) == 0.0
    crafted = craft_trigger(view, even, val, eps=EPS, steps=1)
    assert bool(crafted.isfinite().all())
    assert float((crafted - even.x).abs().max()) == pytest.approx(EPS)


def test_gradients_are_in_parameter_order() -> None:
    net, batch = random_net(0), random_batch(1)
    found: Grads = gradient(view_of(net), batch.x, batch.y)
    assert [g.shape for g in found] == [p.shape for p in net.parameters()]
