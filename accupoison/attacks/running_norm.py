"""Batch norm's running statistics as something that an attack can differentiate and follow."""

import torch
from torch import Tensor

from accupoison.models.norm_mode import BatchNormMode
from accupoison.types import Grads, ModelView

Statistics = list[tuple[Tensor, Tensor]]
"""Running mean [C] and variance [C] of each batch norm, in the order in which a pass meets them."""


class RunningNorm(BatchNormMode):
    """Within it, batch norm is done in operations that can be differentiated by the running statistics, too.

    Attributes:
        met: Of each batch norm with running statistics: in eval mode those it used, in train mode those after the pass.

    Args:
        given: Use these in place of the model's; None uses the model's.
    """

    def __init__(self, given: Statistics | None = None) -> None:
        super().__init__()
        self.met: Statistics = []
        self._given = given

    def statistics(
        self, x: Tensor, mean: Tensor | None, var: Tensor | None, training: bool, momentum: float
    ) -> tuple[Tensor, Tensor] | None:
        """Return the statistics to normalise by, and note the running ones."""
        if mean is None or var is None:
            return None
        if self._given is not None:
            mean, var = self._given[len(self.met)]
        if not training:
            self.met.append((mean, var))
            return mean, var
        now, centre = torch.var_mean(x, [0, *range(2, x.ndim)], correction=0)
        count = x.numel() // x.shape[1]
        unbiased = now * (count / max(1, count - 1))  # as batch norm keeps it
        self.met.append((mean + momentum * (centre - mean), var + momentum * (unbiased - var)))
        return centre, now


def followed(
    view: ModelView, x: Tensor, *, train: bool, weights: Grads | None = None, given: Statistics | None = None
) -> tuple[Tensor, Statistics]:
    """Return logits [B, classes] and the running statistics after the pass; both differentiable, nothing changes.

    Args:
        view: The model.
        x: Inputs [B, ...].
        train: The pass of an update: by the batch's statistics, which the running ones then follow.
        weights: In place of the model's own, in parameter order.
        given: Running statistics in place of the model's.
    """
    with RunningNorm(given) as norm:
        logits = view.logits(x, train=train, params=weights)
    return logits, norm.met
