"""Layers with second derivatives of our own beside PyTorch's."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from accupoison.accel import double_backward as derivatives
from accupoison.accel.dispatch import ONCE, Kernels, convolve, normalise, pool
from accupoison.learner import view_of
from accupoison.models.factory import ModelSpec, build_model
from tests.nets import normal, random_batch

LAYOUTS = [torch.contiguous_format, torch.channels_last]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("stride", "padding"), [(1, 1), (2, 1), (1, 0), ((2, 1), (0, 1))])
def test_convolutions_to_the_second_derivative(
    stride: int | tuple[int, int], padding: int | tuple[int, int], layout: torch.memory_format
) -> None:
    x, weight = (t.to(memory_format=layout) for t in (normal(2, 2, 5, 6), normal(3, 2, 3, 3, seed=1)))
    inputs = (x.requires_grad_(), weight.requires_grad_())

    def ours(x: Tensor, weight: Tensor) -> Tensor:
        return convolve(x, weight, None, stride, padding)

    theirs = torch.conv2d(x, weight, None, stride, padding)
    assert "Convolve" in str(ours(*inputs).grad_fn)
    assert torch.equal(ours(*inputs), theirs)
    assert torch.autograd.gradcheck(ours, inputs)
    assert torch.autograd.gradgradcheck(ours, inputs)


def test_convolutions_that_are_not_ours_to_differentiate() -> None:
    x, weight, bias = normal(2, 2, 5, 5).requires_grad_(), normal(3, 2, 3, 3, seed=1).requires_grad_(), normal(3)
    single = weight.detach().float().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        assert "Convolve" not in str(convolve(x.float(), single).grad_fn)
    assert "Convolve" not in str(convolve(x, weight, bias).grad_fn)
    assert "Convolve" not in str(convolve(x, weight.detach()).grad_fn)
    assert "Convolve" not in str(convolve(x.detach()[:0], weight).grad_fn)
    assert "Convolve" not in str(ONCE[torch.conv2d](x, weight).grad_fn)
    with Kernels(twice=False):
        assert "Convolve" not in str(torch.conv2d(x, weight).grad_fn)
    with torch.no_grad():
        assert convolve(x, weight).grad_fn is None


def test_layers_in_the_context_are_ours() -> None:
    x, weight = normal(2, 3, 6, 6).requires_grad_(), normal(3, 3, 3, 3, seed=1).requires_grad_()
    norm = nn.BatchNorm2d(3).double().eval()
    ways: list[Callable[[], Tensor]] = [lambda: torch.conv2d(x, weight), lambda: norm(x), lambda: nn.MaxPool2d(2)(x)]
    for way, name in zip(ways, ("ConvolveBackward", "NormaliseBackward", "PoolBackward"), strict=True):
        assert name not in str(way().grad_fn)
        with Kernels():
            assert name in str(way().grad_fn)


def test_gradients_batch_by_batch() -> None:
    net, x = build_model(ModelSpec(name="resnet18", width=2)).double().eval(), random_batch(1, rows=2).x
    view = view_of(net)
    found, due = (
        torch.autograd.functional.jacobian(lambda x: view.logits(x).sum(0), x, vectorize=vectorize)  # type: ignore[no-untyped-call]
        for vectorize in (True, False)
    )
    torch.testing.assert_close(found, due, rtol=1e-9, atol=1e-12)


def test_only_gradients_that_are_asked_for_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[bool]] = []
    taken = derivatives._convolve_backward

    def spy(*args: Any) -> Any:  # noqa: ANN401
        asked.append(args[-1])
        return taken(*args)

    monkeypatch.setattr(derivatives, "_convolve_backward", spy)
    x, first, second = (normal(*shape).requires_grad_() for shape in ((2, 2, 5, 5), (2, 2, 3, 3), (3, 2, 1, 1)))

    def value() -> Tensor:
        return convolve(convolve(x, first).tanh(), second).square().sum()

    def found() -> list[list[bool]]:
        out = asked.copy()
        asked.clear()
        return out

    value().backward()  # type: ignore[no-untyped-call]
    assert found() == [[True, True]] * 2
    assert all(t.grad is not None for t in (x, first, second))
    torch.autograd.grad(value(), x)
    assert found() == [[True, False]] * 2
    torch.autograd.grad(value(), second)
    assert found() == [[False, True]]
    slopes = torch.autograd.grad(value(), (first, second), create_graph=True)
    assert found() == [[True, True], [False, True]]
    torch.autograd.grad(torch.stack([s.square().sum() for s in slopes]).sum(), x)
    assert {tuple(wanted) for wanted in found()} == {(True, False)}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("settings", [(2,), (3, 2, 1), ((3, 2), (1, 2), (1, 0)), (2, 1, 0, 2), (3, 2, 0, 1, True)])
def test_pools_to_the_second_derivative(settings: tuple[Any, ...], layout: torch.memory_format) -> None:
    x = normal(2, 3, 6, 7).to(memory_format=layout).requires_grad_()

    def ours(x: Tensor) -> Tensor:
        out = pool(x, *settings)
        assert isinstance(out, Tensor)
        return out

    out, theirs = ours(x), F.max_pool2d(x, *settings)
    assert "PoolBackward" in str(out.grad_fn)
    assert torch.equal(out, theirs)
    assert out.is_contiguous(memory_format=layout)
    assert torch.autograd.gradcheck(ours, x)
    assert torch.autograd.gradgradcheck(ours, x)
    along = normal(*out.shape, seed=1).to(memory_format=layout).requires_grad_()
    (slope,) = torch.autograd.grad(out, x, along, create_graph=True)
    (back,) = torch.autograd.grad(slope.square().sum(), along)
    assert back.is_contiguous(memory_format=layout)


def test_pools_that_are_not_ours_to_differentiate() -> None:
    x = normal(2, 3, 6, 6).requires_grad_()
    values, places = pool(x, 2, return_indices=True)
    assert places.shape == values.shape
    for given in (x.detach(), x[0]):
        found = pool(given, 2)
        assert isinstance(found, Tensor)
        assert torch.equal(found, F.max_pool2d(given, 2))
        assert "PoolBackward" not in str(found.grad_fn)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_batch_norm_in_eval_mode_to_the_second_derivative(layout: torch.memory_format) -> None:
    mean, var = normal(3, seed=5), normal(3, seed=6).square() + 0.1
    leaves = [normal(4, 3, 2, 5).to(memory_format=layout), normal(3, seed=1), normal(3, seed=2)]
    inputs = tuple(leaf.requires_grad_() for leaf in leaves)

    def ours(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return normalise(x, mean, var, weight, bias, eps=1e-3)

    theirs = F.batch_norm(inputs[0], mean, var, inputs[1], inputs[2], eps=1e-3)
    assert "Normalise" in str(ours(*inputs).grad_fn)
    assert torch.equal(ours(*inputs), theirs)
    assert torch.autograd.gradcheck(ours, inputs)
    assert torch.autograd.gradgradcheck(ours, inputs)


def test_batch_norm_of_an_empty_batch_is_pytorchs() -> None:
    x, weight, bias = normal(0, 3, 2, 2), normal(3).requires_grad_(), normal(3).requires_grad_()
    out = normalise(x, torch.zeros(3).double(), torch.ones(3).double(), weight, bias)
    (slope,) = torch.autograd.grad(out.sum(), weight, create_graph=True)
    assert out.shape == x.shape
    assert not slope.any()


def test_batch_norm_in_train_mode_and_without_weights_is_pytorchs() -> None:
    assert "NativeBatchNorm" in str(_first_order().grad_fn)
    x, mean, var, one = normal(4, 3, 2, 5).requires_grad_(), torch.zeros(3).double(), torch.ones(3).double(), normal(3)
    assert torch.equal(normalise(x, mean, var), F.batch_norm(x, mean, var))
    trained = [call(x, mean.clone(), var.clone(), one, one, training=True) for call in (normalise, F.batch_norm)]
    assert torch.equal(*trained)


def _first_order() -> Tensor:
    """Return a result whose weights take part in no derivative."""
    x, one = normal(4, 3, 2, 5).requires_grad_(), torch.ones(3, dtype=torch.float64)
    return normalise(x, torch.zeros(3).double(), one, one, one)
