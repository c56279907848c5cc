"""Commit a step only if images that are known, with their labels, do not lose by it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from accupoison.defenses.base import DEFENSES, Defense
from accupoison.defenses.trust_proj import trusted_rows
from accupoison.errors import InputError, check_least
from accupoison.types import Batch, Context, ModelView, Verdict


@DEFENSES.register("GATE")
@dataclass(kw_only=True)
class Gate(Defense):
    """Take a step back if the loss of canaries, trusted labelled images, rises by more than ``delta`` + ``z`` SE.

    The rise is the mean over canaries of each one's loss after the step minus that before, SE the standard error of
    this mean. A step that is taken back leaves weights and statistics as before and no momentum. The bound is one of
    each step: an attacker who knows it has as much at every one. The fate of a row depends on its whole batch.

    Attributes:
        delta: Nats by which the mean loss may rise; infinity judges nothing.
        z: Standard errors that it may rise beyond that.
        canaries: How many there are at most; they are saved with the run.
    """

    requires: ClassVar[frozenset[str]] = frozenset({"trusted-labelled"})
    couples: ClassVar[bool] = True
    neutral: ClassVar[dict[str, Any]] = {"delta": math.inf}

    delta: float = 0.0
    z: float = 1.645
    canaries: int = 200
    canaries_x: Tensor | None = field(default=None, init=False, repr=False, compare=False)
    canaries_y: Tensor | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name, value, usual in (("delta", self.delta, "0.01 nats, or inf for no gate"), ("z", self.z, "1.645")):
            if not value >= 0:
                raise InputError(f"defense.{name} {value} is not 0 or more; give one such as {usual}")
        check_least("defense.canaries", self.canaries, 2, "a number of images such as 200")

    @property
    def gates(self) -> bool:
        """Whether any step is judged."""
        return self.delta < math.inf

    def setup(self, live: ModelView, reference: ModelView | None, trusted: Sequence[Batch], ctx: Context) -> None:
        """Keep the canaries."""
        if self.gates:
            rows = trusted_rows(trusted, self.canaries, type(self).name, least=2)
            self.canaries_x, self.canaries_y = rows.x, rows.y

    def after(self, before: ModelView, view: ModelView, ctx: Context) -> Verdict:
        """Return ROLLBACK where the canaries have lost too much."""
        if self.canaries_x is None:
            return Verdict.COMMIT
        rises = (self._losses(view) - self._losses(before)).double()
        rise, limit = float(rises.mean()), float(self.rise_limit(rises))
        ctx.log("defense/canary_rise", rise)
        ctx.log("defense/canary_bound", limit)
        return Verdict.COMMIT if rise <= limit else Verdict.ROLLBACK  # NaN is taken back as well

    def rise_limit(self, rises: Tensor) -> Tensor:
        """Return ``delta`` + ``z`` SE, SE as so many canaries have it whose losses rise like these, [N]."""
        if self.canaries_x is None:
            return super().rise_limit(rises)
        return self.delta + self.z * (rises.std(correction=int(len(rises) > 1)) / math.sqrt(len(self.canaries_x)))

    @torch.no_grad()
    def _losses(self, view: ModelView) -> Tensor:
        assert self.canaries_x is not None
        assert self.canaries_y is not None
        return F.cross_entropy(view.frozen()(self.canaries_x), self.canaries_y, reduction="none")
