from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from accupoison.errors import InputError
from accupoison.models.factory import MODELS, ModelSpec, build_model
from accupoison.models.layers import NORMS, Normalize
from accupoison.models.view import view_of
from accupoison.runs.model_check import check_network
from accupoison.types import Batch
from tests.messages import refuses
from tests.nets import IMAGE_MODELS


def norm_keys(name: str) -> set[str]:
    return {f"{name}.{part}" for part in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")}


def released_keys() -> set[str]:
    """The names in the released ResNet-18's checkpoints, without ``module.``."""
    keys = {"conv1.weight", "fc.weight", "fc.bias"} | norm_keys("bn1")
    for stage in (1, 2, 3, 4):
        for block in (0, 1):
            for part in (1, 2):
                keys |= {f"layer{stage}.{block}.conv{part}.weight"} | norm_keys(f"layer{stage}.{block}.bn{part}")
        if stage > 1:
            keys |= {f"layer{stage}.0.downsample.0.weight"} | norm_keys(f"layer{stage}.0.downsample.1")
    return keys


def test_resnet18_has_the_released_layout() -> None:
    assert set(build_model(ModelSpec(width=8)).state_dict()) == released_keys()


def test_resnet18_has_torchvisions_shapes_beyond_the_first_convolution_and_the_head() -> None:
    from torchvision.models import resnet18

    mine, theirs = build_model(ModelSpec(width=64)).state_dict(), resnet18(num_classes=10).state_dict()
    assert list(mine) == list(theirs)
    different = {name for name in mine if mine[name].shape != theirs[name].shape}
    assert different == {"conv1.weight"}
    assert mine["conv1.weight"].shape == (64, 3, 3, 3)
    assert mine["fc.weight"].shape == (10, 512)


def test_resnet18_is_the_released_network() -> None:
    """Conv 3x3 of stride 1, norm, ReLU, max-pool 3/2/1, torchvision's stages, global mean, linear."""
    from torchvision.models import resnet18

    model, other = build_model(ModelSpec(width=64), seed=3), resnet18(num_classes=10)
    other.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    other.load_state_dict(model.state_dict())
    x = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
    for train in (False, True):
        mine, its = model.train(train)(x), other.train(train)((x - 0.5) / 0.25)
        torch.testing.assert_close(mine, its)
        slopes = [torch.autograd.grad(out.square().sum(), x)[0] for out in (mine, its)]
        torch.testing.assert_close(*slopes)


def test_resnet50_is_torchvisions_for_small_images() -> None:
    from torchvision.models import resnet50

    model, other = build_model(ModelSpec(name="resnet50"), seed=3), resnet50(num_classes=10)
    other.conv1, other.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
    assert list(model.state_dict()) == list(other.state_dict())
    other.load_state_dict(model.state_dict())
    assert_same_answers(model, other)


def test_densenet121_is_torchvisions_for_small_images() -> None:
    from torchvision.models import densenet121

    model, other = build_model(ModelSpec(name="densenet121"), seed=3), densenet121(num_classes=10)
    other.features.conv0 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    for name in ("norm0", "relu0", "pool0"):
        other.features.set_submodule(name, nn.Identity())
    pairs = zip(other.state_dict(), model.state_dict().values(), strict=True)  # other names in the same order
    other.load_state_dict(dict(pairs))
    assert_same_answers(model, other)


def assert_same_answers(model: nn.Module, other: nn.Module) -> None:
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for train in (True, False):
            torch.testing.assert_close(
                model.train(train)(x), other.train(train)((x - 0.5) / 0.25), rtol=1e-4, atol=1e-4
            )


@pytest.mark.parametrize(
    ("name", "width", "millions"),
    [("wrn28-10", 16, 36.5), ("preact-resnet18", 64, 11.2), ("densenet121", 64, 7.0), ("resnet50", 64, 23.5)],
)
def test_published_sizes(name: str, width: int, millions: float) -> None:
    """As in Table 4 of Zagoruyko and Komodakis (BMVC 2016), and of the usual networks for 32x32 images."""
    with torch.device("meta"):
        model = MODELS.get(name)(ModelSpec(name=name, width=width))
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == millions


def test_wrn_28_10_has_its_depth_and_widths() -> None:
    model = build_model(ModelSpec(name="wrn28-10", width=2))
    large = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert [m.out_channels for m in large] == [2, *8 * [20], *8 * [40], *8 * [80]]
    assert [m.stride[0] for m in large if m.stride[0] > 1] == [2, 2]
    assert len(large) + len(["the linear layer"]) + 2 == 28  # 28 counts two of the three convolutions of shortcuts


@pytest.mark.parametrize("name", ["wrn28-10", "densenet121", "alexnet", "resnet50", "preact-resnet18", "vgg16"])
@pytest.mark.parametrize("norm", [*NORMS, "group:2"])
def test_larger_images_and_more_classes(name: str, norm: str) -> None:
    """Of Tiny-ImageNet and STL-10; features are what the last linear layer reads, all weights have a second slope."""
    for size, classes in ((64, 200), (96, 10)):
        width = 16 if name == "densenet121" else 2  # 2 groups divide no odd growth
        model = build_model(ModelSpec(name=name, width=width, norm=norm, num_classes=classes))
        x = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
        view = view_of(model)
        with torch.no_grad():
            torch.testing.assert_close(model.fc(view.features(x)), model(x))  # type: ignore[operator]
            assert model(x).shape == (2, classes)
    check_network(model, Batch(x[:, :, :32, :32], torch.tensor([0, 1]), torch.arange(2)), classes, rows=2)


@pytest.mark.parametrize(("name", "pools"), [("vgg16", 5), ("convnet", 3), ("alexnet", 3)])
def test_the_relu_after_a_pool_does_what_one_before_does(name: str, pools: int) -> None:
    model = build_model(ModelSpec(name=name, width=4), seed=3).double()
    layers: list[nn.Module] = list(model.body)  # type: ignore[arg-type]
    for at in [i for i, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d)]:
        assert isinstance(layers[at + 1], nn.ReLU)
        layers[at : at + 2] = layers[at + 1], layers[at]
        pools -= 1
    assert not pools
    x = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    mine = model(x)
    its = model.fc(nn.Sequential(*layers)(model.normalize(x)).mean(dim=(2, 3)))  # type: ignore[operator]
    assert torch.equal(mine, its)
    assert torch.equal(*(torch.autograd.grad(out.square().sum(), x)[0] for out in (mine, its)))


