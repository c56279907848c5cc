"""Greedy poisoning: every batch does as much harm as it can at once."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from accupoison.attacks.base import ATTACKS
from accupoison.attacks.pixel import PixelAttack
from accupoison.types import Batch, Context, ModelView


@ATTACKS.register("direct", "greedy")
@dataclass(kw_only=True)
class Direct(PixelAttack):
    """Turn the gradient of every batch against the one on the attacker's images.

    The trigger's own objective, applied at each step: first-order harm with the same budget and no preparation. What
    accumulative poisoning adds is what it does beyond this.
    """

    threat: ClassVar[tuple[str, ...]] = ("availability",)

    def perturb(self, view: ModelView, batch: Batch, ctx: Context) -> Tensor:
        """Return the images whose gradient opposes the one on the attacker's images."""
        return self.craft(view, batch, ctx)
