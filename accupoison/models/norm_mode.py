"""Batch norm by other statistics than a layer's own, whatever module it is in."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class BatchNormMode(TorchFunctionMode):
    """Within it, every ``F.batch_norm`` normalises by what :meth:`statistics` returns.

    All batch-norm layers come to this function, those of one's own, too, so no module is touched. The statistics may
    have gradients, which PyTorch's function does not pass on.
    """

    @abstractmethod
    def statistics(
        self, x: Tensor, mean: Tensor | None, var: Tensor | None, training: bool, momentum: float
    ) -> tuple[Tensor, Tensor] | None:
        """Return mean and variance of each channel, [C] each; None leaves it to PyTorch.

        Args:
            x: Maps [B, C, ...].
            mean: The running mean, [C]; None where the layer keeps none.
            var: The running variance, [C], likewise.
            training: By the statistics of ``x``, which the running ones then follow.
            momentum: Weight of the new ones.
        """

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        """Call ``func``, or what stands for it."""
        return (self._batch_norm if func is F.batch_norm else func)(*args, **(kwargs or {}))

    def _batch_norm(
        self,
        x: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        found = self.statistics(x, running_mean, running_var, training, momentum)
        if found is None:
            return F.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)
        mean, var = found
        shape = (1, -1, *(1 for _ in x.shape[2:]))
        scale = (var + eps).rsqrt() if weight is None else (var + eps).rsqrt() * weight
        out = (x - mean.view(shape)) * scale.view(shape)
        return out if bias is None else out + bias.view(shape)
