"""Poison that works through batch norm's running statistics, alone or beside the gradient."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from accupoison.attacks.accumulative import Accumulative
from accupoison.attacks.ascent import Ascent, Harm, Problem, ascending
from accupoison.attacks.base import ATTACKS
from accupoison.attacks.running_norm import Statistics, followed
from accupoison.errors import InputError
from accupoison.types import Access, Batch, Context, ModelView


def statistics_slope(view: ModelView, val: Batch) -> tuple[Statistics, Statistics]:
    """Return the running statistics r, and the gradient of the loss on ``val`` with respect to them.

    Args:
        view: The model.
        val: The attacker's own images, [V, ...].
    """
    weights = tuple(p.detach() for p in view.params())
    with torch.no_grad():
        _, now = followed(view, val.x[:1], train=False)
    leaves = [(mean.clone().requires_grad_(), var.clone().requires_grad_()) for mean, var in now]
    logits, _ = followed(view, val.x, train=False, weights=weights, given=leaves)
    flat = torch.autograd.grad(F.cross_entropy(logits, val.y), [part for pair in leaves for part in pair])
    return now, list(zip(flat[::2], flat[1::2], strict=True))


def statistics_harm(view: ModelView, val: Batch) -> Harm:
    """Return how much the move of the running statistics adds to the loss on ``val``, to first order and in nats.

    That is <grad_r L_val, r+(x) - r>, with r+ what an update on ``x`` [B, ...] leaves.

    Args:
        view: The model.
        val: The attacker's own images, [V, ...].
    """
    now, slope = statistics_slope(view, val)
    weights = tuple(p.detach() for p in view.params())

    def harm(x: Tensor) -> Tensor:
        _, after = followed(view, x, train=True, weights=weights)
        layers = zip(slope, after, now, strict=True)
        return torch.stack([(s * (a - n)).sum() for of in layers for s, a, n in zip(*of, strict=True)]).sum()

    return harm


@ATTACKS.register("statistics")
@dataclass(kw_only=True)
class RunningStatistics(Ascent):
    """Move the running statistics alone toward a larger loss (A3): max <grad_r L_val, r+(x) - r>."""

    rung: ClassVar[str] = "A3"

    def setup(self, view: ModelView, access: Access, ctx: Context) -> None:
        """Start a run.

        Raises:
            InputError: The victim's updates move no running statistics.
        """
        with torch.no_grad():
            _, met = followed(view, access.val.x[:1], train=False)
        if not met or not access.trains:
            why = "has none" if not met else "does not move them in its updates"
            fix = "<model.norm> batch" if not met else "<optim.bn_mode> train"
            moved = f"the attack {self.name} moves batch norm's running statistics"
            raise InputError(f"{moved} and this model {why}; give {fix}")
        super().setup(view, access, ctx)

    def problem(self, view: ModelView, batch: Batch, rows: Tensor, ctx: Context) -> Problem:
        """Return the move of the running statistics along the slope of the attacker's loss."""
        harm = statistics_harm(view, self.val(ctx))
        return Problem(harm=harm, slopes=[ascending(harm)])


@ATTACKS.register("accumulative-statistics")
@dataclass(kw_only=True)
class AccumulativeStatistics(RunningStatistics, Accumulative):
    """Accumulative poisoning that moves the running statistics, too (A4): max J(x) + rho <grad_r L_val, r+(x) - r>.

    Attributes:
        rho: Weight of the running statistics' term, which is in nats, beside J, which is a sum of cosines, one for each
            parameter tensor; 0 climbs J alone.
    """

    rung: ClassVar[str] = "A4"

    rho: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.rho < float("inf"):
            raise InputError(f"attack.rho {self.rho} is not a weight of 0 or more; give one such as 10")

    def problem(self, view: ModelView, batch: Batch, rows: Tensor, ctx: Context) -> Problem:
        """Return the sum of both objectives; the first search climbs J alone."""
        agreeing, moving = self.agreeing(view, batch, ctx), statistics_harm(view, self.val(ctx))

        def harm(x: Tensor) -> Tensor:
            return agreeing(x, batch.y) + self.rho * moving(x)

        return Problem(harm=harm, slopes=[ascending(lambda x: agreeing(x, batch.y)), ascending(harm)])
