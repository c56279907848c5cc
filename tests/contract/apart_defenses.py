"""Defences whose rows depend on none but themselves, however they look, whether that is declared or not."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from accupoison.defenses import Defense
from accupoison.types import Batch, Context, Grads, ModelView
from tests.contract.coupled_defenses import intercepting, loss_of, weighing


def below_a_limit(view: ModelView, batch: Batch, ctx: Context) -> Batch:
    return batch.rows(loss_of(view, batch) < 1.5)


def row_by_row(view: ModelView, batch: Batch, ctx: Context) -> Batch:
    return batch.with_x(batch.x / batch.x.amax((1, 2, 3), keepdim=True).clamp_min(1e-6))


def relabelled(view: ModelView, batch: Batch, ctx: Context) -> Batch:
    return replace(batch, y=view.logits(batch.x).argmax(1))


def at_random(view: ModelView, batch: Batch, ctx: Context) -> Batch:
    return batch.rows(torch.randperm(len(batch), generator=ctx.rng("drop"))[1:])


def noisier_with_time(view: ModelView, batch: Batch, ctx: Context) -> Batch:
    noise = torch.rand(batch.x.shape, generator=ctx.rng("noise"))
    return batch.with_x((batch.x + min(0.1, 0.01 * ctx.t) * noise).clamp(0, 1))


def twice_each(view: ModelView, batch: Batch, ctx: Context) -> Batch:
    return Batch.concat([batch, batch.with_x(batch.x.flip(3))])


def confident(losses: Tensor, batch: Batch) -> Tensor:
    return losses * (1 - (-losses.detach()).exp())


@dataclass(kw_only=True)
class GradientHistory(Defense):
    """Clips by the norms of earlier gradients, which are post-processing."""

    couples = False
    norm: float = field(default=1.0, init=False)

    def intercept(self, view: ModelView, batch: Batch, ctx: Context) -> Batch:
        return batch.with_x(batch.x / max(1.0, self.norm))

    def gradients(self, grads: Grads, momentum: Grads, ctx: Context) -> Grads:
        self.norm = 0.5 * self.norm + 0.5 * float(torch.stack([g.norm() for g in grads]).norm())
        return tuple(g / max(1.0, self.norm) for g in grads)


APART: list[type[Defense]] = [
    *map(intercepting, (below_a_limit, row_by_row, relabelled, at_random, noisier_with_time, twice_each)),
    weighing(confident),
    GradientHistory,
]
