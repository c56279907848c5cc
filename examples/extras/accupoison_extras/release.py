"""Never be too sure."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from accupoison.errors import InputError
from accupoison.release import RELEASES, Release


@RELEASES.register("cap")
@dataclass(kw_only=True)
class Cap(Release):
    """Cut the largest probability at a ceiling; the others share what was cut, in proportion.

    Attributes:
        ceiling: In [0.5, 1], so that the label stays; 1 changes nothing.
    """

    neutral: ClassVar[dict[str, Any] | None] = {"ceiling": 1.0}

    ceiling: float = 0.9

    def __post_init__(self) -> None:
        if not 0.5 <= self.ceiling <= 1:
            raise InputError(f"release.ceiling {self.ceiling} is outside [0.5, 1]; give a probability such as 0.9")

    def rewrite(self, probs: Tensor) -> Tensor:
        """Return the cut probabilities [B, C]."""
        top, label = probs.max(dim=1, keepdim=True)
        shared = probs * (1 - self.ceiling) / (1 - top).clamp_min(1e-300)
        return torch.where(top <= self.ceiling, probs, shared.scatter(1, label, self.ceiling))
