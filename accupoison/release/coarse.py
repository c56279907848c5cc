"""Answers that say less than the model's: rounded, cut, smoothed, or the label alone."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from accupoison.errors import InputError, check_least
from accupoison.release.base import RELEASES, Release

MAX_DIGITS = 8
SLACK = 1e-6
"""Of a unit: 0.29 * 100 is 28.999999999999996."""


@RELEASES.register("round")
@dataclass(kw_only=True)
class Round(Release):
    """Probabilities rounded to some digits (Shokri et al., S&P 2017, Section VIII), so that they still sum to 1.

    By largest remainders: all are rounded down, and the units that are missing go to those that lost most. Where
    another class is then as probable as the label, it gives one unit to the label, which is so kept.

    Attributes:
        digits: Digits that stay after the decimal point, 0 to 8.
    """

    digits: int = 2

    def __post_init__(self) -> None:
        if not 0 <= self.digits <= MAX_DIGITS:
            raise InputError(f"release.digits {self.digits} is outside [0, {MAX_DIGITS}]; 2 is usual")

    def rewrite(self, probs: Tensor) -> Tensor:
        """Return the rounded probabilities [B, C]."""
        scale = float(10**self.digits)
        units = probs * scale
        lower = (units + SLACK).floor()
        left = scale - lower.sum(dim=1, keepdim=True)
        rank = (units - lower).argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        rounded = lower + (rank < left)
        label = probs.argmax(dim=1, keepdim=True)
        tied = (rounded == rounded.gather(1, label)).scatter(1, label, False)
        giver = torch.where(tied, units, torch.inf).argmin(dim=1, keepdim=True)
        unit = tied.any(dim=1, keepdim=True).to(units.dtype)
        return rounded.scatter_add(1, label, unit).scatter_add(1, giver, -unit) / scale


@RELEASES.register("top-k")
@dataclass(kw_only=True)
class TopK(Release):
    """The k largest probabilities as they are; the other classes share what is left evenly.

    Shokri et al. (S&P 2017, Section VIII) release the k largest alone; the even share makes a distribution of it and
    tells nothing more.

    Attributes:
        k: Classes that keep their probability, 1 or more; all of them change nothing.
    """

    k: int = 3

    def __post_init__(self) -> None:
        check_least("release.k", self.k, 1, "a number of classes such as 3, or use label-only")

    def rewrite(self, probs: Tensor) -> Tensor:
        """Return the largest probabilities, and the mean of the others in their place [B, C]."""
        rank = probs.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        rest = (probs * (rank >= self.k)).sum(dim=1, keepdim=True) / max(probs.shape[1] - self.k, 1)
        return torch.where(rank < self.k, probs, torch.minimum(rest, probs.amax(dim=1, keepdim=True)))


@RELEASES.register("label-only")
@dataclass(kw_only=True)
class LabelOnly(Release):
    """The label alone: 1 for the most probable class, 0 for the others."""

    def rewrite(self, probs: Tensor) -> Tensor:
        """Return one-hot rows [B, C]."""
        return F.one_hot(probs.argmax(dim=1), probs.shape[1]).to(probs.dtype)


@RELEASES.register("temperature")
@dataclass(kw_only=True)
class Temperature(Release):
    """The softmax of the logits divided by a temperature (Shokri et al., S&P 2017, Section VIII).

    Attributes:
        temperature: What logits are divided by: above 1 makes answers flatter, below 1 surer; in [0.01, 100].
    """

    neutral: ClassVar[dict[str, Any] | None] = {"temperature": 1.0}

    temperature: float = 2.0

    def __post_init__(self) -> None:
        if not 0.01 <= self.temperature <= 100:
            raise InputError(f"release.temperature {self.temperature} is outside [0.01, 100]; 1 changes nothing")

    def rewrite(self, probs: Tensor) -> Tensor:
        """Return the probabilities to the power of 1 / temperature, made to sum to 1, [B, C]."""
        return probs if self.temperature == 1 else (probs.log() / self.temperature).softmax(dim=1)
