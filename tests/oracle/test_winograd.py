"""Minimal filtering beside PyTorch's convolution."""

from unittest.mock import Mock

import pytest
import torch
from torch import Tensor

from accupoison.accel import dispatch as kernels
from accupoison.accel import winograd
from accupoison.accel.winograd import CHANNELS, OF_KERNEL, OF_PRODUCTS, OF_ROW, factors_of, suits
from tests.nets import normal

LAYOUTS = [torch.contiguous_format, torch.channels_last]


def convolve(x: Tensor, weight: Tensor) -> Tensor:
    return winograd.convolve(x, factors_of(weight))


def taken(x: Tensor, weight: Tensor, stride: int = 1, padding: int = 1) -> bool:
    maps = tuple((size, kernel, stride, padding) for size, kernel in zip(x.shape[2:], weight.shape[2:], strict=True))
    return suits(x, weight, maps)


def test_one_row_of_a_tile() -> None:
    image, kernel = normal(6).numpy(), normal(3, seed=1).numpy()
    found = OF_PRODUCTS @ ((OF_KERNEL @ kernel) * (OF_ROW @ image))
    due = [image[i : i + 3] @ kernel for i in range(4)]
    assert found == pytest.approx(due, abs=1e-12)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("side", [(4, 4), (8, 8), (4, 12), (8, 4)])
def test_it_is_the_convolution(side: tuple[int, int], layout: torch.memory_format) -> None:
    x, weight = (t.to(memory_format=layout) for t in (normal(3, 5, *side), normal(7, 5, 3, 3, seed=1)))
    torch.testing.assert_close(convolve(x, weight), torch.conv2d(x, weight, padding=1), rtol=1e-12, atol=1e-12)
    assert convolve(x[:0], weight).shape == (0, 7, *side)


def test_its_derivatives_to_the_second() -> None:
    inputs = (normal(2, 1, 4, 8).requires_grad_(), normal(2, 1, 3, 3, seed=1).requires_grad_())
    assert torch.autograd.gradcheck(convolve, inputs)
    assert torch.autograd.gradgradcheck(convolve, inputs)


def test_single_precision_loses_an_order_of_magnitude_and_no_more() -> None:
    x, weight = normal(4, 256, 4, 4).relu(), normal(256, 256, 3, 3, seed=1) / 48
    exact = torch.conv2d(x, weight, padding=1)
    ours, theirs = (call(x.float(), weight.float()) for call in (convolve, lambda a, b: torch.conv2d(a, b, padding=1)))
    error, usual = (float((out - exact).abs().max() / exact.std()) for out in (ours, theirs))
    assert error < 20 * usual < 1e-4


def test_its_points_round_half_as_coarsely_as_the_usual_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = normal(8, 256, 4, 4).relu(), normal(64, 256, 3, 3, seed=1)
    exact, error = torch.conv2d(x, weight, padding=1), []
    for points in (winograd.POINTS, (0, 1, -1, 2, -2)):
        for name, matrix in zip(("OF_ROW", "OF_KERNEL", "OF_PRODUCTS"), winograd._transforms(points), strict=True):
            monkeypatch.setattr(winograd, name, matrix)
        winograd._matrices.cache_clear()
        torch.testing.assert_close(convolve(x, weight), exact, rtol=0, atol=1e-10)
        error.append(float((convolve(x.float(), weight.float()) - exact).square().mean()))
    winograd._matrices.cache_clear()
    ours, usual = error
    assert ours < usual / 4


def test_when_it_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = normal(25, CHANNELS, 8, 8), normal(CHANNELS, CHANNELS, 3, 3)
    assert taken(x, weight)
    convolution = Mock(wraps=winograd.convolve)
    monkeypatch.setattr(winograd, "convolve", convolution)
    bias = normal(CHANNELS, seed=2)
    for layout in LAYOUTS:
        image = x.to(memory_format=layout)
        found, due = kernels.convolve(image, weight, bias, padding=1), torch.conv2d(image, weight, bias, padding=1)
        torch.testing.assert_close(found, due, rtol=1e-11, atol=1e-11)
        assert found.is_contiguous(memory_format=layout)
    assert convolution.call_count == len(LAYOUTS)


def test_when_it_is_not() -> None:
    x, weight = normal(25, CHANNELS, 8, 8), normal(CHANNELS, CHANNELS, 3, 3)
    assert taken(x, weight)
    assert not taken(x[:-1], weight)
    assert not taken(x, weight, stride=2)
    assert not taken(x, weight, padding=0)
    assert not taken(x, weight[:, :, :1, :1], padding=1)
    assert not taken(x, weight[:-1])
    assert not taken(x[:, :-1], weight[:, :-1])
    assert not taken(x[..., :6, :], weight)
    assert not taken(normal(25, CHANNELS, 12, 8), weight)
    assert not taken(x.bfloat16(), weight.bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        assert not taken(x.float(), weight.float())
