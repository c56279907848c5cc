"""The losses of a batch in which somebody who owns the training code has put rows of their own."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from accupoison.defenses import Defense
from accupoison.types import Batch, Context, Forward, Grads, ModelView


@dataclass(kw_only=True)
class BesideTwins(Defense):
    """A defence whose losses see its own rows alone; the others, which come last, are learnt with their labels.

    They share one forward pass, so that batch norm sees them all, as in a training loop that holds both.

    Attributes:
        defense: The defence.
        rows: How many rows are its own.
    """

    defense: Defense
    rows: int

    def losses(self, forward: Forward, batch: Batch) -> Tensor:
        """Return the defence's losses of its rows, then the cross-entropy of the others, [B]."""
        own, twins = batch.rows(slice(0, self.rows)), batch.rows(slice(self.rows, None))
        of_twins: list[Tensor] = []

        def split(x: Tensor, *, track: bool | None = None) -> Tensor:
            if of_twins:
                return forward(x, track=track)
            logits = forward(torch.cat([x, twins.x]), track=track)
            of_twins.append(logits[len(x) :])
            return logits[: len(x)]

        losses = self.defense.losses(split, own)
        return torch.cat([losses, F.cross_entropy(of_twins[0], twins.y, reduction="none")])

    def gradients(self, grads: Grads, momentum: Grads, ctx: Context) -> Grads:
        """Return what the defence makes of the gradients."""
        return self.defense.gradients(grads, momentum, ctx)

    def directing(self, view: ModelView, ctx: Context) -> Callable[[Grads], Grads] | None:
        """Return what gives the defence its say on the momentum, or None."""
        return self.defense.directing(view, ctx)


def beside_twins(defense: Defense, passed: Batch, seen: Batch) -> Defense:
    """Return the defence as it learns from a batch to which the training code has added rows.

    Args:
        defense: The defence.
        passed: What it has passed on, [B, ...].
        seen: What is learnt, [B + N, ...].
    """
    return defense if len(seen) == len(passed) else BesideTwins(defense=defense, rows=len(passed))
