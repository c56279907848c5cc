"""Discrepancy-aware sample correction (DSC), called OURS in the released code."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar
from weakref import ref

import torch
import torch.nn.functional as F
from torch import Tensor

from accupoison.defenses.at import check_search
from accupoison.defenses.base import DEFENSES, Defense
from accupoison.device import records
from accupoison.discrepancy import batch_discrepancy, divergence, memorization_discrepancy
from accupoison.errors import InputError
from accupoison.gradients import project_linf
from accupoison.types import Batch, Context, ModelView, State

CALIBRATION_BATCHES = 20


def correct(
    live: ModelView,
    reference: ModelView,
    batch: Batch,
    threshold: float,
    *,
    eps: float = 0.2,
    step_size: float = 0.02,
    steps: int = 10,
    per_sample: bool = False,
) -> tuple[Tensor, int]:
    """Lower the loss of a batch until its mean memorization discrepancy is at most ``threshold``.

    Zhu et al. (ICML 2023), Algorithm 1: while the discrepancy is above the threshold, one signed step down the
    cross-entropy of the live model, within ``eps`` of the images received. The models are in eval mode, where a row's
    step does not depend on other rows.

    Args:
        live: The model as it is now.
        reference: The early model.
        batch: The images received [B, ...] and their labels.
        threshold: Bound on the batch's mean discrepancy, or on that of each row, in nats.
        eps: Radius in pixels around the received images.
        step_size: Size of a step.
        steps: At most so many steps.
        per_sample: Only rows whose own discrepancy is above the threshold take a step; the others stay as they are.

    Returns:
        The corrected images [B, ...], detached, and the number of steps taken.
    """
    answer, early = live.frozen(), reference.frozen()

    def measure(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = x.detach().clone().requires_grad_()
        logits = answer(x)  # one forward pass serves the discrepancy and the step
        with torch.no_grad():
            return x, logits, divergence(early(x), logits)

    def descend(x: Tensor, logits: Tensor, centre: Tensor, y: Tensor) -> Tensor:
        (slope,) = torch.autograd.grad(F.cross_entropy(logits, y), x)
        return project_linf(x.detach() - step_size * slope.sign(), centre, eps, bounded=batch.bounded)

    def both(x: Tensor, centre: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        leaf, logits, discrepancy = measure(x)
        return descend(leaf, logits, centre, y), discrepancy

    x, key = batch.x.detach().clone(), ("step of DSC", ref(reference), eps, step_size, batch.bounded)
    for taken in range(steps):
        if records(x.device):
            moved, discrepancy = live.recorded(key, both, x, batch.x, batch.y)
        else:
            leaf, logits, discrepancy = measure(x)
        above = discrepancy > threshold if per_sample else torch.tensor([float(discrepancy.mean()) > threshold])
        if not bool(above.any()):
            return x, taken
        if not records(x.device):
            moved = descend(leaf, logits, batch.x, batch.y)
        x = moved if bool(above.all()) else torch.where(above.view(-1, *(1 for _ in x.shape[1:])), moved, x)
    return x, steps


@DEFENSES.register("DSC", "OURS")
@dataclass(kw_only=True)
class DiscrepancyCorrection(Defense):
    """Correct a batch whose memorization discrepancy is above a threshold (Zhu et al., ICML 2023).

    Attributes:
        threshold: Threshold on a batch's mean discrepancy at step 0, in nats (0.5 as released); None calibrates it
            at set-up: mean + 3 standard deviations over 20 trusted batches, or over their rows with ``per_sample``.
        slope: What the threshold grows by at every step, in nats (0.02 as released).
        eps: Radius in pixels around the received images.
        step_size: Size of a correction step in pixels.
        steps: Correction steps a batch, at most.
        per_sample: Hold each row to the threshold by its own discrepancy, and correct those above it alone; the paper
            holds the batch to it by the mean, and corrects all rows or none.
    """

    requires: ClassVar[frozenset[str]] = frozenset({"snapshot", "trusted-unlabelled"})
    couples: ClassVar[bool] = True
    neutral: ClassVar[dict[str, Any]] = {"threshold": math.inf}

    threshold: float | None = None
    slope: float = 0.0
    eps: float = 0.2
    step_size: float = 0.02
    steps: int = 10
    per_sample: bool = False
    base: float = field(default=math.inf, init=False)
    reference: ModelView = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_search(self.eps, self.step_size, self.steps)
        if self.threshold is not None and not self.threshold >= 0:
            raise InputError(f"defense.threshold {self.threshold} is not a discrepancy; give 0 or more, in nats")

    def setup(self, live: ModelView, reference: ModelView | None, trusted: Sequence[Batch], ctx: Context) -> None:
        """Take the early model and set the threshold."""
        self._attach(reference)
        self.base = self._calibrate(live, trusted) if self.threshold is None else self.threshold

    def intercept(self, view: ModelView, batch: Batch, ctx: Context) -> Batch:
        """Return the corrected batch."""
        threshold = self.discrepancy_limit(ctx.t)
        x, taken = correct(
            view,
            self.reference,
            batch,
            threshold,
            eps=self.eps,
            step_size=self.step_size,
            steps=self.steps,
            per_sample=self.per_sample,
        )
        ctx.log("defense/threshold", threshold)
        ctx.log("defense/inner_steps", taken)
        return batch.with_x(x)

    def discrepancy_limit(self, t: int) -> float:
        """Return the threshold of step ``t``."""
        return self.base + self.slope * t

    def restore(self, state: State, reference: ModelView | None) -> None:
        """Put back the calibrated threshold and the early model."""
        self._attach(reference)
        self.set_state(state)

    def _attach(self, reference: ModelView | None) -> None:
        if reference is None:
            raise InputError(
                "DSC compares with an early snapshot and there is none; give its checkpoint with <start.reference>"
            )
        self.reference = reference

    def _calibrate(self, live: ModelView, trusted: Sequence[Batch]) -> float:
        if len(trusted) < 2:
            raise InputError(
                f"DSC calibrates its threshold on {CALIBRATION_BATCHES} trusted batches and got {len(trusted)}; "
                "set defense.threshold instead"
            )
        some = trusted[:CALIBRATION_BATCHES]
        if self.per_sample:
            with torch.no_grad():
                values = torch.cat([memorization_discrepancy(live, self.reference, batch.x) for batch in some])
        else:
            values = torch.tensor([batch_discrepancy(live, self.reference, batch.x) for batch in some])
        return float(values.mean() + 3 * values.std())
