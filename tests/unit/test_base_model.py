import argparse
import copy
import math
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from accupoison.config.schema import DataSettings, ModelSettings
from accupoison.data import STATS, DataSet
from accupoison.learner import Learner
from accupoison.models.factory import ModelSpec, build_model
from accupoison.records import checkpoint
from accupoison.records.foreign import load_weights, put_into
from accupoison.runs.base_model import KIND, BaseModel, data_identity, place, spec_for
from accupoison.runs.places import default_place
from tests.messages import refuses
from tests.nets import IMAGE_MODELS

CPU = torch.device("cpu")
SPEC = ModelSpec(name="resnet8", width=4, num_classes=3, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))


def data(seed: int = 0, classes: int = 3, size: int = 8) -> DataSet:
    rng = torch.Generator().manual_seed(seed)
    x = torch.randint(256, (40, 3, size, size), generator=rng, dtype=torch.uint8)
    y = torch.arange(40) % classes
    names = tuple("abcdefghij"[:classes])
    return DataSet("small", x[:30], y[:30], x[30:], y[30:], names, flip=True)


@pytest.fixture
def base() -> BaseModel:
    learner = Learner(build_model(SPEC, seed=1), lr=0.3)
    learner.apply(tuple(torch.ones_like(p) for p in learner.model.parameters()))
    state = learner.state()
    return BaseModel(SPEC, state["model"], state["optimizer"], 0.3, 7, data_identity(DataSettings(), data()))


def test_a_checkpoint_comes_back(base: BaseModel, tmp_path: Path) -> None:
    base.save(tmp_path / "final.pt")
    back = BaseModel.load(tmp_path / "final.pt")
    assert (back.spec, back.lr, back.epoch, back.data) == (base.spec, base.lr, base.epoch, base.data)
    assert {name: value.tolist() for name, value in back.weights.items()} == {
        name: value.tolist() for name, value in base.weights.items()
    }
    assert back.optimizer is not None
    assert base.optimizer is not None
    for index, state in base.optimizer["state"].items():
        assert torch.equal(back.optimizer["state"][index]["momentum_buffer"], state["momentum_buffer"])
    x = torch.rand(2, 3, 8, 8)
    models = [model.build(tmp_path, CPU) for model in (base, back)]
    assert torch.equal(models[0](x), models[1](x))
    assert not models[1].training


def test_saving_twice_gives_the_same_bytes(base: BaseModel, tmp_path: Path) -> None:
    base.save(tmp_path / "a.pt")
    base.save(tmp_path / "b.pt")
    BaseModel.load(tmp_path / "a.pt").save(tmp_path / "c.pt")
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes() == (tmp_path / "c.pt").read_bytes()


@pytest.mark.parametrize("prefix", ["module.", ""])
def test_a_released_file_is_a_resnet18(prefix: str, tmp_path: Path) -> None:
    model = build_model(ModelSpec(width=4, num_classes=10), seed=2)
    weights = {f"{prefix}{name}": value for name, value in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9).state_dict()
    args = argparse.Namespace(lr=0.1, epochs=41, outf="checkpoints_base_bn", clip_gradnorm=False)
    released = {"epoch": 40, "args": args, "err_cls": 0.18, "optimizer": optimizer, "net": weights}
    torch.save(released, tmp_path / "epoch40.pth")
    base = BaseModel.load(tmp_path / "epoch40.pth")
    mean, std = STATS["cifar10"]
    assert base.spec == ModelSpec(name="resnet18", width=4, norm="batch", num_classes=10, mean=mean, std=std)
    assert (base.optimizer, base.lr, base.data) == (None, None, {})  # an optimiser that has taken no step
    built = base.build(tmp_path, CPU).state_dict()
    assert all(torch.equal(built[name], value) for name, value in model.state_dict().items())
    base.check_data(DataSettings(), data(classes=10), tmp_path)  # nothing is known of its data


