"""Frozen passes, in which batch norm is part of the convolution before it, beside the plain ones."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from accupoison.accel.folding import fold_norms
from accupoison.models.copies import copy_of
from accupoison.models.factory import ModelSpec, build_model
from accupoison.models.view import view_of
from tests.nets import random_batch, random_net

NETWORKS = {"resnet18": 20, "preact-resnet18": 8, "vgg16": 13, "mobilenetv2": 52, "resnet8": 9, "convnet": 3}
"""How many batch norms follow a convolution."""


def disturb(net: nn.Module, seed: int) -> None:
    """Move weights and running statistics to random places near by."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in (*net.named_parameters(), *net.named_buffers()):
            if tensor.is_floating_point() and not name.startswith("normalize"):
                tensor.mul_(1 + 0.2 * torch.rand(tensor.shape, generator=rng, dtype=tensor.dtype))
                tensor.add_(0.1 * torch.rand(tensor.shape, generator=rng, dtype=tensor.dtype))


def assert_same(net: nn.Module, x: Tensor) -> None:
    """Check the outputs and the slopes of a search against the module's own."""
    given = x.clone().requires_grad_()
    ours, theirs = view_of(net).frozen()(given), net(given)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)
    slopes = [torch.autograd.grad(out.square().sum(), given)[0] for out in (ours, theirs)]
    torch.testing.assert_close(*slopes, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_frozen_pass_is_of_the_weights_of_its_moment(name: str) -> None:
    net, x = build_model(ModelSpec(name=name, width=4)).double().eval(), random_batch(1, rows=3, size=32).x
    assert len(fold_norms(copy_of(net))) == NETWORKS[name]
    view = view_of(net)
    disturb(net, 0)
    assert_same(net, x)
    frozen, before = view.frozen(), net(x)
    disturb(net, 1)
    torch.testing.assert_close(frozen(x), before, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(view.frozen()(x), net(x), rtol=1e-9, atol=1e-10)
    assert not frozen(x).requires_grad


@pytest.mark.parametrize("kernels", ["auto", "torch"])
def test_a_frozen_pass_in_train_mode_uses_batch_statistics(kernels: str) -> None:
    net, x = random_net(0).train(), random_batch(1).x
    frozen, before = view_of(net, kernels).frozen(), net(x)
    for _ in range(2):
        torch.testing.assert_close(frozen(x), before)


class Odd(nn.Module):
    """Convolutions in all the ways that must stay as they are, but for the first and the last."""

    def __init__(self) -> None:
        super().__init__()
        self.folds = nn.Conv2d(3, 4, 3)
        self.read_twice, self.called_twice, self.others = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(4) for _ in range(3))
        self.plain = nn.BatchNorm2d(4, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norms[0](self.folds(x))
        seen = self.read_twice(x)
        x = self.norms[1](seen) + seen
        x = self.norms[2](self.called_twice(self.called_twice(x)))
        out: Tensor = self.plain(self.others(x)).mean(dim=(2, 3))
        return out


class Undecided(Odd):
    """The same, by a path that depends on what it is given."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.sum() > 0 else -x)


class Tied(Odd):
    """The same, with one weight in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.others.weight = self.read_twice.weight


class Pair(nn.Module):
    """A convolution and its batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)).mean(dim=(2, 3))  # type: ignore[no-any-return]


class Shared(Pair):
    """And a second batch norm with the same statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.BatchNorm2d(4)
        self.double()  # which would part them later
        self.other.running_mean = self.norm.running_mean

    def forward(self, x: Tensor) -> Tensor:
        return self.other(self.norm(self.conv(x))).mean(dim=(2, 3))  # type: ignore[no-any-return]


class Reused(Pair):
    """The convolution's weight does something else, too."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + F.conv2d(x, self.conv.weight).mean(dim=(2, 3))


class Optional(Pair):
    """What else reads the convolution is up to an argument that nobody gives."""

    def forward(self, x: Tensor, beside: Tensor | None = None) -> Tensor:
        out = self.conv(x)
        return (self.norm(out) + (out if beside is None else beside)).mean(dim=(2, 3))  # type: ignore[no-any-return]


class Hooked(Pair):
    """The weight is made by a hook."""

    def __init__(self) -> None:
        super().__init__()
        nn.utils.spectral_norm(self.conv)


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        (Odd, [("folds", "norms.0"), ("others", "plain")]),
        (Pair, [("conv", "norm")]),
        *((kind, []) for kind in (Undecided, Tied, Shared, Reused, Optional, Hooked)),
    ],
)
def test_what_cannot_be_folded_stays(kind: type[nn.Module], found: list[tuple[str, str]]) -> None:
    net = kind().double().eval()
    disturb(net, 0)
    assert [(conv, norm) for conv, (norm, _) in fold_norms(copy_of(net)).items()] == found
    assert_same(net, random_batch(1).x)


def test_layers_of_other_precision_are_not_folded() -> None:
    net = Pair().eval()
    net.conv.bfloat16()
    assert not fold_norms(copy_of(net))
    assert not fold_norms(net.bfloat16())


def test_a_network_that_remembers_what_it_saw() -> None:
    class Remembers(Pair):
        def forward(self, x: Tensor) -> Tensor:
            self.seen = self.conv(x)
            return self.norm(self.seen).mean(dim=(2, 3))  # type: ignore[no-any-return]

    net, x = Remembers().double().eval(), random_batch(1).x
    view = view_of(net)
    due = view.logits(x)
    torch.testing.assert_close(view.frozen()(x), due)
