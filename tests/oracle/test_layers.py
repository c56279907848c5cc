"""Layers of our own, in views and updates, beside PyTorch's."""

import copy
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from accupoison.accel import double_backward, layers
from accupoison.accel.layers import substitute
from accupoison.learner import Learner
from accupoison.models.factory import MODELS, ModelSpec, build_model
from accupoison.models.view import view_of
from tests.messages import refuses
from tests.nets import FEATURE_MODELS, normal, random_batch, random_net

LAYOUTS = [torch.contiguous_format, torch.channels_last]


def beside(layer: nn.Module, x: Tensor, *, twice: bool = True) -> None:
    """Check a layer's result, its memory layout and its derivatives to the second order."""
    ours = substitute(copy.deepcopy(layer), twice=twice)
    assert ours.__class__ is not layer.__class__
    found = []
    for module in (ours, layer):
        given = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
        leaves = (given, *module.parameters())
        out = module(given)
        into = normal(*out.shape, seed=9).requires_grad_()
        first = torch.autograd.grad(out, leaves, into, create_graph=True)
        value = sum((t * normal(*t.shape, seed=7)).sum() for t in first)
        assert isinstance(value, Tensor)
        second = torch.autograd.grad(value, (into, *leaves), allow_unused=True, materialize_grads=True)
        found.append((out, *first, *second))
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)
    if min(t.shape[2:].numel() for t in (x, found[0][0])) > 1:  # a single pixel counts as laid out in both ways
        assert found[0][0].stride() == found[1][0].stride()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("side", [(1, 1), (2, 2), (1, 2), (2, 3), (4, 4)])
def test_convolutions_of_every_geometry(
    side: tuple[int, int], layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_products = set()
    taps_of = layers._taps

    def noted(sides: tuple[tuple[int, int, int, int], ...]) -> layers.Taps | None:
        taps = taps_of(sides)
        as_products.add(taps is not None)
        return taps

    monkeypatch.setattr(layers, "_taps", noted)
    kernels, paddings = [(1, 1), (2, 2), (3, 3), (3, 1)], [(0, 0), (1, 1), (1, 0)]
    x = normal(3, 5, *side, seed=1).to(memory_format=layout)
    for kernel, stride, padding in itertools.product(kernels, [(1, 1), (2, 1)], paddings):
        if all(s + 2 * p >= k for s, p, k in zip(side, padding, kernel, strict=True)):
            for bias in (False, True):
                layer = nn.Conv2d(5, 4, kernel, stride, padding, bias=bias).double().to(memory_format=layout)
                beside(layer, x, twice=not bias)
    assert as_products == ({False} if side == (4, 4) else {True, False})


def test_small_maps_are_one_product() -> None:
    layer = substitute(nn.Conv2d(4, 6, 3, padding=1), twice=False)
    x = torch.rand(2, 4, 2, 2)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        layer(x)
    names = {event.key for event in profile.key_averages()}
    assert "aten::mm" in names | {"aten::mm" if "aten::addmm" in names else ""}
    assert "aten::convolution" not in names


def test_a_first_call_without_gradients_leaves_later_ones_theirs() -> None:
    layers._taps.cache_clear()
    layer, x = substitute(nn.Conv2d(4, 6, 3, padding=1), twice=False), torch.rand(2, 4, 2, 2)
    with torch.inference_mode():
        layer(x)
    layer(x).sum().backward()
    assert all(p.grad is not None for p in layer.parameters())
    assert layer(x[:0]).shape == (0, 6, 2, 2)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_batch_norm_and_max_pools(layout: torch.memory_format) -> None:
    x = normal(4, 3, 6, 7).to(memory_format=layout)
    norm = random_net(0)[1].eval()
    beside(norm, normal(4, 8, 3, 5).to(memory_format=layout))
    for settings in ((2,), (3, 2, 1), ((3, 2), (1, 2), (1, 0)), (2, 1, 0, 2)):
        beside(nn.MaxPool2d(*settings), x)
    beside(nn.MaxPool2d(3, 2, ceil_mode=True), x)


def test_what_is_not_ordinary_stays() -> None:
    class Mine(nn.Conv2d):
        pass

    kept = [
        Mine(3, 4, 3),
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Conv2d(4, 4, 3, dilation=2),
        nn.Conv2d(4, 4, 3, padding="same"),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"),
        nn.BatchNorm2d(4, affine=False),
        nn.BatchNorm2d(4, track_running_stats=False),
        nn.MaxPool2d(2, return_indices=True),
        nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3)),
    ]
    types = [type(layer) for layer in kept]
    substitute(nn.ModuleList(kept), twice=True)
    assert [type(layer) for layer in kept] == types


def plain(layer: nn.Module, x: Tensor) -> bool:
    """Return whether a pass is PyTorch's own, and its result."""
    name = str(layer(x).grad_fn)
    return not any(own in name for own in ("Multilinear", "MaxPoolBackward", "Addcmul"))


