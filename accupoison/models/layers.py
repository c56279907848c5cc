"""Layers that every model here shares."""

import math
import re

import torch
from torch import Tensor, nn

from accupoison.errors import InputError, did_you_mean

NORMS = ("batch", "group")


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
