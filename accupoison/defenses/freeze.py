"""No learning at all: the control that every defence must beat."""

from dataclasses import dataclass
from typing import ClassVar

from accupoison.defenses.base import DEFENSES, Defense
from accupoison.types import Batch, Context, ModelView


@DEFENSES.register("FREEZE")
@dataclass(kw_only=True)
class Freeze(Defense):
    """Drop every batch, so that nothing is learnt and nothing can be poisoned.

    Never equal to standard training, whatever the settings, so it has no neutral setting.
    """

    couples: ClassVar[bool] = False
    neutral: ClassVar[None] = None

    def intercept(self, view: ModelView, batch: Batch, ctx: Context) -> Batch:
        """Return an empty batch; the loop then skips the update."""
        return batch.rows(slice(0, 0))