@pytest.mark.parametrize("name", ["resnet34", "vgg16", "mobilenetv2", "preact-resnet18", "alexnet"])
def test_published_networks_have_torchvisions_convolutions(name: str) -> None:
    """The same layers in the same order, up to the first convolution, which is larger for large images."""
    from torchvision import models

    other = {
        "resnet34": models.resnet34,
        "vgg16": models.vgg16_bn,
        "mobilenetv2": models.mobilenet_v2,
        "preact-resnet18": models.resnet18,
        "alexnet": models.alexnet,
    }[name]()
    mine, theirs = (
        [tuple(m.weight.shape) for m in network.modules() if isinstance(m, nn.Conv2d)]
        for network in (build_model(ModelSpec(name=name)), other)
    )
    assert mine[0][:2] == theirs[0][:2]
    assert mine[1:] == theirs[1:]


@pytest.mark.parametrize("name", IMAGE_MODELS)
@pytest.mark.parametrize("norm", NORMS)
def test_every_model_maps_images_to_logits(name: str, norm: str) -> None:
    for size in (8, 16, 32):
        width = 32 if name == "densenet121" else 6  # few units may all be off on a map of one pixel
        model = build_model(ModelSpec(name=name, width=width, norm=norm, num_classes=7))
        x = torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(0)).requires_grad_()
        logits = model(x)
        assert logits.shape == (3, 7)
        logits.square().sum().backward()
        assert x.grad is not None
        assert x.grad.abs().sum() > 0
        for key, p in model.named_parameters():
            assert p.grad is not None
            assert bool(p.grad.any()) is (".auxiliary." not in key), key  # no row is noise


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_normalisation_comes_first_and_stays_out_of_the_state(name: str) -> None:
    spec = ModelSpec(name=name, width=4, mean=(0.1, 0.2, 0.3), std=(0.5, 1.0, 2.0))
    raw = ModelSpec(name=name, width=4, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    model, plain = build_model(spec, seed=1), build_model(raw, seed=1)
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (spec.mean, spec.std))
    torch.testing.assert_close(model(x), plain((x - mean) / std))
    assert not any("mean" in key and "running" not in key for key in model.state_dict())
    assert set(model.state_dict()) == set(plain.state_dict())
    assert isinstance(next(model.children()), Normalize)


def test_normalisation_moves_with_the_model() -> None:
    model = build_model(ModelSpec(name="resnet8", width=4)).to(torch.float64)
    assert model(torch.rand(1, 3, 8, 8, dtype=torch.float64)).dtype == torch.float64


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_group_norm_couples_no_rows_and_has_no_statistics(name: str) -> None:
    model = build_model(ModelSpec(name=name, width=16, norm="group")).train()
    x = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model(x)[:1], model(x[:1]), rtol=1e-4, atol=1e-5)
    assert not list(model.buffers())[2:]  # the normalisation's two constants alone
    groups = [module for module in model.modules() if isinstance(module, nn.GroupNorm)]
    assert groups
    assert all(module.num_channels % module.num_groups == 0 for module in groups)
    batch = build_model(ModelSpec(name=name, width=16)).train()
    assert not torch.allclose(batch(x)[:1], batch(x[:2])[:1])


@pytest.mark.parametrize("width", [1, 3, 12, 40])
def test_group_norm_takes_any_width(width: int) -> None:
    assert build_model(ModelSpec(name="resnet8", width=width, norm="group"))(torch.rand(1, 3, 8, 8)).shape == (1, 10)


