"""Layers that every model here shares."""

import math
import re
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from accupoison.errors import InputError, did_you_mean

NORMS = ("batch", "group")


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """What it takes to make a network again.

    Attributes:
        name: One of :data:`accupoison.models.factory.MODELS`, or ``package.module:factory``. A factory, also one of an
            installed package, is called with ``num_classes`` as a keyword.
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


def check_norm(norm: str) -> None:
    """Raise InputError unless ``norm`` is "batch", "group" or "group:N"."""
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

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...], *, pixels: bool = True) -> None:
        super().__init__()
        shape = (1, -1, 1, 1) if pixels else (1, -1)
        self.register_buffer("mean", torch.tensor(mean).view(shape), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(shape), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(x - mean) / std``."""
        return (x - self.mean) / self.std


def norm_layer(norm: str, channels: int, *, pixels: bool = True) -> nn.Module:
    """Return the normalisation layer for ``channels``.

    Args:
        norm: "batch", "group" (about 8 channels a group) or "group:N" (N groups; the released code has 32).
        channels: Number of channels.
        pixels: The layer is for images, not for vectors.

    Raises:
        InputError: ``norm`` is something else, or the channels do not divide into N groups.
    """
    check_norm(norm)
    if norm == "batch":
        return nn.BatchNorm2d(channels) if pixels else nn.BatchNorm1d(channels)
    _, colon, groups = norm.partition(":")
    count = int(groups) if colon else math.gcd(channels, max(1, channels // 8))
    if channels % count:
        raise InputError(f"norm {norm} does not fit a layer of {channels} channels; give a number that divides it")
    return nn.GroupNorm(count, channels)


def kaiming(model: nn.Module) -> None:
    """Initialise all convolutions for ReLU networks (He et al., ICCV 2015)."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
