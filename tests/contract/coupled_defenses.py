"""Defences that let one row depend on another without saying so, each in a way of its own."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from accupoison.defenses import Defense
from accupoison.types import Batch, Context, Forward, Grads, ModelView

Intercept = Callable[[ModelView, Batch, Context], Batch]
Weigh = Callable[[Tensor, Batch], Tensor]


def intercepting(made: Intercept) -> type[Defense]:
    """Return a defence that intercepts by a function and does not say whether it couples."""

    @dataclass(kw_only=True)
    class Coupled(Defense):
        def intercept(self, view: ModelView, batch: Batch, ctx: Context) -> Batch:
            with torch.no_grad():
                return made(view, batch, ctx)

    Coupled.__name__ = made.__name__
    return Coupled


def weighing(made: Weigh) -> type[Defense]:
    """Return a defence whose losses are what a function makes of the ordinary ones; it says that it does not couple."""

    @dataclass(kw_only=True)
    class Coupled(Defense):
        couples = False

        def losses(self, forward: Forward, batch: Batch) -> Tensor:
            return made(super().losses(forward, batch), batch)

    Coupled.__name__ = made.__name__
    return Coupled


def loss_of(view: ModelView, batch: Batch) -> Tensor:
    return F.cross_entropy(view.logits(batch.x), batch.y, reduction="none")


def mean_image(view: ModelView, batch: Batch, ctx: Context) -> Batch:
    return batch.with_x((batch.x + batch.x.mean(0)) / 2)


def far_from_the_median(view: ModelView, batch: Batch, ctx: Context) -> Batch:
    losses = loss_of(view, batch)
    return batch.rows(losses <= 3 * losses.median())


def by_the_maximum(view: ModelView, batch: Batch, ctx: Context) -> Batch:
    return batch.with_x(batch.x / batch.x.max().clamp_min(1e-6))


def by_the_range(view: ModelView, batch: Batch, ctx: Context) -> Batch:
    low, high = batch.x.min(), batch.x.max()
    return batch.with_x(((batch.x - low) / (high - low + 1e-3)).clamp(0, 1))


def when_one_is_an_outlier(view: ModelView, batch: Batch, ctx: Context) -> Batch:
    return batch.with_x(batch.x / 2) if float(loss_of(view, batch).max()) > 3 else batch


def when_one_is_dark(view: ModelView, batch: Batch, ctx: Context) -> Batch:
    return batch.with_x(1 - batch.x) if float(batch.x.flatten(1).mean(1).min()) < 0.01 else batch


def by_the_number_of_rows(view: ModelView, batch: Batch, ctx: Context) -> Batch:
    return batch.with_x(batch.x * min(1.0, len(batch) / 8))


def not_in_small_batches(view: ModelView, batch: Batch, ctx: Context) -> Batch:
    return batch if len(batch) < 2 else batch.rows(loss_of(view, batch) < 1)


def every_second(view: ModelView, batch: Batch, ctx: Context) -> Batch:
    return batch.rows(slice(0, None, 2))


def like_the_first(view: ModelView, batch: Batch, ctx: Context) -> Batch:
    return batch.rows(batch.y == batch.y[0])


def first_image(view: ModelView, batch: Batch, ctx: Context) -> Batch:
    return batch.with_x(0.99 * batch.x + 0.01 * batch.x[0])


def without_copies(view: ModelView, batch: Batch, ctx: Context) -> Batch:
    gaps = torch.cdist(batch.x.flatten(1), batch.x.flatten(1)) + 9 * torch.eye(len(batch))
    return batch.rows(gaps.min(1).values > 1e-3)


def without_rare_labels(view: ModelView, batch: Batch, ctx: Context) -> Batch:
    return batch.rows(torch.bincount(batch.y)[batch.y] > 1)


def highest_fifth(view: ModelView, batch: Batch, ctx: Context) -> Batch:
    kept = max(1, int(0.8 * len(batch)))
    return batch.rows(loss_of(view, batch).argsort(stable=True)[:kept].sort().values)


def late(view: ModelView, batch: Batch, ctx: Context) -> Batch:
    return batch if ctx.t < 100 else mean_image(view, batch, ctx)


def only_large(view: ModelView, batch: Batch, ctx: Context) -> Batch:
    return batch if len(batch) < 100 else mean_image(view, batch, ctx)


def not_in_large(view: ModelView, batch: Batch, ctx: Context) -> Batch:
    return batch.with_x(batch.x / 2) if len(batch) > 64 else batch


def three_deviations(view: ModelView, batch: Batch, ctx: Context) -> Batch:
    losses = loss_of(view, batch)
    return batch.rows(losses <= losses.mean() + 3 * losses.std(unbiased=False))


def nearest_with_its_label(view: ModelView, batch: Batch, ctx: Context) -> Batch:
    gaps = torch.cdist(batch.x.flatten(1), batch.x.flatten(1)) + 1e9 * torch.eye(len(batch))
    return batch.rows(batch.y[gaps.argmin(1)] == batch.y)


def one_norm_for_all(view: ModelView, batch: Batch, ctx: Context) -> Batch:
    with torch.enable_grad():
        x = batch.x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(F.cross_entropy(view.logits(x), batch.y), x)
    return batch.with_x((batch.x - slope / slope.norm().clamp_min(1e-6)).clamp(0, 1))


def stops_with_the_mean(view: ModelView, batch: Batch, ctx: Context) -> Batch:
    return batch if float(loss_of(view, batch).mean()) < 2 else batch.with_x(batch.x / 2)


def smoothed_label(view: ModelView, batch: Batch, ctx: Context) -> Batch:
    return replace(batch, y=batch.y.mode().values.expand_as(batch.y).clone())


def extra_beside(view: ModelView, batch: Batch, ctx: Context) -> Batch:
    return replace(batch, extra={"centre": batch.x - batch.x.mean(0)})


def batch_statistics(view: ModelView, batch: Batch, ctx: Context) -> Batch:
    return replace(batch, extra={"logits": view.logits(batch.x, train=True)})


def made_up_row(view: ModelView, batch: Batch, ctx: Context) -> Batch:
    mixed = Batch(batch.x[:1], batch.y[:1], torch.tensor([-1]))
    return Batch.concat([batch, mixed])


def random_and_by_median(view: ModelView, batch: Batch, ctx: Context) -> Batch:
    losses = loss_of(view, batch)
    return batch.rows((losses <= losses.median()) | (torch.rand(len(batch), generator=ctx.rng("keep")) < 0.5))


def softmax_weights(losses: Tensor, batch: Batch) -> Tensor:
    return losses * losses.detach().softmax(0)


def ranks(losses: Tensor, batch: Batch) -> Tensor:
    return losses * (1 + losses.detach().argsort().argsort())


def share(losses: Tensor, batch: Batch) -> Tensor:
    return losses / len(losses)


def mean_over_all(losses: Tensor, batch: Batch) -> Tensor:
    return losses * losses.detach().mean()


def capped_at_the_median(losses: Tensor, batch: Batch) -> Tensor:
    return torch.minimum(losses, 4 * losses.detach().median())


def by_label_counts(losses: Tensor, batch: Batch) -> Tensor:
    return losses / torch.bincount(batch.y)[batch.y]


def by_place(losses: Tensor, batch: Batch) -> Tensor:
    return losses * torch.linspace(1, 2, len(losses))


def slope_alone(losses: Tensor, batch: Batch) -> Tensor:
    return losses + (losses.mean() - losses.mean().detach())


@dataclass(kw_only=True)
class MovingAverage(Defense):
    """Drops rows with a loss above the average of earlier batches."""

    couples = False
    average: float = field(default=9.0, init=False)

    def intercept(self, view: ModelView, batch: Batch, ctx: Context) -> Batch:
        losses, limit = loss_of(view, batch).detach(), self.average
        self.average = 0.5 * self.average + 0.5 * float(losses.mean())
        return batch.rows(losses <= limit)


@dataclass(kw_only=True)
class CountsRows(Defense):
    """Learns a tenth as much from a row once it has seen so many."""

    couples = False
    rows: int = field(default=0, init=False)

    def intercept(self, view: ModelView, batch: Batch, ctx: Context) -> Batch:
        self.rows += len(batch)
        return batch

    def losses(self, forward: Forward, batch: Batch) -> Tensor:
        return super().losses(forward, batch) / (1 + self.rows)


@dataclass(kw_only=True)
class TellsTheGradients(Defense):
    """Scales the gradients, when they are private already, by something of the rows that is not."""

    couples = False
    scale: float = field(default=1.0, init=False)

    def intercept(self, view: ModelView, batch: Batch, ctx: Context) -> Batch:
        self.scale = float(loss_of(view, batch).detach().mean())
        return batch

    def gradients(self, grads: Grads, momentum: Grads, ctx: Context) -> Grads:
        return tuple(g * self.scale for g in grads)


COUPLED: list[type[Defense]] = [
    *map(
        intercepting,
        (
            mean_image,
            far_from_the_median,
            by_the_maximum,
            by_the_range,
            when_one_is_an_outlier,
            when_one_is_dark,
            by_the_number_of_rows,
            not_in_small_batches,
            every_second,
            like_the_first,
            first_image,
            without_copies,
            without_rare_labels,
            highest_fifth,
            late,
            only_large,
            not_in_large,
            three_deviations,
            nearest_with_its_label,
            one_norm_for_all,
            stops_with_the_mean,
            smoothed_label,
            extra_beside,
            batch_statistics,
            made_up_row,
            random_and_by_median,
        ),
    ),
    *map(
        weighing,
        (
            softmax_weights,
            ranks,
            share,
            mean_over_all,
            capped_at_the_median,
            by_label_counts,
            by_place,
            slope_alone,
        ),
    ),
    MovingAverage,
    CountsRows,
    TellsTheGradients,
]
