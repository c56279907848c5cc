"""What is found out about somebody's network before its first epoch, and what works."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.utils import spectral_norm, weight_norm

from accupoison.data import DataSet
from accupoison.gradients import gradient
from accupoison.learner import Learner
from accupoison.models.factory import ModelSpec, build_model
from accupoison.runs.model_check import check_images
from tests.messages import refuses
from tests.nets import IMAGE_MODELS
from tests.unit.test_base_model import data

CLASSES = 3


def net(*between: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, 2, 1), *between, nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, CLASSES)
    )


def check(model: nn.Module, batch_size: int = 10, *, fresh: bool = True, found: DataSet | None = None) -> None:
    found = found or data()
    check_images(model.eval(), "m", found, torch.arange(10), batch_size, fresh=fresh)


class Calls(nn.Module):
    """A layer that calls a function of itself and its input."""

    def __init__(self, function: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.function = function
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor) -> Any:  # noqa: ANN401
        return self.function(self, x)


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ANN401
        return x.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> Tensor:  # noqa: ANN401
        return slope.clone()


def dead() -> nn.Module:
    model = net()
    next(model.parameters()).data.fill_(torch.nan)
    return model


def idle() -> nn.Module:
    model = net(Calls(lambda _, x: x))
    model[1].unused = nn.Linear(2, 2)
    return model


class Extra(nn.Flatten):
    def get_extra_state(self) -> dict[str, int]:
        return {"a": 1}

    def set_extra_state(self, state: dict[str, int]) -> None:
        pass


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (nn.Flatten(), "maps 4 images [4, 192] logits [4, 3]"),
        (nn.Sequential(net(), Calls(lambda _, x: (x, x))), "maps 4 images tuple logits"),
        (nn.Sequential(net(), Calls(lambda _, x: x.double())), "logits torch.float64 float32"),
        (nn.Sequential(net(), Calls(lambda m, x: x[:1] if m.training else x)), "maps 2 images [1, 3]"),
        (nn.Sequential(net(), nn.Softmax(1)), "probabilities softmax"),
        (net(Calls(lambda _, x: x + torch.randn_like(x))), "answers differently asked"),
        (net(nn.BatchNorm2d(4, track_running_stats=False)), "answers images batch"),
        (net(Calls(lambda m, x: x + 0 * m.count.add_(1))), "changes state eval"),
        (dead(), "not finite"),
        (idle(), "1.unused.weight gradient"),
        (net(Calls(lambda _, x: x.detach())), "0.weight gradient"),
        (net(Calls(lambda _, x: Once.apply(x))), "no second derivative once_differentiable"),
        (net(Calls(lambda _, x: x.relu().exp().relu_().add_(x))), "learn 2 inplace"),
        (net(Calls(lambda _, x: 1 / 0)), "take [3, 8, 8] (division by zero)"),
        (nn.Sequential(net(), Extra()), "1._extra_state tensor"),
        (net(nn.Flatten(), nn.BatchNorm1d(64), nn.Unflatten(1, (4, 4, 4))), None),
    ],
)
def test_what_is_found(model: nn.Module, words: str | None) -> None:
    if words is None:
        check(model)
    else:
        with refuses(f"model m {words}"):
            check(model)


def test_a_batch_may_be_too_small() -> None:
    deep = build_model(ModelSpec(width=4, num_classes=CLASSES))
    check(deep, 2, found=data(size=16))
    with refuses("model m learn 1 larger batch"):
        check(deep, 1, found=data(size=16))


def test_a_stream_may_start_from_a_model_that_has_diverged() -> None:
    check(dead(), fresh=False)


def test_what_nothing_is_crafted_against_needs_no_second_derivative() -> None:
    model = net(Calls(lambda _, x: Once.apply(x))).eval()
    check_images(model, "m", data(), torch.arange(1), 10, crafted=False)
    with refuses("has no second derivative"):
        check_images(model, "m", data(), torch.arange(1), 10)


def test_nothing_changes() -> None:
    model = net(nn.BatchNorm2d(4), nn.Dropout())
    before, random = {name: value.clone() for name, value in model.state_dict().items()}, torch.get_rng_state()
    check(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_every_network_passes(name: str) -> None:
    check(build_model(ModelSpec(name=name, width=4, num_classes=CLASSES)), found=data(size=16))


class Attention(nn.Module):
    """Patches of 4x4 pixels that look at each other."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kind, self.embed, self.head = kind, nn.Conv2d(3, 8, 4, 4), nn.Linear(8, CLASSES)
        self.inner: nn.Module = nn.Identity()
        if kind == "layer":
            self.inner = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True)
        elif kind != "function":
            self.inner = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).mT
        if self.kind == "function":
            x = nn.functional.scaled_dot_product_attention(x, x, x)
        elif self.kind == "layer":
            x = self.inner(x)
        else:
            x = self.inner(x, x, x, need_weights=self.kind == "weights")[0]
        return self.head(x.mean(1))  # type: ignore[no-any-return]


