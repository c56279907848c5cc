"""Searches and evaluations, whose weights are prepared once and have batch norm folded in, beside the plain pass."""

from unittest.mock import Mock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from accupoison.accel import dispatch as kernels
from accupoison.accel import winograd
from accupoison.accel.bn_folding import pairs
from accupoison.accel.dispatch import convolve
from accupoison.accel.prepared import Prepared, keeping, prepared
from accupoison.gradients import frozen
from accupoison.learner import view_of
from accupoison.models.factory import ModelSpec, build_model
from tests.nets import normal, random_batch, random_net

NETWORKS = {
    "resnet18": (20, 11),
    "preact-resnet18": (8, 6),
    "vgg16": (13, 9),
    "mobilenetv2": (52, 0),
    "resnet8": (9, 1),
    "convnet": (3, 1),
}
"""How many batch norms follow a convolution, and how many convolutions prepare their weights."""


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
    ours, theirs = frozen(view_of(net))(given), net(given)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)
    slopes = [torch.autograd.grad(out.square().sum(), given)[0] for out in (ours, theirs)]
    torch.testing.assert_close(*slopes, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_search_sees_the_network_as_it_is_and_prepares_its_weights_once(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(winograd, "CHANNELS", 1)
    monkeypatch.setattr(winograd, "TILES", 1)
    made = [Mock(wraps=kernels._kernel), Mock(wraps=winograd.factors_of)]
    monkeypatch.setattr(kernels, "_kernel", made[0])
    monkeypatch.setattr(winograd, "factors_of", made[1])
    normalised = Mock(wraps=kernels.normalise)
    monkeypatch.setitem(kernels.OURS, F.batch_norm, normalised)
    net, x = build_model(ModelSpec(name=name, width=4)).double().eval(), random_batch(1, rows=3, size=32).x
    follow, prepare = NETWORKS[name]
    assert len(pairs(net)) == follow
    answer = frozen(view_of(net))
    for seed in range(2):
        disturb(net, seed)
        assert_same(net, x)
        for call in (*made, normalised):
            call.reset_mock()
        ours = answer(x)
        assert normalised.call_count == sum(isinstance(m, nn.BatchNorm2d) for m in net.modules()) - follow
        assert torch.equal(answer(x), ours)
        torch.testing.assert_close(ours, net(x), rtol=1e-9, atol=1e-10)
        assert sum(call.call_count for call in made) == prepare


def test_statistics_alone_that_move_show_in_a_search() -> None:
    net, x = random_net(0), random_batch(1).x
    answer = frozen(view_of(net))
    before = answer(x)
    net[1].running_mean.add_(0.3)  # type: ignore[operator]
    assert not torch.allclose(answer(x), before)
    torch.testing.assert_close(answer(x), net(x))
    net.train()(x)
    net.eval()
    torch.testing.assert_close(answer(x), net(x))


def test_a_search_on_a_view_in_train_mode_uses_batch_statistics() -> None:
    net, x = random_net(0).train(), random_batch(1).x
    answer = frozen(view_of(net))
    torch.testing.assert_close(answer(x), net(x))


class Odd(nn.Module):
    """Convolutions in all the ways that must stay as they are, but for one with a bias."""

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
        (Odd, [("folds", "norms.0")]),
        (Pair, [("conv", "norm")]),
        *((kind, []) for kind in (Undecided, Tied, Shared, Reused, Optional, Hooked)),
    ],
)
def test_what_cannot_be_folded_stays(kind: type[nn.Module], found: list[tuple[str, str]]) -> None:
    net = kind().double().eval()
    disturb(net, 0)
    assert pairs(net) == found
    assert_same(net, random_batch(1).x)


def test_layers_of_other_precision_are_not_folded() -> None:
    net = Pair().eval()
    net.conv.bfloat16()
    assert not pairs(net)
    assert not pairs(net.bfloat16())


def test_a_network_that_remembers_what_it_saw() -> None:
    class Remembers(Pair):
        def forward(self, x: Tensor) -> Tensor:
            self.seen = self.conv(x)
            return self.norm(self.seen).mean(dim=(2, 3))  # type: ignore[no-any-return]

    net, x = Remembers().double().eval(), random_batch(1).x
    view = view_of(net)
    due = view.logits(x)
    torch.testing.assert_close(frozen(view)(x), due)


def test_what_a_pass_does_not_use_is_dropped() -> None:
    weight, kept = normal(4, 4, 3, 3), Prepared()
    for scale in range(5):
        with keeping(kept):
            convolve(normal(2, 4, 2, 2), weight * scale, padding=1)
        assert len(kept) == 1


def test_weights_that_are_learnt_are_not_kept() -> None:
    x, weight = normal(2, 4, 2, 2), normal(4, 4, 3, 3).requires_grad_()
    kept = Prepared()
    with keeping(kept):
        convolve(x, weight, padding=1).sum().backward()  # type: ignore[no-untyped-call]
        with torch.inference_mode():
            convolve(x, weight.detach(), padding=1)
        assert not kept
        convolve(x, weight.detach(), padding=1)
        assert len(kept) == 1
    convolve(x, weight.detach(), padding=1)
    assert len(kept) == 1
    assert weight.grad is not None


def test_what_is_kept_is_told_apart_by_tensor_and_way() -> None:
    make, a, b = Mock(side_effect=lambda t: t + 1), torch.zeros(1), torch.ones(1)
    with keeping(Prepared()):
        found = [float(prepared(way, make, t)) for t in (a, b) for way in ("one", "other") for _ in range(2)]
        a += 5
        assert float(prepared("one", make, a)) == 6
    assert found == [1] * 4 + [2] * 4
    assert make.call_count == 5
