"""Networks by name; every one takes images in [0, 1] and normalises them itself."""

import importlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from accupoison.errors import InputError, did_you_mean, first_line
from accupoison.models.convnet import ConvNet
from accupoison.models.layers import NORMS, check_norm
from accupoison.models.mlp import MLP
from accupoison.models.mobilenet import MobileNetV2
from accupoison.models.preact_resnet import PreActResNet
from accupoison.models.resnet import ResNet
from accupoison.models.vgg import VGG
from accupoison.registry import plugins

__all__ = ["IMAGE_MODELS", "MODELS", "NORMS", "ModelSpec", "build_model", "check_norm", "model_names"]

IMAGE_MODELS = ("resnet18", "resnet34", "preact-resnet18", "vgg16", "mobilenetv2", "resnet8", "convnet")
MODELS = (*IMAGE_MODELS, "mlp")
"""The networks that ship; the mlp is for features."""


def model_names() -> tuple[str, ...]:
    """Return the names of :data:`MODELS` and of the models of installed packages."""
    return (*MODELS, *(name for name in sorted(plugins("models")) if name not in MODELS))


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """What it takes to make a network again.

    Attributes:
        name: One of :func:`model_names`, or ``package.module:factory``. A factory, also one of an installed package, is
            called with ``num_classes`` as a keyword.
        width: Channels of the first stage (mobilenetv2: twice those of its first convolution; mlp: units of its last
            hidden layer); ignored by a factory.
        norm: "batch", "group" or "group:N", N groups; ignored by a factory.
        num_classes: Number of classes.
        mean: Channel means of the training data, in [0, 1]; of features, one a feature.
        std: The standard deviations.
    """

    name: str = "resnet18"
    width: int = 64
    norm: str = "batch"
    num_classes: int = 10
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.25, 0.25, 0.25)


def build_model(spec: ModelSpec, seed: int = 0) -> nn.Module:
    """Return a freshly initialised network in eval mode; the global random state is left as it was.

    Raises:
        InputError: No such model, a width below 1 or beyond memory, or a factory that cannot be imported, fails or does
            not return a module with parameters.
    """
    if spec.width < 1:
        raise InputError(f"model width {spec.width} is below 1; give a whole number of channels such as 16 or 64")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        factory = ":" in spec.name or (spec.name not in MODELS and spec.name in plugins("models"))
        return (_from_factory(spec) if factory else _make(spec)).eval()


def _make(spec: ModelSpec) -> nn.Module:
    try:
        if max(spec.width, spec.num_classes) >= 2**31:  # more than some kernels count to
            raise MemoryError
        return _named(spec)
    except (RuntimeError, MemoryError) as error:  # what torch raises where the memory does not suffice
        raise InputError(
            f"a {spec.name} of width {spec.width} does not fit into memory; give a smaller width"
        ) from error


def _named(spec: ModelSpec) -> nn.Module:
    common: dict[str, Any] = {
        "num_classes": spec.num_classes,
        "width": spec.width,
        "norm": spec.norm,
        "mean": spec.mean,
        "std": spec.std,
    }
    match spec.name:
        case "resnet18":
            return ResNet((2, 2, 2, 2), pool=True, **common)
        case "resnet34":
            return ResNet((3, 4, 6, 3), pool=True, **common)
        case "preact-resnet18":
            return PreActResNet((2, 2, 2, 2), **common)
        case "vgg16":
            return VGG(**common)
        case "mobilenetv2":
            return MobileNetV2(**common)
        case "resnet8":
            return ResNet((1, 1, 1), pool=False, **common)
        case "convnet":
            return ConvNet(**common)
        case "mlp":
            return MLP(**common)
    names = did_you_mean(spec.name, model_names())
    raise InputError(f"unknown model {spec.name!r}{names}, or give package.module:factory")


def _from_factory(spec: ModelSpec) -> nn.Module:
    module_name, colon, attribute = spec.name.partition(":")
    try:
        if colon:
            factory = getattr(importlib.import_module(module_name), attribute)
        else:
            factory = plugins("models")[spec.name].load()
    except Exception as error:  # the module is somebody's own and may raise anything
        raise InputError(
            f"model {spec.name!r} cannot be imported ({first_line(error, named=True)}); it must name a callable on the "
            "path"
        ) from error
    try:
        model = factory(num_classes=spec.num_classes)
    except Exception as error:
        raise InputError(
            f"model {spec.name!r} failed when called with num_classes={spec.num_classes} "
            f"({first_line(error, named=True)}); it must take this keyword and return a torch.nn.Module"
        ) from error
    if problem := _unusable(model):
        raise InputError(f"model {spec.name!r} returned {problem}")
    return model  # type: ignore[no-any-return]


WRAPPERS = ("DataParallel", "DistributedDataParallel", "OptimizedModule")
"""Classes that stand before a network; by name, since one of them takes seconds to import."""


def _unusable(model: object) -> str | None:
    """Return why this is no network that can be trained, in words, with the fix; None if it may be one."""
    must = "it must return a torch.nn.Module that can be trained"
    if not isinstance(model, nn.Module):
        return f"a {type(model).__name__}; {must}"
    for module in model.modules():
        if type(module).__name__ in WRAPPERS:
            return f"a {type(module).__name__}; return the network in it instead"
        if isinstance(module, torch.jit.ScriptModule):
            return "a compiled torch.jit.ScriptModule, whose weights cannot be exchanged; return the Python network"
    tensors = dict(model.named_parameters())
    for name, value in (*tensors.items(), *model.named_buffers()):
        if is_lazy(value):
            return f"a lazy {name}, of unknown size; pass it a batch of zeros in the factory, which gives it its size"
    for name, value in tensors.items():
        if value.dtype is not torch.float32:
            return f"a parameter {name} of {value.dtype}; return it in float32, such as by model.float()"
    return None if any(p.requires_grad for p in tensors.values()) else f"a module without trainable parameters; {must}"