def frozen() -> nn.Module:
    model = net()
    model[0].requires_grad_(False)
    return model


def _keeping(layer: nn.Module, x: Tensor) -> Tensor:
    layer.seen = [x * 2]  # type: ignore[assignment]
    return x


def normed(norm: Callable[..., nn.Module]) -> nn.Module:
    model = net()
    norm(model[0])
    return model


USABLE: dict[str, Callable[[], nn.Module]] = {
    "frozen": frozen,
    "old weight norm": lambda: normed(weight_norm),
    "old spectral norm": lambda: normed(spectral_norm),
    "weight norm": lambda: normed(nn.utils.parametrizations.weight_norm),
    "spectral norm": lambda: normed(nn.utils.parametrizations.spectral_norm),
    "in-place ReLU": lambda: net(nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.ReLU(inplace=True)),
    "dropout": lambda: net(nn.Dropout(0.5)),
    "keeps its maps": lambda: net(Calls(_keeping)),
    **{f"attention: {kind}": partial(Attention, kind) for kind in ("function", "module", "weights", "layer")},
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
@pytest.mark.parametrize("make", USABLE.values(), ids=list(USABLE))
def test_what_works(make: Callable[[], nn.Module]) -> None:
    """Views and updates agree, an update moves what is trained alone, and a state comes back."""
    model = make()
    check(model)
    learner, batch = Learner(model, lr=0.5), data().batch(torch.arange(8))
    view = learner.view()
    still = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    assert len(view.params()) == len(learner.parameters) == len(list(model.parameters())) - len(still)
    for _ in range(2):
        state, before = learner.state(), learner.weights()
        statistics = {name: b.clone() for name, b in model.named_buffers()}
        seeded = torch.random.get_rng_state()
        seen = gradient(view, batch.x, batch.y, train=True)
        assert all(torch.equal(b, statistics[name]) for name, b in model.named_buffers())
        torch.random.set_rng_state(seeded)
        with learner.forward() as forward:
            loss = nn.functional.cross_entropy(forward(batch.x), batch.y)
        grads = torch.autograd.grad(loss, learner.parameters)
        for a, b in zip(seen, grads, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
        stepped, _settled = learner.preview(grads)
        snapshot = learner.snapshot()
        old = snapshot.logits(batch.x)
        learner.apply(grads)
        for p, predicted in zip(learner.parameters, stepped, strict=True):
            torch.testing.assert_close(p.detach(), predicted, rtol=1e-5, atol=1e-6)
        assert not torch.equal(learner.weights(), before)
        assert torch.equal(snapshot.logits(batch.x), old)
        torch.testing.assert_close(view.logits(batch.x), model(batch.x), rtol=1e-4, atol=1e-5)
    learner.coast()
    assert all(torch.equal(p, still[name]) for name, p in model.named_parameters() if name in still)
    assert view.state().keys() == {**dict(model.named_parameters()), **dict(model.named_buffers())}.keys()
    learner.restore(state)
    assert torch.equal(learner.weights(), before)


def test_fused_attention_gives_the_same_answers() -> None:
    model, batch = Attention("module").eval(), data().batch(torch.arange(8))
    view = Learner(model, lr=0.1).view()
    torch.testing.assert_close(view.logits(batch.x), model(batch.x), rtol=1e-5, atol=1e-6)


def lazy(num_classes: int) -> nn.Module:
    return nn.Sequential(nn.LazyConv2d(4, 3), nn.Flatten(), nn.LazyLinear(num_classes))


def half(num_classes: int) -> nn.Module:
    return net().half()


def parallel(num_classes: int) -> nn.Module:
    return nn.Sequential(nn.DataParallel(net()))


def scripted(num_classes: int) -> nn.Module:
    return torch.jit.script(net())


def untrained(num_classes: int) -> nn.Module:
    return net().requires_grad_(False)


def list_of_nets(num_classes: int) -> list[nn.Module]:
    return [net()]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("lazy", "0.weight size"),
        ("half", "0.weight torch.float16 float32"),
        ("parallel", "DataParallel"),
        ("scripted", "a compiled torch.jit.ScriptModule"),
        ("untrained", "module without trainable"),
        ("list_of_nets", "list torch.nn.Module"),
    ],
)
def test_a_factory_of_something_else(name: str, words: str) -> None:
    with refuses(f"model '{__name__}:{name}' returned {words}"):
        build_model(ModelSpec(name=f"{__name__}:{name}", num_classes=CLASSES))
