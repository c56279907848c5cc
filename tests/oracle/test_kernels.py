"""The kernels of our own beside PyTorch's."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from accupoison.kernels import Kernels, convolve, normalise
from accupoison.models import ModelSpec, build_model
from tests.nets import random_batch

LAYOUTS = [torch.contiguous_format, torch.channels_last]


def random(*shape: int, seed: int = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=rng, dtype=torch.float64)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("side", [(1, 1), (2, 2), (4, 4), (1, 4), (3, 5), (8, 8)])
def test_convolutions_of_every_geometry(side: tuple[int, int], layout: torch.memory_format) -> None:
    compared = 0
    kernels, paddings = [(1, 1), (2, 2), (3, 3), (3, 1)], [(0, 0), (1, 1), (1, 0)]
    for kernel, stride, padding in itertools.product(kernels, (1, 2, 3), paddings):
        if any(s + 2 * p < k for s, p, k in zip(side, padding, kernel, strict=True)):
            continue
        x = random(3, 5, *side, seed=1).to(memory_format=layout).requires_grad_()
        weight = random(4, 5, *kernel, seed=2).to(memory_format=layout).requires_grad_()
        bias = random(4, seed=3)
        ours, theirs = (call(x, weight, bias, stride, padding) for call in (convolve, torch.conv2d))
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
        into = random(*theirs.shape, seed=4)
        for mine, exact in zip(*(torch.autograd.grad(out, (x, weight), into) for out in (ours, theirs)), strict=True):
            torch.testing.assert_close(mine, exact, rtol=1e-12, atol=1e-12)
        compared += 1
    assert compared > 8


def test_what_it_does_not_take_over_is_left_to_pytorch() -> None:
    x, weight = random(2, 4, 2, 2), random(4, 2, 3, 3)
    assert torch.equal(convolve(x, weight, groups=2, padding=1), torch.conv2d(x, weight, groups=2, padding=1))
    whole = random(4, 4, 3, 3)
    assert torch.equal(convolve(x, whole, padding="same"), torch.conv2d(x, whole, padding="same"))
    assert torch.equal(convolve(x[0], whole, padding=1), torch.conv2d(x[0], whole, padding=1))
    wide = torch.conv2d(x, whole, padding=2, dilation=2)
    assert torch.equal(convolve(x, whole, padding=2, dilation=2), wide)
    with pytest.raises(RuntimeError, match="Kernel size"):
        convolve(x, whole)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:FutureWarning")  # forward mode calls it itself
@pytest.mark.parametrize("layout", LAYOUTS)
def test_batch_norm_in_eval_mode_to_the_second_derivative(layout: torch.memory_format) -> None:
    mean, var = random(3, seed=5), random(3, seed=6).square() + 0.1
    leaves = [random(4, 3, 2, 5).to(memory_format=layout), random(3, seed=1), random(3, seed=2)]
    inputs = tuple(leaf.requires_grad_() for leaf in leaves)

    def ours(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return normalise(x, mean, var, weight, bias, eps=1e-3)

    theirs = F.batch_norm(inputs[0], mean, var, inputs[1], inputs[2], eps=1e-3)
    torch.testing.assert_close(ours(*inputs), theirs, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(ours, inputs, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(ours, inputs)


def test_batch_norm_in_train_mode_and_without_weights_is_pytorchs() -> None:
    x, mean, var, one = random(4, 3, 2, 5).requires_grad_(), torch.zeros(3).double(), torch.ones(3).double(), random(3)
    assert torch.equal(normalise(x, mean, var), F.batch_norm(x, mean, var))
    trained = [call(x, mean.clone(), var.clone(), one, one, training=True) for call in (normalise, F.batch_norm)]
    assert torch.equal(*trained)


@pytest.mark.parametrize("name", ["resnet18", "preact-resnet18", "vgg16", "mobilenetv2", "resnet8", "convnet"])
def test_networks_agree_to_the_second_derivative(name: str) -> None:
    net, batch = build_model(ModelSpec(name=name, width=4)).double().eval(), random_batch(1, rows=3, size=32)
    parameters = tuple(net.parameters())

    def curvature() -> tuple[Tensor, ...]:
        loss = F.cross_entropy(net(batch.x), batch.y)
        slope = torch.autograd.grad(loss, parameters, create_graph=True)
        return torch.autograd.grad(torch.stack([(g * g.detach()).sum() for g in slope]).sum(), parameters)

    theirs = curvature()
    with Kernels():
        ours = curvature()
    assert any(not torch.equal(mine, exact) for mine, exact in zip(ours, theirs, strict=True))  # they were in use
    for mine, exact in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, exact, rtol=1e-9, atol=1e-11)


def test_the_context_ends() -> None:
    x, layer = random(2, 3, 2, 2), nn.Conv2d(3, 4, 3, padding=1).double()
    before = layer(x)
    with Kernels():
        layer(x)
    assert torch.equal(layer(x), before)