def test_the_momentum_of_a_released_file_comes_along(tmp_path: Path) -> None:
    model = build_model(ModelSpec(width=4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    torch.save({"net": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "epoch40.pth")
    base = BaseModel.load(tmp_path / "epoch40.pth")
    assert base.lr == 0.1
    assert base.optimizer is not None
    buffers = [base.optimizer["state"][i]["momentum_buffer"] for i in range(len(list(model.parameters())))]
    assert all(torch.equal(b, torch.ones_like(p)) for b, p in zip(buffers, model.parameters(), strict=True))


def test_a_released_file_with_group_norm(tmp_path: Path) -> None:
    model = build_model(ModelSpec(width=32, norm="group:32"), seed=2)
    torch.save({"net": {f"module.{k}": v for k, v in model.state_dict().items()}}, tmp_path / "epoch40.pth")
    base = BaseModel.load(tmp_path / "epoch40.pth")
    assert base.spec.norm == "group:32"
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in STATS["cifar10"])
    usual = torch.tensor(0.5).view(1, 1, 1, 1), torch.tensor(0.25).view(1, 1, 1, 1)
    same_input = (x - mean) / std * usual[1] + usual[0]  # undoes the other normalisation
    with torch.no_grad():
        torch.testing.assert_close(base.build(tmp_path, CPU)(x), model(same_input), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda weights: weights.pop("fc.bias"), "fc.bias missing"),
        (lambda weights: weights.update(extra=torch.ones(1)), "extra"),
        (lambda weights: weights.update({"fc.weight": torch.ones(3, 5)}), "fc.weight [3, 5] [3, 16]"),
        (lambda weights: weights.update({"fc.weight": weights["fc.weight"].to(torch.int8)}), "fc.weight torch.int8"),
    ],
)
def test_weights_that_do_not_fit(base: BaseModel, change: Callable[[dict[str, Tensor]], None], words: str) -> None:
    weights = dict(base.weights)
    change(weights)
    with refuses(f"x.pt resnet8 width 4 batch {words} model.name"):
        replace(base, weights=weights).build(Path("x.pt"), CPU)


def _linear_head(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.replace("fc.", "linear."): value for name, value in weights.items()}


@pytest.mark.parametrize(
    "form",
    [
        lambda weights: weights,
        lambda weights: {"state_dict": weights, "acc": np.float64(93.1), "history": defaultdict(list)},
        lambda weights: {"model": {f"_orig_mod.module.{name}": value for name, value in weights.items()}},
        lambda weights: {"net": {f"module.module.{name}": value for name, value in weights.items()}},
        lambda weights: {"weights": {f"module.{k}": v for k, v in _linear_head(weights).items()}, "epoch": 3},
        lambda weights: {name: nn.Parameter(v) for name, v in weights.items() if v.is_floating_point()},
    ],
)
def test_a_state_dict_of_ones_own(form: Callable[[dict[str, Tensor]], object], base: BaseModel, tmp_path: Path) -> None:
    torch.save(form(OrderedDict(base.weights)), tmp_path / "mine.pth")
    mine, found = BaseModel.load(tmp_path / "mine.pth"), data()
    with refuses("mine.pth network model.name"):
        mine.check_model(ModelSettings(), tmp_path / "mine.pth")
    wanted = ModelSettings(name="resnet8", width=4)
    mine.check_model(wanted, tmp_path / "mine.pth")
    mine = mine.of(wanted, found, torch.arange(10))
    assert mine.spec == spec_for(wanted, found, torch.arange(10))
    assert (mine.lr, mine.optimizer, mine.data) == (None, None, {})
    built = mine.build(tmp_path, CPU).state_dict()
    assert all(torch.equal(built[name], v) for name, v in base.weights.items() if v.is_floating_point())


@pytest.mark.parametrize(("name", "named"), [(None, True), ("resnet18", True), ("tests.nets:tiny_net", False)])
def test_a_released_file_is_a_state_dict_if_another_network_is_asked_for(
    name: str | None, named: bool, tmp_path: Path
) -> None:
    torch.save({"net": build_model(ModelSpec(width=4)).state_dict()}, tmp_path / "a.pth")
    assert BaseModel.load(tmp_path / "a.pth", name).named == named


def test_a_network_whose_own_names_begin_like_a_prefix(tmp_path: Path) -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = nn.Linear(2, 2)

    one, two = Wrapped(), Wrapped()
    torch.save(one.state_dict(), tmp_path / "a.pth")
    assert put_into(two, load_weights(tmp_path / "a.pth")) is None
    assert torch.equal(one.module.weight, two.module.weight)


