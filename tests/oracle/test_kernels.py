"""The kernels of our own beside PyTorch's."""

import itertools
from unittest.mock import Mock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from accupoison.accel import dispatch as kernels
from accupoison.accel import double_backward as derivatives
from accupoison.accel import winograd
from accupoison.accel.dispatch import Kernels, convolve
from accupoison.learner import view_of
from accupoison.models.factory import ModelSpec, build_model
from tests.nets import normal, random_batch

NETWORKS = {
    "resnet18": (5, 6),
    "preact-resnet18": (0, 6),
    "vgg16": (3, 6),
    "mobilenetv2": (0, 0),
    "resnet8": (0, 1),
    "convnet": (0, 1),
}
"""How many convolutions of images of 32x32 pixels are small enough, and how many filter minimally."""
LAYOUTS = [torch.contiguous_format, torch.channels_last]


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows with every convolution that is taken as a product."""
    calls: list[int] = []
    taken = kernels._as_product

    def spy(x: Tensor, weight: Tensor, maps: kernels.Maps) -> Tensor:
        calls.append(1)
        return taken(x, weight, maps)

    monkeypatch.setattr(kernels, "_as_product", spy)
    return calls


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("side", [(1, 1), (2, 2), (4, 4), (1, 4), (3, 5), (8, 8)])
def test_convolutions_of_every_geometry(
    side: tuple[int, int], layout: torch.memory_format, products: list[int]
) -> None:
    compared = 0
    kernels, paddings = [(1, 1), (2, 2), (3, 3), (3, 1)], [(0, 0), (1, 1), (1, 0)]
    for kernel, stride, padding in itertools.product(kernels, (1, 2, 3), paddings):
        if any(s + 2 * p < k for s, p, k in zip(side, padding, kernel, strict=True)):
            continue
        x = normal(3, 5, *side, seed=1).to(memory_format=layout).requires_grad_()
        weight = normal(4, 5, *kernel, seed=2).to(memory_format=layout).requires_grad_()
        bias = normal(4, seed=3)
        ours, theirs = (call(x, weight, bias, stride, padding) for call in (convolve, torch.conv2d))
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
        if side != (1, 1):  # a single pixel counts as laid out in both ways
            found, due = ([out.is_contiguous(memory_format=one) for one in LAYOUTS] for out in (ours, theirs))
            assert found == due
        into = normal(*theirs.shape, seed=4)
        for mine, exact in zip(*(torch.autograd.grad(out, (x, weight), into) for out in (ours, theirs)), strict=True):
            torch.testing.assert_close(mine, exact, rtol=1e-12, atol=1e-12)
        compared += 1
    assert compared > 8
    assert bool(products) == (side != (8, 8))


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2)])
def test_an_empty_batch_and_a_first_call_without_gradients(kernel: int, stride: int) -> None:
    side = 2 * stride
    x, weight = normal(0, 7, side, side), normal(4, 7, kernel, kernel)
    assert convolve(x, weight, stride=stride, padding=1).shape == (0, 4, 2, 2)
    kernels._taps.cache_clear()
    kernels._seen.cache_clear()
    with torch.inference_mode():
        convolve(normal(1, 7, side, side), weight, stride=stride, padding=1)
    weight.requires_grad_()
    convolve(normal(1, 7, side, side), weight, stride=stride, padding=1).sum().backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None


def test_what_it_does_not_take_over_is_left_to_pytorch() -> None:
    x, weight = normal(2, 4, 2, 2), normal(4, 2, 3, 3)
    assert torch.equal(convolve(x, weight, groups=2, padding=1), torch.conv2d(x, weight, groups=2, padding=1))
    whole = normal(4, 4, 3, 3)
    assert torch.equal(convolve(x, whole, padding="same"), torch.conv2d(x, whole, padding="same"))
    assert torch.equal(convolve(x[0], whole, padding=1), torch.conv2d(x[0], whole, padding=1))
    wide = torch.conv2d(x, whole, padding=2, dilation=2)
    assert torch.equal(convolve(x, whole, padding=2, dilation=2), wide)
    with pytest.raises(RuntimeError, match="Kernel size"):
        convolve(x, whole)


def test_what_does_not_fit_gets_pytorchs_own_words() -> None:
    x, weight = normal(2, 4, 4, 4), normal(4, 5, 3, 3)
    with pytest.raises(RuntimeError, match="expected input"):
        convolve(x, weight, padding=1)
    with pytest.raises(RuntimeError, match="stride"):
        convolve(x, weight[:, :4], stride=0, padding=1)


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_agree_to_the_second_derivative(
    name: str, products: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    normalised: list[int] = []
    backward = derivatives.NormaliseBackward.apply

    def spy(*args: object) -> object:
        normalised.append(1)
        return backward(*args)

    monkeypatch.setattr(derivatives.NormaliseBackward, "apply", spy)
    minimal = Mock(wraps=winograd.convolve)
    monkeypatch.setattr(winograd, "convolve", minimal)
    monkeypatch.setattr(winograd, "CHANNELS", 1)
    monkeypatch.setattr(winograd, "TILES", 1)
    net, batch = build_model(ModelSpec(name=name, width=4)).double().eval(), random_batch(1, rows=3, size=32)
    parameters = tuple(net.parameters())

    def curvature() -> tuple[Tensor, ...]:
        loss = F.cross_entropy(net(batch.x), batch.y)
        slope = torch.autograd.grad(loss, parameters, create_graph=True)
        return torch.autograd.grad(torch.stack([(g * g.detach()).sum() for g in slope]).sum(), parameters)

    theirs = curvature()
    assert not products
    assert not minimal.called
    with Kernels():
        ours = curvature()
    assert (len(products), minimal.call_count) == NETWORKS[name]
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in net.modules())
    assert len(normalised) == 2 * norms > 0  # for the slope, and for the slope's slope
    for mine, exact in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, exact, rtol=1e-9, atol=1e-11)


def test_the_context_ends(products: list[int]) -> None:
    x, layer = normal(2, 3, 2, 2), nn.Conv2d(3, 4, 3, padding=1).double()
    with Kernels():
        layer(x)
    assert len(products) == 1
    layer(x)
    assert len(products) == 1


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:FutureWarning")  # forward mode calls it itself
def test_transforms_and_forward_mode_work_on_views() -> None:
    net, batch = build_model(ModelSpec(name="resnet18", width=4)).double().eval(), random_batch(1, rows=2, size=32)
    view = view_of(net)
    params = tuple(p.detach() for p in view.params())

    def loss(*given: Tensor) -> Tensor:
        return F.cross_entropy(view.logits(batch.x, params=given), batch.y)

    def of_bias(bias: Tensor) -> Tensor:
        return loss(*params[:-1], bias)

    hessian = torch.func.hessian(of_bias)(params[-1])
    twice = torch.autograd.functional.hessian(of_bias, params[-1])  # type: ignore[no-untyped-call]
    torch.testing.assert_close(hessian, twice, rtol=1e-9, atol=1e-12)
    direction = tuple(torch.ones_like(p) for p in params)
    along = torch.func.jvp(torch.func.grad(loss, argnums=tuple(range(len(params)))), params, direction)[1]
    _, exact = torch.autograd.functional.vhp(loss, params, direction)  # type: ignore[no-untyped-call]
    for mine, theirs in zip(along, exact, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-7, atol=1e-9)
