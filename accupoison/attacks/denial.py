"""Denial of learning: a few rows make a defence correct the whole batch."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from accupoison.attacks.ascent import Ascent, Problem, ascending
from accupoison.attacks.base import ATTACKS, DEFENCE
from accupoison.discrepancy import frozen_discrepancy
from accupoison.errors import InputError
from accupoison.types import Access, Batch, Context, ModelView


@ATTACKS.register("denial")
@dataclass(kw_only=True)
class Denial(Ascent):
    """Raise the mean discrepancy by a few rows, so that DSC corrects the whole batch (A1, second form).

    Every row is moved away from the early model's answer, and the ``ratio`` of them whose discrepancy rises most are
    sent; the attack picks the rows itself, so ``resample_rows`` is about the trigger alone.
    """

    knows: ClassVar[frozenset[str]] = frozenset({DEFENCE})
    rung: ClassVar[str] = "A1"

    eps: float = 2 / 255
    ratio: float = 0.05

    def setup(self, view: ModelView, access: Access, ctx: Context) -> None:
        """Start a run.

        Raises:
            InputError: There is no early model.
        """
        if access.defense is None or access.defense.reference is None:
            raise InputError(
                "the attack denial raises the discrepancy from an early model and there is none; run it in a stream, "
                "with <start.reference>"
            )
        super().setup(view, access, ctx)

    def rows(self, count: int, ctx: Context) -> Tensor:
        """Return all of the ``count`` rows, int64 [N], as any may be picked; none at ``ratio`` 0."""
        return torch.arange(count if self.ratio else 0)

    def problem(self, view: ModelView, batch: Batch, rows: Tensor, ctx: Context) -> Problem:
        """Return the mean discrepancy, with all rows clean but those that raise it most."""
        known = self.access.defense
        assert known is not None
        assert known.reference is not None
        each, share = frozen_discrepancy(view, known.reference), self._share(len(batch))
        with torch.no_grad():
            before = each(batch.x)

        def settle(x: Tensor) -> list[Tensor]:
            with torch.no_grad():
                most = (each(x) - before).topk(share).indices
            picked = batch.x.clone()
            picked[most] = x[most]
            return [picked]

        def harm(x: Tensor) -> Tensor:
            return each(x).mean()

        return Problem(harm=harm, slopes=[ascending(harm)], settle=settle)