def _set(*keys: Any, value: object) -> Callable[[dict[str, Any]], None]:  # noqa: ANN401
    def change(payload: dict[str, Any]) -> None:
        for key in keys[:-1]:
            payload = payload[key]
        payload[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        *(lambda payload, key=key: payload.pop(key) for key in ("spec", "weights", "optimizer", "lr", "epoch", "data")),
        *(_set(key, value="7") for key in ("spec", "weights", "optimizer", "lr", "epoch", "data")),
        *(_set("spec", key, value=1.5) for key in ("name", "width", "norm", "num_classes", "mean", "std", "other")),
        *(_set("spec", "mean", value=value) for value in ((), (0.5,), ("a", "b", "c"))),
        *(_set("lr", value=value) for value in (-1.0, math.nan, math.inf)),
        _set("weights", "fc.bias", value=1.0),
        _set("weights", "fc.bias", value=torch.ones(3, dtype=torch.complex64)),
        _set("optimizer", "param_groups", value=[]),
        _set("optimizer", "state", value=[1]),
        _set("optimizer", "state", 0, value={}),
        _set("optimizer", "state", -1, value={"momentum_buffer": torch.ones(3)}),
        _set("optimizer", "state", 0, "momentum_buffer", value="x"),
        _set("data", value={"fingerprint": "x"}),
        _set("data", "burnin", value="many"),
        _set("epoch", value=-1),
    ],
)
def test_a_right_digest_over_wrong_parts(
    change: Callable[[dict[str, Any]], None], base: BaseModel, tmp_path: Path
) -> None:
    base.save(tmp_path / "a.pt")
    payload = checkpoint.load(tmp_path / "a.pt", KIND)
    change(payload)
    checkpoint.save(tmp_path / "a.pt", KIND, payload)
    with refuses("a.pt readable"):
        BaseModel.load(tmp_path / "a.pt")


def test_weights_that_have_diverged_are_weights(base: BaseModel, tmp_path: Path) -> None:
    replace(base, weights={name: v * math.nan for name, v in base.weights.items()}).save(tmp_path / "a.pt")
    assert bool(BaseModel.load(tmp_path / "a.pt").weights["fc.bias"].isnan().all())


@pytest.mark.parametrize("rate", [-1.0, 0.0, math.nan, math.inf, "0.1", True])
def test_a_released_rate_that_is_none(rate: object, tmp_path: Path) -> None:
    state = {"state": {0: {"momentum_buffer": torch.ones(4, 3, 3, 3)}}, "param_groups": [{"lr": rate}]}
    torch.save({"net": build_model(ModelSpec(width=4)).state_dict(), "optimizer": state}, tmp_path / "a.pth")
    assert BaseModel.load(tmp_path / "a.pth").lr is None


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (ModelSettings(), None),
        (ModelSettings(name="resnet8", width=4, norm="batch"), None),
        (ModelSettings(name="convnet"), "x.pt name resnet8 convnet"),
        (ModelSettings(width=8), "x.pt width 4 8"),
        (ModelSettings(norm="group"), "x.pt norm batch group"),
    ],
)
def test_the_model_must_be_the_one_asked_for(base: BaseModel, wanted: ModelSettings, message: str | None) -> None:
    if message is None:
        base.check_model(wanted, Path("x.pt"))
    else:
        with refuses(message):
            base.check_model(wanted, Path("x.pt"))


@pytest.mark.parametrize(
    ("settings", "found", "message"),
    [
        (DataSettings(), data(), None),
        (DataSettings(name="digits", dir="elsewhere", offline=True), data(), None),
        (DataSettings(), data(classes=4), "x.pt 3 classes small 4 data.name"),
        (DataSettings(), data(seed=1), "x.pt small contents"),
        (DataSettings(split_seed=1), data(), "data.split_seed 0 1 data.split_seed=0"),
        (DataSettings(val=9), data(), "data.val 500 9 data.val=500"),
        (DataSettings(splits="released_split", val=9), data(), None),
        (DataSettings(splits="released_split"), data(seed=1), "small contents"),
    ],
)
def test_the_data_must_be_those_of_the_burn_in(
    base: BaseModel, settings: DataSettings, found: DataSet, message: str | None
) -> None:
    if message is None:
        base.check_data(settings, found, Path("x.pt"))
    else:
        with refuses(message):
            base.check_data(settings, found, Path("x.pt"))