def test_passes_that_fall_back() -> None:
    conv = substitute(nn.Conv2d(2, 3, 3, bias=False), twice=True)
    norm, pool = substitute(nn.BatchNorm2d(2).eval(), twice=True), substitute(nn.MaxPool2d(2), twice=True)
    x = torch.rand(2, 2, 6, 6, requires_grad=True)
    for layer in (conv, norm, pool):
        assert not plain(layer, x)
        with torch.no_grad():
            assert layer(x).grad_fn is None
    with torch.autocast("cpu", torch.bfloat16):
        assert plain(conv, x)
    assert plain(conv, x[0])
    assert plain(pool, x[0])
    assert plain(conv, x[:0])
    assert plain(norm.train(), x)
    half = [copy.deepcopy(layer).bfloat16() for layer in (conv, norm.eval())]
    assert all(plain(layer, x.bfloat16()) for layer in half)
    for frozen in (conv, norm):
        assert plain(frozen.requires_grad_(False), x)
    with refuses("to have 2 channels", RuntimeError):
        conv(torch.rand(2, 3, 6, 6))
    with refuses("Kernel size", RuntimeError):
        conv(torch.rand(2, 2, 2, 2))


@pytest.mark.parametrize("name", [name for name in MODELS.names() if name not in FEATURE_MODELS])
def test_networks_agree_to_the_second_derivative(name: str) -> None:
    net, batch = build_model(ModelSpec(name=name, width=4)).double().eval(), random_batch(1, rows=3, size=32)
    types = [type(layer) for layer in net.modules()]

    def second(kernels: str) -> tuple[Tensor, ...]:
        view = view_of(net, kernels)
        loss = F.cross_entropy(view.logits(batch.x), batch.y)
        first = torch.autograd.grad(loss, view.params(), create_graph=True)
        return torch.autograd.grad(torch.stack([(g * g.detach()).sum() for g in first]).sum(), view.params())

    for mine, exact in zip(second("auto"), second("torch"), strict=True):
        torch.testing.assert_close(mine, exact, rtol=1e-9, atol=1e-11)
    assert [type(layer) for layer in net.modules()] == types


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2"])
def test_updates_agree_and_move_the_same_statistics(name: str) -> None:
    net, batch = build_model(ModelSpec(name=name, width=4)).double(), random_batch(1, rows=3, size=32)
    learners = [Learner(copy.deepcopy(net), lr=0.1, kernels=kernels) for kernels in ("auto", "torch")]
    for learner in learners:
        types = [type(layer) for layer in learner.model.modules()]
        with learner.forward() as forward:
            loss = F.cross_entropy(forward(batch.x), batch.y) + forward(batch.x.flip(0)).square().mean()
        learner.apply(torch.autograd.grad(loss, learner.parameters))
        assert [type(layer) for layer in learner.model.modules()] == types
    states = [learner.model.state_dict() for learner in learners]
    for key, value in states[0].items():
        torch.testing.assert_close(value, states[1][key], rtol=1e-9, atol=1e-11)
    assert [learner.kernels_in_effect for learner in learners] == ["own", "torch"]


def test_a_buffer_that_a_pass_sets_anew_is_kept() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.calls = nn.Linear(12, 2), nn.Buffer(torch.zeros((), dtype=torch.int64))

        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                self.calls = self.calls + 1  # type: ignore[assignment]
            return self.layer(x.flatten(1))  # type: ignore[no-any-return]

    learner = Learner(Counting(), lr=0.1)
    for _ in range(2):
        with learner.forward() as forward:
            forward(torch.rand(2, 3, 2, 2))
            forward(torch.rand(2, 3, 2, 2))
    assert learner.model.state_dict()["calls"] == 2
    assert learner.view().state()["calls"] == 2


def test_hooks_of_others_see_every_update() -> None:
    learner, seen = Learner(random_net(0, torch.float32), lr=0.1), []
    learner.model[0].register_forward_hook(lambda layer, *_: seen.append(type(layer)))  # type: ignore[index]
    with learner.forward() as forward:
        forward(random_batch(1, dtype=torch.float32).x)
    assert seen == [nn.Conv2d]


def test_only_gradients_that_are_asked_for_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    taken = double_backward.derivative

    def spy(operators: Any, by: int, *others: Tensor) -> Tensor:  # noqa: ANN401
        asked.append(by)
        return taken(operators, by, *others)

    first, second = (nn.Conv2d(2, 2, 3, bias=False) for _ in range(2))
    substitute(nn.ModuleList([first, second]), twice=True)
    x = torch.rand(2, 2, 7, 7, requires_grad=True)
    value: Callable[[], Tensor] = lambda: second(first(x).tanh()).square().sum()  # noqa: E731
    monkeypatch.setattr(double_backward, "derivative", spy)
    for inputs, due in ((x, [0, 0]), (second.weight, [1]), (first.weight, [0, 1])):
        out = value()
        asked.clear()
        torch.autograd.grad(out, inputs)
        assert asked == due
    grads = torch.autograd.grad(value(), (first.weight, second.weight), create_graph=True)
    asked.clear()
    torch.autograd.grad(torch.stack([g.square().sum() for g in grads]).sum(), x)
    assert asked
    assert 1 not in asked  # no weight's gradient


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:FutureWarning")  # forward mode calls it itself
def test_transforms_and_forward_mode_work_on_views() -> None:
    net, batch = build_model(ModelSpec(name="resnet18", width=2)).double().eval(), random_batch(1, rows=2, size=32)
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
    found, due = (
        torch.autograd.functional.jacobian(lambda x: view.logits(x).sum(0), batch.x, vectorize=vectorize)  # type: ignore[no-untyped-call]
        for vectorize in (True, False)
    )
    torch.testing.assert_close(found, due, rtol=1e-9, atol=1e-12)
