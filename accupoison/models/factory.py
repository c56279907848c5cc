"""Networks by name; every one takes images in [0, 1] and normalises them itself."""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from accupoison.errors import InputError, check_least, first_line
from accupoison.models.alexnet import AlexNet
from accupoison.models.convnet import ConvNet
from accupoison.models.densenet import DenseNet
from accupoison.models.layers import ModelSpec, connect
from accupoison.models.mlp import MLP, PlainMLP
from accupoison.models.mobilenet import MobileNetV2
from accupoison.models.preact_resnet import PreActResNet
from accupoison.models.resnet import Bottleneck, ResNet
from accupoison.models.vgg import VGG
from accupoison.registry import Lookup

__all__ = ["MODELS", "ModelSpec", "build_model"]

MODELS: Lookup[Callable[..., nn.Module]] = Lookup("model")
"""Networks by name: ours take a :class:`ModelSpec`, others ``num_classes``."""
for _name, _network in {
    "resnet18": partial(ResNet, (2, 2, 2, 2), pool=True),
    "resnet34": partial(ResNet, (3, 4, 6, 3), pool=True),
    "resnet50": partial(ResNet, (3, 4, 6, 3), pool=False, block=Bottleneck),
    "preact-resnet18": partial(PreActResNet, (2, 2, 2, 2)),
    "wrn28-10": partial(PreActResNet, (4, 4, 4), widen=10),
    "densenet121": DenseNet,
    "alexnet": AlexNet,
    "vgg16": VGG,
    "mobilenetv2": MobileNetV2,
    "resnet8": partial(ResNet, (1, 1, 1), pool=False),
    "convnet": ConvNet,
    "mlp": MLP,
    "memguard-mlp": PlainMLP,
    "shallow-mlp": partial(PlainMLP, scales=(1,)),
}.items():
    MODELS.register(_name)(_network)


def build_model(spec: ModelSpec, seed: int = 0) -> nn.Module:
    """Return a freshly initialised network in eval mode; the global random state is left as it was.

    Raises:
        InputError: No such model, a width below 1 or beyond memory, or a factory that cannot be imported, fails or does
            not return a module with parameters.
    """
    check_least("model width", spec.width, 1, "a whole number of channels such as 16 or 64")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        ours = ":" not in spec.name and not MODELS.offered(spec.name)
        return (_make(spec) if ours else _from_factory(spec)).eval()


def _make(spec: ModelSpec) -> nn.Module:
    try:
        if max(spec.width, spec.num_classes) >= 2**31:  # more than some kernels count to
            raise MemoryError
        return connect(MODELS.get(spec.name)(spec))
    except (RuntimeError, MemoryError) as error:  # what torch raises where the memory does not suffice
        raise InputError(
            f"a {spec.name} of width {spec.width} does not fit into memory; give a smaller width"
        ) from error


def _from_factory(spec: ModelSpec) -> nn.Module:
    factory = MODELS.get(spec.name)
    try:
        model = factory(num_classes=spec.num_classes)
    except Exception as error:
        raise InputError(
            f"model {spec.name!r} failed when called with num_classes={spec.num_classes} "
            f"({first_line(error, named=True)}); it must take this keyword and return a torch.nn.Module"
        ) from error
    if problem := _unusable(model):
        raise InputError(f"model {spec.name!r} returned {problem}")
    return model


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
