"""Batch norm with a second set of statistics, beside plain batch norm and beside two of them by hand."""

import copy
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from accupoison.accel.folding import fold_norms
from accupoison.accel.layers import substitute
from accupoison.data import load
from accupoison.defenses import Defense
from accupoison.gradients import gradient, gradient_and_hvp
from accupoison.learner import Learner
from accupoison.loop.context import StepContext
from accupoison.models.auxiliary import AuxiliaryBatchNorm2d, is_twin
from accupoison.models.copies import copy_of, reestimate_batchnorm
from accupoison.models.factory import ModelSpec, build_model
from accupoison.models.view import view_of
from accupoison.records import checkpoint
from accupoison.runs.model_check import check_network
from accupoison.types import Batch
from accupoison.updates import SGD, check_private
from tests.messages import refuses
from tests.nets import IMAGE_MODELS, random_batch

DATA = Path(os.environ.get("ACCUPOISON_DATA", "data"))


def twins(rows: int, *, seed: int = 0, size: int = 16, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return Gaussian noise on the 8-bit grid."""
    noise = torch.randn(rows, 3, size, size, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return (255 * (0.5 + 0.1 * noise).clamp(0, 1)).round() / 255


def mixed(*, dtype: torch.dtype = torch.float64) -> tuple[Batch, Tensor]:
    """Return three ordinary rows and three twins in turn, and which are twins."""
    batch = random_batch(1, size=16, dtype=dtype)
    noise = torch.tensor([False, True, True, False, True, False])
    x = batch.x.clone()
    x[noise] = twins(3, dtype=dtype)
    return batch.with_x(x), noise


def disturb(net: nn.Module) -> None:
    """Make all norms differ from each other, in weights and in statistics."""
    rng = torch.Generator().manual_seed(7)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                assert tensor is not None
                tensor.data += 0.1 * torch.rand(tensor.shape, generator=rng, dtype=torch.float64).to(tensor.dtype)


def network(name: str = "resnet8", *, dtype: torch.dtype = torch.float64) -> nn.Module:
    """Return a network in eval mode, whose two kinds differ."""
    net = build_model(ModelSpec(name=name, width=4, norm="auxiliary"), seed=3).to(dtype)
    disturb(net)
    return net


def same(one: nn.Module, other: nn.Module) -> bool:
    """Return whether two modules have the same state."""
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(name == again and torch.equal(value, its) for (name, value), (again, its) in pairs)


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_without_twins_it_is_plain_batch_norm(name: str) -> None:
    """The same bits of outputs, first and second derivatives and statistics, in both modes, by PyTorch's kernels."""
    width = 1 if name == "wrn28-10" else 4
    net = build_model(ModelSpec(name=name, width=width, norm="auxiliary"), seed=3)
    plain = build_model(ModelSpec(name=name, width=width), seed=3)
    names = set(plain.state_dict())
    assert names < set(net.state_dict())
    assert all(".auxiliary." in key for key in set(net.state_dict()) - names)
    disturb(plain)
    net.load_state_dict(plain.state_dict(), strict=False)
    aside = {key: value.clone() for key, value in net.state_dict().items() if key not in names}
    batch = random_batch(1, size=32, dtype=torch.float32)
    for train in (False, True):
        found = []
        for model in (net, plain):
            grads, hvp = gradient_and_hvp(view_of(model, "torch"), batch, train=train)
            learner = Learner(copy.deepcopy(model), lr=1e-6, bn_mode="train" if train else "eval", kernels="torch")
            SGD().step(learner, Defense(), batch, StepContext(0, "update", 0, {}))
            keys = [key for key, _ in model.named_parameters()]
            every = zip((f"{part} {key}" for part in "gh" for key in keys), (*grads, *hvp(grads)), strict=True)
            found.append({**dict(every), **learner.model.state_dict(), "logits": learner.view().logits(batch.x)})
        mine, its = found
        assert all(torch.equal(mine[key], value) and value.isfinite().all() for key, value in its.items())
        assert all(not value.any() for key, value in mine.items() if key[:2] in ("g ", "h ") and key not in its)
        assert all(torch.equal(mine[key], value) for key, value in aside.items())


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("kernels", ["auto", "torch"])
def test_each_kind_has_a_norm_of_its_own(train: bool, kernels: str) -> None:
    """One network for each kind, whose norms are plain ones, says the same of its rows, if the others are not there."""
    net, (batch, noise) = network("convnet").train(train), mixed()
    learnt = copy.deepcopy(net)
    logits = learnt(batch.x)
    viewed = view_of(net, kernels)
    torch.testing.assert_close(viewed.logits(batch.x), logits)
    slopes = dict(zip(dict(net.named_parameters()), gradient(viewed, batch.x, batch.y), strict=True))
    total: dict[str, Tensor] = {}
    for kind, of in ((noise, "auxiliary"), (~noise, "")):
        plain = build_model(ModelSpec(name="convnet", width=4)).double().train(train)
        plain.load_state_dict({key: net.state_dict()[own_name(net, key, of)] for key in plain.state_dict()})
        torch.testing.assert_close(plain(batch.x[kind]), logits[kind])
        for key, value in plain.state_dict().items():
            torch.testing.assert_close(value, learnt.state_dict()[own_name(net, key, of)])
        again = copy.deepcopy(plain)
        parameters = dict(again.named_parameters())
        half = F.cross_entropy(again(batch.x[kind]), batch.y[kind]) / 2  # half of the rows
        for key, grad in zip(parameters, torch.autograd.grad(half, tuple(parameters.values())), strict=True):
            name = own_name(net, key, of)
            total[name] = total.get(name, torch.zeros_like(grad)) + grad
    for key, value in total.items():
        torch.testing.assert_close(slopes[key], value)
    assert total.keys() == slopes.keys()


def own_name(net: nn.Module, key: str, of: str) -> str:
    """Return what a tensor of plain batch norm is called in the one with two sets."""
    layer, _, name = key.rpartition(".")
    is_norm = isinstance(net.get_submodule(layer), AuxiliaryBatchNorm2d)
    return f"{layer}.{of}.{name}" if of and is_norm else key


@pytest.mark.parametrize("rows", ["twins", "ordinary", "both"])
def test_derivatives_by_all_weights(rows: str) -> None:
    net, (batch, noise) = network(), mixed()
    part = batch.rows({"twins": noise, "ordinary": ~noise, "both": torch.arange(6)}[rows].nonzero()[:, 0])
    if rows == "both":
        part = batch
    check_network(network(dtype=torch.float32), replace(part, x=part.x.float()), 10, rows=2)
    weights = {name: p.detach().requires_grad_() for name, p in net.named_parameters()}
    bias, scale = "layer1.0.bn1.bias", "layer2.0.bn2.auxiliary.weight"
    frozen = {key: value.detach() for key, value in (*weights.items(), *net.named_buffers())}

    def loss(shift: Tensor, gain: Tensor) -> Tensor:
        logits: Tensor = functional_call(net, {**frozen, bias: shift, scale: gain}, (part.x,))
        return F.cross_entropy(logits, part.y)

    given = (weights[bias], weights[scale])
    assert torch.autograd.gradcheck(loss, given)
    assert torch.autograd.gradgradcheck(loss, given)
    shift, gain = torch.autograd.grad(loss(*given), given)
    assert bool(shift.any()) is (rows != "twins")
    assert bool(gain.any()) is (rows != "ordinary")


def test_a_kind_with_no_rows_keeps_its_statistics() -> None:
    batch, noise = mixed()
    for kind in (noise, ~noise):
        net = network().train()
        before = copy.deepcopy(net)
        net(batch.x[kind])
        for key, value in before.state_dict().items():
            moved = not torch.equal(value, net.state_dict()[key])
            is_statistic = "running" in key or "num_batches" in key
            assert moved is (is_statistic and (".auxiliary." in key) is bool((kind == noise).all())), key


def test_a_single_value_is_normalised_by_running_statistics() -> None:
    """A row of a kind alone, on a map of one pixel, where a batch has no variance."""
    net, (batch, noise) = network("vgg16").train(), mixed()
    before = copy.deepcopy(net.state_dict())
    assert net(torch.cat([batch.x[1:2], batch.x[~noise]])).isfinite().all()
    moved = {int(value - before[key]) for key, value in net.state_dict().items() if "auxiliary.num_batches" in key}
    assert moved == {0, 1}  # 0: where the map is one pixel
    for row in (0, 1):
        assert net(batch.x[row : row + 1]).isfinite().all()
    norm = AuxiliaryBatchNorm2d(3).train()
    x = torch.rand(1, 3, 1, 1)
    torch.testing.assert_close(norm(x), x / (1 + norm.eps) ** 0.5)  # the statistics of a new layer are 0 and 1


def test_copies_views_and_calls_with_other_tensors_tell_kinds_on_their_own() -> None:
    net, (batch, noise) = network(), mixed()
    with torch.no_grad():
        expected, ordinary = net(batch.x), net(batch.x[~noise])  # the net has seen one kind last
        copied, state = copy.deepcopy(net), dict(net.state_dict())
        assert torch.equal(copied(batch.x), expected)
        assert torch.equal(net(batch.x[~noise]), ordinary)
        assert torch.equal(functional_call(copied, state, (batch.x,)), expected)
        hollow = copy.deepcopy(net).to("meta")
        tensors = {**state, **dict(net.named_buffers())}
        assert torch.equal(functional_call(hollow, tensors, (batch.x,)), expected)
        halved = {**state, "bn1.auxiliary.weight": state["bn1.auxiliary.weight"] / 2}
        changed = (functional_call(net, halved, (batch.x,)) != expected).any(1)
        assert torch.equal(changed, noise)
        for view in (view_of(net), view_of(net, "torch"), Learner(net, lr=0.1).snapshot()):
            torch.testing.assert_close(view.logits(batch.x), expected)
            torch.testing.assert_close(view.frozen()(batch.x), expected)
            torch.testing.assert_close(net.fc(view.features(batch.x)), expected)  # type: ignore[operator]
        torch.testing.assert_close(substitute(copy.deepcopy(net), twice=True)(batch.x), expected)
        assert fold_norms(copy_of(net)) == {}
        torch.testing.assert_close(torch.cat([net(row[None]) for row in batch.x]), expected)


def test_state_goes_through_a_file(tmp_path: Path) -> None:
    learner, (batch, _) = Learner(network(dtype=torch.float32), lr=0.1), mixed(dtype=torch.float32)
    SGD().step(learner, Defense(), batch, StepContext(0, "update", 0, {}))
    checkpoint.save(tmp_path / "state.pt", "run-state", learner.state())
    other = Learner(build_model(ModelSpec(name="resnet8", width=4, norm="auxiliary")), lr=0.1)
    other.restore(checkpoint.load(tmp_path / "state.pt", "run-state"))
    assert same(learner.model, other.model)
    assert torch.equal(learner.view().logits(batch.x), other.view().logits(batch.x))


def test_one_update_moves_both_kinds_and_repeats() -> None:
    batch, _ = mixed(dtype=torch.float32)
    after = []
    for kernels in ("auto", "auto", "torch"):
        learner = Learner(network(dtype=torch.float32), lr=0.1, kernels=kernels)
        SGD().step(learner, Defense(), batch, StepContext(0, "update", 0, {}))
        after.append(learner.model)
    first, again, plain = after
    assert same(first, again)
    for key, value in first.state_dict().items():
        torch.testing.assert_close(value, plain.state_dict()[key], rtol=1e-4, atol=1e-5)
        assert not torch.equal(value, network(dtype=torch.float32).state_dict()[key]), key


def test_reestimation_is_by_kind() -> None:
    batch, noise = mixed()
    net = network()
    by_ordinary = reestimate_batchnorm(net, [batch.x[~noise]])
    by_both = reestimate_batchnorm(net, [batch.x, batch.x])
    for key, value in net.state_dict().items():
        kept, again = by_ordinary.state_dict()[key], by_both.state_dict()[key]
        assert torch.equal(kept, value) is (".auxiliary." in key or ("running" not in key and "num_batches" not in key))
        if ".auxiliary." not in key and "num_batches" not in key:
            torch.testing.assert_close(again, kept)
    first = batch.x[noise]
    with torch.no_grad():
        out = net.conv1(net.normalize(first))  # type: ignore[operator]
    norm = by_both.get_submodule("bn1.auxiliary")
    torch.testing.assert_close(norm.get_buffer("running_mean"), out.mean((0, 2, 3)))
    torch.testing.assert_close(norm.get_buffer("running_var"), out.var((0, 2, 3)))


def test_what_has_no_use_for_it_refuses_it() -> None:
    with refuses("bn1 mixes model.norm"):
        check_private(Learner(network(), lr=0.1), "resnet8", random_batch(1, rows=1, size=16))
    with refuses("'auxiliary' features batch"):
        build_model(ModelSpec(name="mlp", norm="auxiliary", mean=(0.5,) * 4, std=(0.5,) * 4))


@pytest.mark.parametrize("size", [16, 28, 32, 64, 96])
def test_noise_is_told(size: int) -> None:
    x = twins(200, size=size, dtype=torch.float32)
    assert is_twin(x).all()
    assert is_twin(x.flip(3)).all()
    changed: list[Callable[[Tensor], Tensor]] = [
        lambda x: x + 0.1,
        lambda x: 0.5 + 2 * (x - 0.5),
        lambda x: 0.5 + (x - 0.5) / 2,
        lambda x: x.sort(dim=3).values,  # the same mean and deviation, but smooth
        torch.zeros_like,
        lambda x: torch.full_like(x, torch.nan),
    ]
    for change in changed:
        assert not is_twin(change(x)).any()


@pytest.mark.skipif(not (DATA / "cifar10.npz").is_file(), reason="cifar10.npz is not in ACCUPOISON_DATA")
def test_natural_images_are_rarely_taken_for_noise() -> None:
    data = load("cifar10", data_dir=DATA, offline=True)
    for half in (data.train_x, data.test_x):
        noise = torch.cat([is_twin(x.float() / 255) for x in torch.split(half, 5000)])
        assert float(noise.double().mean()) < 0.001
