"""Random perturbations of the same size as the poison: what of its effect is not due to its direction."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from accupoison.attacks.base import ATTACKS
from accupoison.attacks.pixel import PixelAttack
from accupoison.errors import check_choice
from accupoison.gradients import project_linf
from accupoison.types import Batch, Context, ModelView

KINDS = ("uniform", "rademacher")


def noisy(x: Tensor, kind: str, eps: float, rng: torch.Generator, *, bounded: bool = True) -> Tensor:
    """Return ``x`` with independent noise on every value.

    Args:
        x: Inputs [B, ...].
        kind: "uniform" on [-eps, eps] or "rademacher", +-eps with equal odds.
        eps: Size in pixels.
        rng: A CPU generator.
        bounded: Stay in [0, 1], where ``x`` is.
    """
    draw = torch.rand(x.shape, generator=rng, dtype=x.dtype) * 2 - 1
    if kind == "rademacher":
        draw = torch.where(draw < 0, -1.0, 1.0).to(x.dtype)
    return project_linf(x + eps * draw.to(x.device), x, eps, bounded=bounded)


@ATTACKS.register("noise")
@dataclass(kw_only=True)
class Noise(PixelAttack):
    """Random noise within the same budget as the poison.

    Attributes:
        kind: "uniform" or "rademacher" (every value moves by exactly eps, as signed gradient steps make it).
    """

    threat: ClassVar[tuple[str, ...]] = ("control",)

    kind: str = "uniform"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("attack.kind", self.kind, KINDS)

    @property
    def sees_model(self) -> bool:
        """It does not."""
        return False

    def perturb(self, view: ModelView, batch: Batch, ctx: Context) -> Tensor:
        """Return the images with fresh noise."""
        return noisy(batch.x, self.kind, self.eps, ctx.rng("noise"), bounded=batch.bounded)
