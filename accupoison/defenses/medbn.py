"""Batch norm by medians: a few rows cannot carry the statistics of all others away."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from accupoison.defenses.base import DEFENSES, Defense
from accupoison.errors import InputError
from accupoison.models.norm_mode import BatchNormMode
from accupoison.types import Batch, Forward


def median_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the median of each channel, and the mean of the squared deviations from it, [C] each.

    The median is over rows and positions, of an even number the lower of the two in the middle.

    Args:
        x: Maps [B, C, ...], at least one value a channel.
    """
    values = x.transpose(0, 1).flatten(1)
    n = values.shape[1]  # on CUDA `median` is not deterministic
    centre = values.sort(dim=1).values[:, (n - 1) // 2] if values.is_cuda else values.median(dim=1).values
    return centre, (values - centre[:, None]).square().mean(dim=1)


class MedianNorm(BatchNormMode):
    """Within it, every ``F.batch_norm`` that uses a batch's statistics takes these by medians.

    Attributes:
        met: Calls so far, with a batch's statistics or the running ones.

    Args:
        amount: Weight of the median's statistics beside those of the mean, in (0, 1].
    """

    def __init__(self, amount: float) -> None:
        super().__init__()
        self.met = 0
        self._amount = amount

    def statistics(
        self, x: Tensor, mean: Tensor | None, var: Tensor | None, training: bool, momentum: float
    ) -> tuple[Tensor, Tensor] | None:
        """Return those by medians where the batch's statistics count."""
        self.met += 1
        count = x.numel() // x.shape[1]
        if not training or count < 2:  # of a single value PyTorch says that it has no variance
            return None
        centre, spread = median_statistics(x)
        if self._amount < 1:
            usual = torch.var_mean(x, [0, *range(2, x.ndim)], correction=0)
            spread, centre = usual[0].lerp(spread, self._amount), usual[1].lerp(centre, self._amount)
        with torch.no_grad():  # as batch norm does: the variance unbiased
            for running, now in ((mean, centre), (var, spread * (count / (count - 1)))):
                if running is not None:
                    running.lerp_(now.to(running.dtype), momentum)
        return centre, spread


@DEFENSES.register("MEDBN")
@dataclass(kw_only=True)
class MedianBatchNorm(Defense):
    """Normalise by the median of each channel, not its mean, when learning (Park et al., CVPR 2024).

    The spread is the mean of the squared deviations from the median, which one far value still moves; the running
    statistics follow both, so what is served has them, too. Where batch norm uses its running statistics in the update
    (``optim.bn_mode`` eval), nothing is estimated, and it equals standard training. Rows share statistics as in
    ordinary batch norm.

    Attributes:
        amount: Weight of the median's statistics beside those of the mean; 0 is ordinary batch norm.
    """

    couples: ClassVar[bool] = True
    neutral: ClassVar[dict[str, Any]] = {"amount": 0.0}

    amount: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.amount <= 1:
            raise InputError(f"defense.amount {self.amount} is outside [0, 1]; give 1 for medians alone")

    def losses(self, forward: Forward, batch: Batch) -> Tensor:
        """Return the cross-entropy of each row [B].

        Raises:
            InputError: The model has no batch norm.
        """
        if not self.amount:
            return super().losses(forward, batch)
        with MedianNorm(self.amount) as norm:
            losses = super().losses(forward, batch)
        if not norm.met:
            raise InputError(
                "MEDBN takes the medians of batch norm and this model has none; give <model.norm> batch, or choose "
                "another defence"
            )
        return losses
