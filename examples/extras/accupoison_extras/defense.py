"""Leave out the rows that the model finds hardest."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F

from accupoison.defenses import DEFENSES, Defense
from accupoison.errors import InputError
from accupoison.types import Batch, Context, ModelView


@DEFENSES.register("TRIM")
@dataclass(kw_only=True)
class Trim(Defense):
    """Drop the share of a batch with the highest loss before learning from it.

    Attributes:
        share: Of the rows that are dropped, in [0, 1).
    """

    couples: ClassVar[bool] = True
    neutral: ClassVar[dict[str, Any]] = {"share": 0.0}

    share: float = 0.2

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise InputError(f"defense.share {self.share} is outside [0, 1); give a share of the rows such as 0.2")

    @torch.no_grad()
    def intercept(self, view: ModelView, batch: Batch, ctx: Context) -> Batch:
        """Return the rows that are kept, in their order."""
        losses = F.cross_entropy(view.logits(batch.x), batch.y, reduction="none")
        kept = len(batch) - int(self.share * len(batch))
        return batch.rows(losses.argsort(stable=True)[:kept].sort().values)
