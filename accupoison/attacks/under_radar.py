"""Poison that stays below the threshold of a defence that looks at the discrepancy from the early model."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from accupoison.attacks.accumulative import Accumulative
from accupoison.attacks.ascent import Ascent, Harm, Problem, Slope, ascending, sendable
from accupoison.attacks.base import ATTACKS, DEFENCE
from accupoison.discrepancy import frozen_discrepancy
from accupoison.errors import InputError, check_choice
from accupoison.types import Batch, Context, ModelView

SPENDS = ("mean", "sample", "knapsack")
HALVINGS = 8
"""Of the line from the clean batch: a share of the perturbation is found to 1/256."""

Over = Callable[[Tensor], Tensor]
"""Images [B, ...] to what they exceed the budget by, in nats: the batch's mean [1], or each row [B]."""


@dataclass(kw_only=True)
class Hidden(Ascent):
    """The base of attacks that keep the discrepancy below kappa tau_t, where the defence has a threshold tau_t.

    The budget is that of the batch as it is sent, before the victim's crop and flip: ``kappa`` leaves room for these.
    Where it is broken, the climb goes on with a penalty, and the images that are judged lie on the line to the clean
    batch, as far out as the budget lets them. Against a defence without a threshold nothing is to be kept.

    Attributes:
        kappa: Share of the threshold that is spent.
        spend: "mean" (of the batch), "sample" (every row stays below by itself), or "knapsack" (the mean, also by
            leaving rows clean: those that gain least for what they cost).
        penalty: Weight of the excess's slope, scaled to the length of the objective's, while the budget is broken.
        hide_trigger: Draw the crafted trigger back below the threshold, too, if that helps: not where the clean one is
            above it already.
    """

    knows: ClassVar[frozenset[str]] = frozenset({DEFENCE})

    kappa: float = 0.9
    spend: str = "mean"
    penalty: float = 1.0
    hide_trigger: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("attack.spend", self.spend, SPENDS)
        for name in ("kappa", "penalty"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise InputError(f"attack.{name} {getattr(self, name)} is not 0 or more; give a number such as 1")

    def over(self, view: ModelView, batch: Batch, ctx: Context) -> tuple[Over, Over] | None:
        """Return what images exceed the budget by as it is to be kept, and what each row does; None without one.

        Args:
            view: The model as it is now.
            batch: The clean batch, [B, ...].
            ctx: Of this step.
        """
        known = self.known
        if known is None or known.reference is None or known.threshold(ctx.t) == float("inf"):
            return None
        budget, discrepancy = self.kappa * known.threshold(ctx.t), frozen_discrepancy(view, known.reference)

        def each(x: Tensor) -> Tensor:
            return discrepancy(x) - budget

        return each if self.spend == "sample" else lambda x: each(x).mean(0, keepdim=True), each

    def hidden(self, harm: Harm, view: ModelView, batch: Batch, rows: Tensor, ctx: Context) -> Problem:
        """Return the problem of doing harm within the budget.

        Args:
            harm: The objective.
            view: The model as it is now.
            batch: The whole batch, [B, ...].
            rows: Which rows may move, bool [B].
            ctx: Of this step.
        """
        limits, unaware = self.over(view, batch, ctx), ascending(harm)
        if limits is None:
            return Problem(harm=harm, slopes=[unaware])
        over, each = limits

        def settle(x: Tensor) -> list[Tensor]:
            if kept(over, x):
                return [x]
            found = [x] if self.spend != "knapsack" else [x, packed_rows(x, unaware(x), batch.x, each)]
            return [drawn_back(some, batch, rows, over) for some in found]

        slopes = [unaware, penalised(unaware, over, self.penalty)]
        return Problem(harm=harm, slopes=slopes, settle=settle, within=lambda x: within(over, x))

    def trigger(self, view: ModelView, clean: Batch, ctx: Context) -> Batch:
        """Return the crafted trigger, drawn back below the threshold of now."""
        sent, limits = super().trigger(view, clean, ctx), self.over(view, clean, ctx)
        if limits is None or not self.hide_trigger or kept(limits[0], sent.x) or not kept(limits[0], clean.x):
            return sent
        every = torch.ones(len(clean), dtype=torch.bool, device=clean.x.device)
        return clean.with_x(drawn_back(sent.x, clean, every, limits[0]))


@torch.no_grad()
def within(over: Over, x: Tensor) -> Tensor:
    """Return which budgets images [B, ...] keep, bool [1] or [B]."""
    return over(x) <= 0


def kept(over: Over, x: Tensor) -> bool:
    """Return whether images [B, ...] keep every budget."""
    return bool(within(over, x).all())


def drawn_back(x: Tensor, clean: Batch, rows: Tensor, over: Over) -> Tensor:
    """Return images [B, ...] on the line to the clean ones, within the budget; clean where even these break it.

    Args:
        x: Images [B, ...].
        clean: The clean batch.
        rows: Which rows may move, bool [B].
        over: What is exceeded; one number a row draws each row back by itself.
    """

    def at(share: Tensor) -> Tensor:
        line = share.view(-1, *(1 for _ in x.shape[1:]))
        return sendable(torch.where(line == 1, x, clean.x + line * (x - clean.x)), clean, rows)

    low = within(over, x).to(x.dtype)
    high = torch.ones_like(low)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        good = within(over, at(middle))
        low, high = torch.where(good, middle, low), torch.where(good, high, middle)
    return at(low)


def packed_rows(x: Tensor, slope: Tensor, clean: Tensor, each: Over) -> Tensor:
    """Return images [B, ...] of which only the rows are moved that gain most for their share of the mean budget.

    A row gains what the objective does along its perturbation, to first order, and costs the discrepancy that it adds.

    Args:
        x: Images [B, ...].
        slope: The objective's, [B, ...].
        clean: The clean images, [B, ...].
        each: What each row exceeds the budget by.
    """
    with torch.no_grad():
        gain = (slope * (x - clean)).flatten(1).sum(1)
        unused = -each(clean)
        cost, left = each(x) + unused, unused.sum()
    order = torch.where(gain > 0, gain / cost.clamp_min(1e-12), gain).argsort(descending=True, stable=True)
    fits = (cost[order].cumsum(0) <= left) & (gain[order] > 0)
    chosen = torch.zeros_like(fits)
    chosen[order[fits]] = True
    return torch.where(chosen.view(-1, *(1 for _ in x.shape[1:])), x, clean)


def penalised(slope: Slope, over: Over, penalty: float) -> Slope:
    """Return a slope that turns back where a budget is broken.

    Args:
        slope: The objective's.
        over: What is exceeded.
        penalty: Weight of the excess's slope, which is first scaled to the length of the objective's.
    """
    back = ascending(lambda x: over(x).clamp_min(0).sum())

    def turned(x: Tensor) -> Tensor:
        ahead = slope(x)
        if kept(over, x):
            return ahead
        down = back(x)
        scale: Tensor = penalty * ahead.norm() / down.norm().clamp_min(1e-12)
        return ahead - scale * down

    return turned


@ATTACKS.register("under-radar")
@dataclass(kw_only=True)
class UnderRadar(Hidden, Accumulative):
    """Accumulative poisoning whose discrepancy stays below the threshold (A0): max J(x) with mean MD <= kappa tau_t."""

    rung: ClassVar[str] = "A0"

    def problem(self, view: ModelView, batch: Batch, rows: Tensor, ctx: Context) -> Problem:
        """Return the accumulative objective within the budget."""
        agreeing = self.agreeing(view, batch, ctx)
        return self.hidden(lambda x: agreeing(x, batch.y), view, batch, rows, ctx)
