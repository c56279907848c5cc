"""Batch norm with a second set of statistics, for rows that are noise (Chen and Pattabiraman, NDSS 2025)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CENTRE, SPREAD, SLACK = 0.5, 0.1, 0.02
"""Mean and standard deviation of a twin's pixels in [0, 1], and how far those of a finite image may be from them."""

Rows = tuple[Tensor, Tensor, Tensor]
"""Of a batch of both kinds: the ordinary rows, the twins, and what puts the one after the other in order again."""


def is_twin(x: Tensor) -> Tensor:
    """Return which images look like white Gaussian noise of mean 0.5 and standard deviation 0.1, bool [B].

    Mean and deviation alone take 0.4% of CIFAR-10 for noise; none of these images has neighbouring pixels whose
    correlation is below 0.5, that of noise is about 0.

    Args:
        x: Images [B, C, H, W] in [0, 1].
    """
    x, all_pixels = x.detach(), (1, 2, 3)
    var, mean = torch.var_mean(x, all_pixels, correction=0)
    step = (x[..., 1:] - x[..., :-1]).square().mean(all_pixels)  # twice the variance times 1 - correlation
    return ((mean - CENTRE).abs() < SLACK) & ((var.sqrt() - SPREAD).abs() < SLACK) & (step > var)


class Kinds:
    """Which rows of the batch at hand are twins: written where images enter a network, read by its norm layers.

    The layers of one network share one, and so do those of a copy; what the last pass has left is not copied.

    Attributes:
        rows: None where all rows are of one kind.
        noise: Which kind that is: twins.
    """

    def __init__(self) -> None:
        self.rows: Rows | None = None
        self.noise = False

    def __deepcopy__(self, memo: dict[int, Any]) -> "Kinds":
        """Return an empty one."""
        return Kinds()

    def note(self, x: Tensor) -> None:
        """Tell twins from other images [B, C, H, W] in [0, 1]."""
        twins = is_twin(x)
        count = int(twins.sum())
        self.rows, self.noise = None, 0 < count == len(x)
        if 0 < count < len(x):
            ordinary, noise = ((twins == kind).nonzero()[:, 0] for kind in (False, True))
            self.rows = ordinary, noise, torch.cat([ordinary, noise]).argsort()


class AuxiliaryBatchNorm2d(nn.BatchNorm2d):
    """Batch norm whose twin rows have statistics, weights and biases of their own, those of ``auxiliary``.

    The other rows' have the names of plain batch norm, and without twins it computes the same, bit for bit. Unlike
    plain batch norm, it normalises a kind with a single value a channel by its running statistics in train mode, too.

    Args:
        channels: Number of channels.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.auxiliary = nn.BatchNorm2d(channels)
        self.kinds = Kinds()

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, H, W] to the same."""
        if self.kinds.rows is None:
            one, other = (self.auxiliary, self) if self.kinds.noise else (self, self.auxiliary)
            # with none of the absent kind's values, so that its parameters have a gradient, of zeros
            weight, bias = torch.cat([one.weight, other.weight[:0]]), torch.cat([one.bias, other.bias[:0]])
            return _batch_norm(one, x, weight, bias)
        ordinary, noise, order = self.kinds.rows
        kinds = (self, ordinary), (self.auxiliary, noise)
        return torch.cat([_batch_norm(norm, x[rows], norm.weight, norm.bias) for norm, rows in kinds])[order]


def _batch_norm(norm: nn.BatchNorm2d, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Do what ``norm`` does, with the weights given."""
    trains = norm.training and x.numel() > x.shape[1]
    rate = norm.momentum or 0.0
    if trains and norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        if norm.momentum is None:  # a cumulative average
            rate = 1 / float(norm.num_batches_tracked)
    return F.batch_norm(x, norm.running_mean, norm.running_var, weight, bias, trains, rate, norm.eps)
