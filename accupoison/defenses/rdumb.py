"""Putting the base model back: at regular intervals, or when its answers have drifted."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from accupoison.defenses.base import DEFENSES, Defense
from accupoison.discrepancy import divergence
from accupoison.errors import InputError, check_least
from accupoison.types import Batch, Context, ModelView, Verdict

IMAGES = 200
"""Trusted images that drift is measured on; they are saved with the run."""


@DEFENSES.register("RDUMB")
@dataclass(kw_only=True)
class Reset(Defense):
    """Go back to the model that the stream began with, with its statistics and momentum (Press et al., NeurIPS 2023).

    RDumb resets at regular intervals, every 1000 batches of test-time adaptation. Ours may also do so on drift: KL(base
    || now) on trusted images, by which the cross-entropy against the base model's own answers has risen. No labels of
    these images are used. Resets depend on whole batches, so rows are coupled.

    Attributes:
        every: Steps after which the base model comes back, counted anew from each reset; None has no interval. The
            default puts no reset right before a trigger after ten steps.
        drift: Mean divergence on the trusted images, in nats, above which it comes back at once; None measures none.
    """

    requires: ClassVar[frozenset[str]] = frozenset({"trusted-unlabelled"})
    couples: ClassVar[bool] = True
    neutral: ClassVar[dict[str, Any]] = {"every": None, "drift": None}

    every: int | None = 4
    drift: float | None = None
    since: int = field(default=0, init=False)
    images: Tensor | None = field(default=None, init=False, repr=False, compare=False)
    answers: Tensor | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_least("defense.every", self.every, 1, "a number of steps such as 4, or none")
        if self.drift is not None and not self.drift >= 0:
            raise InputError(f"defense.drift {self.drift} is not a divergence; give nats such as 0.1, or none")

    def setup(self, live: ModelView, reference: ModelView | None, trusted: Sequence[Batch], ctx: Context) -> None:
        """Keep some trusted images and what the base model answers to them."""
        if self.drift is None:
            return
        if not trusted:
            raise InputError(
                "RDUMB measures drift on trusted images and there are none; give <data.trusted> 1 or more, or set "
                "defense.drift=none"
            )
        self.images = torch.cat([batch.x for batch in trusted])[:IMAGES]
        self.answers = self._answers(live)

    def after(self, before: ModelView, view: ModelView, ctx: Context) -> Verdict:
        """Ask for the base model where a reset is due."""
        self.since += 1
        due = self.every is not None and self.since >= self.every
        if self.drift is not None:
            assert self.answers is not None
            drift = float(divergence(self.answers, self._answers(view)).mean())
            ctx.log("defense/drift", drift)
            due |= not drift <= self.drift  # NaN, of a model that has diverged, is drift as well
        if not due:
            return Verdict.COMMIT
        self.since = 0
        return Verdict.RESET

    @torch.no_grad()
    def _answers(self, view: ModelView) -> Tensor:
        assert self.images is not None
        return view.frozen()(self.images)