@pytest.mark.parametrize("name", [*IMAGE_MODELS, "tests.nets:tiny_net"])
def test_building_is_seeded_and_leaves_the_global_generator_alone(name: str) -> None:
    def weights(seed: int) -> Tensor:
        return torch.cat([p.detach().flatten() for p in build_model(ModelSpec(name=name, width=4), seed).parameters()])

    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = weights(1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert torch.equal(weights(1), first)
    assert not torch.equal(weights(2), first)


def test_a_model_comes_in_eval_mode_with_inputs_left_as_they_are() -> None:
    model = build_model(ModelSpec(name="resnet8", width=4))
    x = torch.rand(2, 3, 8, 8)
    kept = x.clone()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    model(x)
    assert not any(module.training for module in model.modules())
    assert torch.equal(x, kept)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_relu_is_not_in_place() -> None:
    models = [build_model(ModelSpec(name=name, width=4)) for name in IMAGE_MODELS]
    assert not any(getattr(module, "inplace", False) for model in models for module in model.modules())


def broken(num_classes: int) -> nn.Module:
    raise RuntimeError("out of order\nfor a long time")


def no_module(num_classes: int) -> str:
    return "resnet"


def no_parameters(num_classes: int) -> nn.Module:
    return nn.Flatten()


def no_keyword() -> nn.Module:
    return nn.Linear(1, 1)


HERE = "tests.unit.test_models"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (ModelSpec(name="resnet-18"), "model 'resnet-18' resnet18"),
        (ModelSpec(name="transformer"), "model 'transformer' convnet vgg16"),
        (ModelSpec(name="resnet8", norm="bach"), "norm 'bach' batch"),
        (ModelSpec(width=0), "width 0 1"),
        (ModelSpec(width=-4), "width -4 1"),
        (ModelSpec(name="resnet8", width=10**12), "resnet8 width 1000000000000 memory"),
        (ModelSpec(name="nowhere:net"), "'nowhere:net' imported 'nowhere'"),
        (ModelSpec(name=f"{HERE}:nothing"), f"{HERE}:nothing' imported folder"),
        (ModelSpec(name=":net"), "unknown ':net'"),
        (ModelSpec(name="..x:net"), "unknown '..x:net'"),
        (ModelSpec(name=f"{HERE}:broken"), "num_classes=10 (RuntimeError: out of order)"),
        (ModelSpec(name=f"{HERE}:no_keyword"), "num_classes=10 (TypeError:"),
        (ModelSpec(name=f"{HERE}:no_module"), "str torch.nn.Module"),
        (ModelSpec(name=f"{HERE}:no_parameters"), "without trainable parameters torch.nn.Module"),
    ],
)
def test_what_cannot_be_built(spec: ModelSpec, message: str) -> None:
    with refuses(message):
        build_model(spec)


@pytest.mark.parametrize("failing", [broken, no_module])
def test_a_failing_factory_leaves_the_global_generator_alone(failing: Callable[..., object]) -> None:
    before = torch.get_rng_state()
    with pytest.raises(InputError):
        build_model(ModelSpec(name=f"{HERE}:{failing.__name__}"))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("name", "units"), [("mlp", [16, 8, 4, 3]), ("memguard-mlp", [32, 16, 8, 4, 3]), ("shallow-mlp", [4, 3])]
)
def test_an_mlp_maps_features_and_refuses_images(name: str, units: list[int]) -> None:
    spec = ModelSpec(name=name, width=4, num_classes=3, mean=(0.5,) * 7, std=(0.25,) * 7)
    model, x = build_model(spec), torch.rand(5, 7)
    assert model(x).shape == (5, 3)
    assert [p.shape[0] for name, p in model.named_parameters() if p.ndim == 2] == units
    with refuses("takes feature", ValueError):
        model(torch.rand(2, 3, 8, 8))


@pytest.mark.parametrize(("norm", "groups"), [("group", 2), ("group:4", 4), ("group:16", 16)])
@pytest.mark.parametrize("name", ["convnet", "mlp"])
def test_group_norm_has_the_groups_it_is_asked_for(name: str, norm: str, groups: int) -> None:
    model = build_model(ModelSpec(name=name, width=16, norm=norm, mean=(0.5,) * 3, std=(0.25,) * 3))
    layers = [module for module in model.modules() if isinstance(module, torch.nn.GroupNorm)]
    if name == "convnet" or norm != "group":
        assert layers[-3 if name == "convnet" else -1].num_groups == groups
    assert not [m for m in model.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]


@pytest.mark.parametrize(
    ("norm", "words"),
    [
        ("group:3", "group:3 16"),
        ("group:0", "norm 'group:0'"),
        ("groop", "group"),
    ],
)
def test_norms_that_do_not_fit(norm: str, words: str) -> None:
    with refuses(words):
        build_model(ModelSpec(name="convnet", width=16, norm=norm))


# FIX
