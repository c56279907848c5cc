"""Batch-norm statistics that no stream can move."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from accupoison.defenses.base import DEFENSES, Defense
from accupoison.defenses.trust_proj import trusted_rows
from accupoison.errors import check_choice
from accupoison.types import Batch, Context, ModelView

IMAGES = 400
"""Trusted images that statistics are made of; they are saved with the run."""
MODES = ("reestimated", "frozen", "off")


@DEFENSES.register("STAT-TRUST")
@dataclass(kw_only=True)
class TrustedStatistics(Defense):
    """Give the model running statistics of trusted images after each step; weights learn as in standard training.

    The update itself still normalises by its own batch (``optim.bn_mode``). Without batch norm it is standard training.

    Attributes:
        statistics: "reestimated" makes them afresh from trusted images, unlabelled, under the weights of the moment;
            "frozen" puts back those that the stream began with; "off" leaves the stream's.
    """

    requires: ClassVar[frozenset[str]] = frozenset({"trusted-unlabelled"})
    couples: ClassVar[bool] = False
    neutral: ClassVar[dict[str, Any]] = {"statistics": "off"}
    modes: ClassVar[tuple[str, ...]] = MODES

    statistics: str = "reestimated"
    images: Tensor | None = field(default=None, init=False, repr=False, compare=False)
    ids: Tensor | None = field(default=None, init=False, repr=False, compare=False)
    begun: Tensor | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_choice("defense.statistics", self.statistics, self.modes)

    def setup(self, live: ModelView, reference: ModelView | None, trusted: Sequence[Batch], ctx: Context) -> None:
        """Keep some trusted images, or the statistics as they are."""
        if self.statistics in ("reestimated", "current"):
            rows = trusted_rows(trusted, IMAGES, type(self).name)
            self.images, self.ids = rows.x, rows.ids
        elif self.statistics == "frozen":
            self.begun = torch.cat([value.flatten() for value in _statistics(live).values()] or [torch.zeros(0)])

    def amend(self, view: ModelView, ctx: Context) -> Mapping[str, Tensor] | None:
        """Return the trusted statistics."""
        if self.images is not None:
            now = self.images
            if self.statistics == "current" and self.ids is not None:
                now = ctx.present(now, self.ids)
            return view.reestimated([now])
        if self.begun is None:
            return None
        held = _statistics(view)
        parts = torch.split(self.begun, [value.numel() for value in held.values()])
        return {name: part.view_as(held[name]) for name, part in zip(held, parts, strict=True)}


def _statistics(view: ModelView) -> dict[str, Tensor]:
    ends = ("running_mean", "running_var")
    return {name: value for name, value in view.state().items() if name.endswith(ends)}
