"""Memorization discrepancy against divergences that can be worked out by hand."""

import math

import pytest
import torch
from torch import Tensor, nn

from accupoison.discrepancy import batch_discrepancy, divergence, memorization_discrepancy
from accupoison.models.view import view_of
from accupoison.types import ModelView
from tests.nets import random_batch, random_net

X = torch.zeros(2, 3, dtype=torch.float64)


def always(logits: list[float]) -> ModelView:
    """Return a model that gives every row the same logits."""
    net = nn.Linear(3, len(logits)).double()
    with torch.no_grad():
        net.weight.zero_()
        net.bias.copy_(torch.tensor(logits, dtype=torch.float64))
    return view_of(net.eval())


def md(live: list[float], early: list[float]) -> float:
    values = memorization_discrepancy(always(live), always(early), X).detach()
    assert values.shape == (2,)
    assert float(values[0]) == float(values[1])
    return float(values[0])


def test_two_coins() -> None:
    """KL((1/2, 1/2) || (1/4, 3/4)) = ln 2 - ln 3 / 2, and the other way round 3/4 ln 3 - ln 2: early comes first."""
    fair, biased = [0.0, 0.0], [math.log(0.25), math.log(0.75)]
    assert md(live=biased, early=fair) == pytest.approx(math.log(2) - math.log(3) / 2, abs=1e-14)
    assert md(live=fair, early=biased) == pytest.approx(0.75 * math.log(3) - math.log(2), abs=1e-14)


@pytest.mark.parametrize("shift", [-3.0, 0.1, 2.0])
def test_a_shift_of_one_logit(shift: float) -> None:
    """Adding d to logit k: KL = ln(1 + p_k (e^d - 1)) - p_k d."""
    logits = torch.tensor([0.3, -1.0, 0.8, 0.0], dtype=torch.float64)
    p = float(logits.softmax(0)[1])
    moved = logits + shift * torch.eye(4, dtype=torch.float64)[1]
    expected = math.log1p(p * math.expm1(shift)) - p * shift
    assert md(live=moved.tolist(), early=logits.tolist()) == pytest.approx(expected, abs=1e-13)


def test_two_gaussians_on_a_grid() -> None:
    """The softmax of -(k - m)^2 / 2 is a Gaussian on a grid, and KL between two with means m and n is (m - n)^2 / 2."""
    grid = torch.arange(-20, 21, dtype=torch.float64)
    early, live = (-((grid - mean) ** 2) / 2 for mean in (0.0, 1.5))
    assert float(divergence(early[None], live[None])) == pytest.approx(1.5**2 / 2, abs=1e-7)


def test_constants_do_not_matter_and_it_is_never_negative() -> None:
    rng = torch.Generator().manual_seed(0)
    early, live = (3 * torch.randn(2000, 10, generator=rng, dtype=torch.float64) for _ in range(2))
    values = divergence(early, live)
    assert float(values.min()) > 0
    torch.testing.assert_close(divergence(early + 100, live - 7), values)
    assert float(divergence(early, early + 5).abs().max()) < 1e-14
    sharp = torch.tensor([[1000.0, 0.0]])
    assert float(divergence(sharp, -sharp)) == 2000.0 - 1000.0  # no overflow: ln 1 - ln exp(-1000)


def test_it_is_differentiable_in_the_images() -> None:
    live, early, batch = view_of(random_net(0)), view_of(random_net(1)), random_batch(2, rows=2, size=4)

    def discrepancy(x: Tensor) -> Tensor:
        return memorization_discrepancy(live, early, x)

    assert torch.autograd.gradcheck(discrepancy, (batch.x.requires_grad_(),))


def test_batch_discrepancy_is_the_mean() -> None:
    live, early, batch = view_of(random_net(0)), view_of(random_net(1)), random_batch(2)
    rows = [batch_discrepancy(live, early, batch.x[i : i + 1]) for i in range(len(batch))]
    assert min(rows) > 0
    assert batch_discrepancy(live, early, batch.x) == pytest.approx(sum(rows) / len(rows), abs=1e-14)
