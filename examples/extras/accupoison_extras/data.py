"""Noisy stripes in four directions."""

import math
from pathlib import Path

import torch
from torch import Tensor

from accupoison.data import DataSet

SIDE, TRAIN, TEST = 16, 4000, 400
CLASSES = ("horizontal", "vertical", "rising", "falling")
ANGLES = (math.pi / 2, 0.0, math.pi / 4, -math.pi / 4)


def load(data_dir: Path | None) -> DataSet:
    """Return the stripes: 16x16 RGB, made up here, so that nothing is read from ``data_dir``."""
    rng = torch.Generator().manual_seed(0)
    y = torch.randint(len(CLASSES), (TRAIN + TEST,), generator=rng)
    phase, noise = torch.rand(len(y), 1, 1, generator=rng), torch.randn(len(y), 3, SIDE, SIDE, generator=rng)
    x = ((0.5 + 0.3 * _waves(y, phase)[:, None] + 0.15 * noise).clamp(0, 1) * 255).to(torch.uint8)
    return DataSet("stripes", x[:TRAIN], y[:TRAIN], x[TRAIN:], y[TRAIN:], CLASSES, flip=False)


def _waves(y: Tensor, phase: Tensor) -> Tensor:
    """Return one wave [N, SIDE, SIDE] a label, in [-1, 1]."""
    angle = torch.tensor(ANGLES)[y].view(-1, 1, 1)
    rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    along = angle.cos() * columns + angle.sin() * rows
    return torch.sin(2 * math.pi * (along / 4 + phase))
