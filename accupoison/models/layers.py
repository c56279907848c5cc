"""Layers that every model here shares."""

import math
import re
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from accupoison.errors import InputError, did_you_mean
from accupoison.models.auxiliary import AuxiliaryBatchNorm2d, Kinds

NORMS = ("batch", "group", "auxiliary")


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """What it takes to make a network again.

    Attributes:
        name: One of :data:`accupoison.models.factory.MODELS`, or ``package.module:factory``. A factory, also one of an
            installed package, is called with ``num_classes`` as a keyword.
        width: Channels of the first stage (wrn28-10: a tenth of them, 16 is standard; resnet50: a quarter; mobilenetv2:
            twice those of its first convolution; densenet121: twice the growth; mlp: units of its last hidden layer);
            ignored by a factory.
        norm: "batch", "group" or "group:N", N groups; or "auxiliary", batch norm with a second set of statistics for
            images of noise (:mod:`accupoison.models.auxiliary`). Ignored by a factory.
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


def check_norm(norm: str) -> None:
    """Raise InputError unless ``norm`` is "batch", "group", "group:N" or "auxiliary"."""
    if norm not in NORMS and not re.fullmatch(r"group:[1-9]\d*", norm):
        raise InputError(f"unknown norm {norm!r}{did_you_mean(norm, NORMS)}, or give group:32 for 32 groups")


class Normalize(nn.Module):
    """Channel-wise normalisation of inputs in [0, 1]; its constants stay out of the state dict.

    Attacks and defences work on pixels, so the normalisation belongs to the model.

    Args:
        mean: One value a channel, or a feature.
        std: The same for the standard deviations.
        pixels: The inputs are images [B, C, H, W], not features [B, D].
    """

    mean: Tensor
    std: Tensor
    kinds: Kinds | None = None
    """Where a network with auxiliary norms notes what kind each image is."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...], *, pixels: bool = True) -> None:
        super().__init__()
        shape = (1, -1, 1, 1) if pixels else (1, -1)
        self.register_buffer("mean", torch.tensor(mean).view(shape), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(shape), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(x - mean) / std``."""
        if self.kinds is not None:
            self.kinds.note(x)
        return (x - self.mean) / self.std


def norm_layer(norm: str, channels: int, *, pixels: bool = True) -> nn.Module:
    """Return the normalisation layer for ``channels``.

    Args:
        norm: "batch", "auxiliary", "group" (about 8 channels a group) or "group:N" (N groups; the released code has
            32). An auxiliary one takes all rows for ordinary until :func:`connect`.
        channels: Number of channels.
        pixels: The layer is for images, not for vectors.

    Raises:
        InputError: ``norm`` is something else, the channels do not divide into N groups, or vectors are to be told
            from noise.
    """
    check_norm(norm)
    if norm == "auxiliary":
        if not pixels:
            raise InputError("norm 'auxiliary' tells noise from images, and this model takes features; give batch")
        return AuxiliaryBatchNorm2d(channels)
    if norm == "batch":
        return nn.BatchNorm2d(channels) if pixels else nn.BatchNorm1d(channels)
    _, colon, groups = norm.partition(":")
    count = int(groups) if colon else math.gcd(channels, max(1, channels // 8))
    if channels % count:
        raise InputError(f"norm {norm} does not fit a layer of {channels} channels; give a number that divides it")
    return nn.GroupNorm(count, channels)


def connect(model: nn.Module) -> nn.Module:
    """Let the auxiliary norms of ``model``, where it has any, read what its input layer notes, and return it."""
    kinds, modules = Kinds(), list(model.modules())
    if any(isinstance(module, AuxiliaryBatchNorm2d) for module in modules):
        for module in modules:
            if isinstance(module, AuxiliaryBatchNorm2d | Normalize):
                module.kinds = kinds
    return model


def kaiming(model: nn.Module) -> None:
    """Initialise all convolutions for ReLU networks (He et al., ICCV 2015)."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
