"""The arithmetic of attacks and the discrepancy, on whatever numbers come."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor, nn

from accupoison.discrepancy import batch_discrepancy, divergence
from accupoison.gradients import (
    gradient,
    gradient_and_hvp,
    inner,
    normalize_each,
    normalize_each_vjp,
    pgd_linf,
    project_linf,
)
from accupoison.models.view import view_of
from accupoison.types import Grads
from tests.nets import normal, random_batch, random_net

SEEDS = st.integers(0, 2**31)
few = settings(max_examples=30)


def images(span: float = 3.0) -> st.SearchStrategy[Tensor]:
    """Draw tensors [2, 3], float64, beyond [0, 1] unless ``span`` is 0."""
    return arrays("f8", (2, 3), elements=st.floats(-span, 1 + span)).map(torch.from_numpy)


@given(images(), images(0.0), st.floats(0, 1), st.booleans())
@few
def test_a_projection_is_the_nearest_point_of_the_ball(x: Tensor, centre: Tensor, eps: float, bounded: bool) -> None:
    inside = project_linf(x, centre, eps, bounded=bounded)
    assert (inside - centre).abs().max() <= eps + 1e-12
    torch.testing.assert_close(project_linf(inside, centre, eps, bounded=bounded), inside, rtol=0, atol=1e-12)
    low, high = (centre - eps, centre + eps) if not bounded else ((centre - eps).clamp(0), (centre + eps).clamp(max=1))
    torch.testing.assert_close(inside, torch.minimum(torch.maximum(x, low), high), rtol=0, atol=1e-12)


@given(images(0.0), st.floats(1e-3, 0.5), st.integers(1, 4), SEEDS)
@few
def test_ascent_ends_at_the_best_corner_of_a_slope(clean: Tensor, eps: float, steps: int, seed: int) -> None:
    slope = normal(2, 3, seed=seed)
    x = pgd_linf(clean, lambda x: (x * slope).sum(), eps=eps, steps=steps)
    torch.testing.assert_close(x, (clean + eps * slope.sign()).clamp(0, 1), rtol=0, atol=1e-12)


@given(SEEDS, st.floats(1e-3, 1e3))
@few
def test_units_have_length_one_and_forget_it(seed: int, scale: float) -> None:
    grads = (normal(3, 2, seed=seed), normal(4, seed=seed + 1), torch.zeros(2, dtype=torch.float64))
    units = normalize_each(grads)
    assert [float(u.norm()) for u in units] == pytest.approx([1, 1, 0])
    torch.testing.assert_close(normalize_each(tuple(scale * g for g in grads)), units)
    assert float(inner(grads, units)) == pytest.approx(sum(float(g.norm()) for g in grads))


@given(SEEDS)
@few
def test_the_slope_of_a_unit_is_autograds(seed: int) -> None:
    grads = tuple(normal(*shape, seed=seed + i).requires_grad_() for i, shape in enumerate([(3, 2), (4,)]))
    along = tuple(normal(*g.shape, seed=seed + 7 + i) for i, g in enumerate(grads))
    expected = torch.autograd.grad(inner(normalize_each(grads), along), grads)
    torch.testing.assert_close(normalize_each_vjp(tuple(g.detach() for g in grads), along), expected)


@given(SEEDS, st.integers(2, 7), st.booleans())
@few
def test_a_hessian_times_a_vector_is_a_difference_of_gradients(seed: int, rows: int, train: bool) -> None:
    batch, smooth = random_batch(seed % 1000, rows), [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Tanh()]  # no kinks
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        view = view_of(nn.Sequential(*smooth, nn.Flatten(), nn.Linear(4 * 6 * 6, 10)).double().eval())
    vector = normalize_each(tuple(normal(*p.shape, seed=seed + i) for i, p in enumerate(view.params())))
    slope, times = gradient_and_hvp(view, batch, train=train)
    torch.testing.assert_close(slope, gradient(view, batch.x, batch.y, train=train))

    def moved(step: float) -> Grads:
        params = tuple((p.detach() + step * v).requires_grad_() for p, v in zip(view.params(), vector, strict=True))
        loss = torch.nn.functional.cross_entropy(view.logits(batch.x, params=params, train=train), batch.y)
        return torch.autograd.grad(loss, params)

    step = 1e-6
    differences = tuple((a - b) / (2 * step) for a, b in zip(moved(step), moved(-step), strict=True))
    torch.testing.assert_close(times(vector), differences, rtol=1e-4, atol=1e-6)


@given(images(20.0), images(20.0), st.floats(-5, 5))
@few
def test_a_divergence_is_zero_between_equals_and_above_it_otherwise(a: Tensor, b: Tensor, shift: float) -> None:
    assert (divergence(a, b) >= -1e-12).all()
    torch.testing.assert_close(divergence(a, a + shift), torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-12)
    apart = (a.softmax(1) - b.softmax(1)).abs().sum(1)
    assert (divergence(a, b) >= apart**2 / 2 - 1e-12).all()  # Pinsker's inequality


@given(st.integers(0, 50), st.integers(0, 50))
@few
def test_a_model_has_no_discrepancy_to_itself(one: int, other: int) -> None:
    live, reference = view_of(random_net(one)), view_of(random_net(other))
    found = batch_discrepancy(live, reference, random_batch(one).x)
    assert abs(found) < 1e-12 if one == other else found > 1e-6
