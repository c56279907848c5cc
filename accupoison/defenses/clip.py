"""Gradient clipping."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from accupoison.defenses.base import DEFENSES, Defense
from accupoison.errors import InputError, check_choice
from accupoison.types import Context, Grads

NORMS = {"l2": 2.0, "linf": math.inf}


def clip(grads: Grads, max_norm: float, norm: str = "l2") -> Grads:
    """Return the gradients scaled down together so that their joint norm is at most ``max_norm``.

    Args:
        grads: One tensor per parameter.
        max_norm: The bound, above 0; infinity leaves the gradients as they are.
        norm: "l2" or "linf".
    """
    size = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g, NORMS[norm]) for g in grads]), NORMS[norm])
    scale = (max_norm / size.clamp(min=1e-12)).clamp(max=1.0)
    return tuple(g * scale for g in grads)


def check_clipping(max_norm: float, norm: str, where: str) -> None:
    """Raise InputError unless the bound and the norm make sense.

    Args:
        max_norm: The bound, above 0.
        norm: "l2" or "linf".
        where: The setting of the bound, "section.key".
    """
    if not max_norm > 0:
        raise InputError(f"{where} {max_norm} is not above 0; give a gradient norm such as 1.0")
    check_choice("gradient norm", norm, NORMS)


@DEFENSES.register("CLIP")
@dataclass(kw_only=True)
class Clip(Defense):
    """Clip the gradient of each update (used against accumulative poisoning by Pang et al. 2021, Section 4).

    Attributes:
        max_norm: Bound on the norm of the whole gradient, above 0.
        norm: Which norm: "l2" or "linf".
    """

    neutral: ClassVar[dict[str, Any]] = {"max_norm": math.inf}

    max_norm: float = 1.0
    norm: str = "l2"

    def __post_init__(self) -> None:
        check_clipping(self.max_norm, self.norm, "defense.max_norm")

    def gradients(self, grads: Grads, momentum: Grads, ctx: Context) -> Grads:
        """Return the clipped gradients."""
        return clip(grads, self.max_norm, self.norm)
