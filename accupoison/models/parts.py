"""Layers that every model here shares."""

import math

import torch
from torch import Tensor, nn

from accupoison.errors import InputError, did_you_mean

NORMS = ("batch", "group")


class Normalize(nn.Module):
    """Channel-wise normalisation of images in [0, 1]; its constants stay out of the state dict.

    Attacks and defences work on pixels, so the normalisation belongs to the model.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(x - mean) / std``."""
        return (x - self.mean) / self.std


def norm_layer(norm: str, channels: int) -> nn.Module:
    """Return the normalisation layer ``norm`` ("batch" or "group", about 8 channels a group) for ``channels``.

    Raises:
        InputError: ``norm`` is something else.
    """
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    if norm == "group":
        return nn.GroupNorm(math.gcd(channels, max(1, channels // 8)), channels)
    raise InputError(f"unknown norm {norm!r}{did_you_mean(norm, NORMS)}")


def kaiming(model: nn.Module) -> None:
    """Initialise all convolutions for ReLU networks (He et al., ICCV 2015)."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