def test_the_identity_of_data_begins_with_their_contents() -> None:
    identity = data_identity(DataSettings(), data())
    assert list(identity)[:2] == ["fingerprint", "name"]
    assert not {"dir", "offline"} & identity.keys()
    assert {"splits", "split_seed", "burnin", "stream", "trigger", "val", "trusted", "monitor"} <= identity.keys()


def test_a_spec_takes_its_statistics_from_the_images_it_is_given() -> None:
    found = data()
    spec = spec_for(ModelSettings(name="convnet", width=5), found, torch.arange(10))
    assert (spec.name, spec.width, spec.norm, spec.num_classes) == ("convnet", 5, "batch", 3)
    pixels = found.train_x[:10].double() / 255
    assert spec.mean == pytest.approx(pixels.mean((0, 2, 3)).tolist())
    assert spec.std == pytest.approx(pixels.std((0, 2, 3), correction=0).tolist())
    usual = spec_for(ModelSettings(), found, torch.arange(10))
    assert (usual.name, usual.width) == ("resnet18", 64)
    published = replace(found, stats=((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)))
    assert spec_for(ModelSettings(), published, torch.arange(10)).mean == (0.1, 0.2, 0.3)


def test_a_constant_channel_divides_by_no_zero() -> None:
    black = replace(data(), train_x=torch.zeros(30, 3, 8, 8, dtype=torch.uint8))
    spec = spec_for(ModelSettings(name="resnet8", width=4), black, torch.arange(10))
    assert min(spec.std) > 0
    assert bool(build_model(spec)(torch.zeros(1, 3, 8, 8)).isfinite().all())


@pytest.mark.parametrize(
    ("name", "model", "directory"),
    [
        ("cifar10", ModelSettings(), "cifar10-resnet18-w64-batch-online_ready-seed3"),
        ("digits", ModelSettings(name="resnet8", width=8, norm="group"), "digits-resnet8-w8-group-online_ready-seed3"),
        ("npz:/data/my.set.npz", ModelSettings(), "my.set-resnet18-w64-batch-online_ready-seed3"),
        ("cifar10", ModelSettings(name="pkg.mod:net"), "cifar10-pkg.mod.net-w64-batch-online_ready-seed3"),
    ],
)
def test_every_burn_in_has_a_place(name: str, model: ModelSettings, directory: str) -> None:
    assert default_place(Path("c"), name, model, "online_ready", 3) == Path("c") / directory


@pytest.mark.parametrize("name", IMAGE_MODELS)
@pytest.mark.parametrize("width", [4, 6, 8, 16])
def test_place_keeps_the_function_and_its_gradients(name: str, width: int) -> None:
    """A float64 copy, which other kernels compute, is the oracle: some layouts give wrong weight gradients."""
    width = width // 4 if name == "wrn28-10" else width  # of so many units, one is at the kink and rounding moves it
    model = build_model(replace(SPEC, name=name, width=width))
    x = torch.rand(10, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    exact = copy.deepcopy(model).double()
    moved = place(model, CPU)
    torch.testing.assert_close(moved(x), exact(x.double()).float(), rtol=1e-4, atol=1e-4)
    for network, images in ((moved, x), (exact, x.double())):
        network(images).square().sum().backward()
    slopes = [(mine.grad, true.grad) for mine, true in zip(moved.parameters(), exact.parameters(), strict=True)]
    largest = max(float(true.abs().max()) for _, true in slopes if true is not None)
    for mine, true in slopes:  # where a gradient cancels almost to nothing, rounding is measured by the largest one
        assert mine is not None
        assert true is not None
        size = max(float(true.abs().max()), 1e-3 * largest)
        torch.testing.assert_close(mine, true.float(), rtol=1e-3, atol=1e-3 * size)


def test_place_uses_the_fast_layout() -> None:
    for spec in (replace(SPEC, name="resnet18", width=16), replace(SPEC, name="convnet", width=4)):
        weights = [p for p in place(build_model(spec), CPU).parameters() if p.ndim == 4]
        assert all(p.is_contiguous(memory_format=torch.channels_last) for p in weights)


# FIX
