"""Batch norm done otherwise, in whatever module it is."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class BatchNormMode(TorchFunctionMode):
    """Within it, :meth:`batch_norm` stands for ``F.batch_norm``.

    All batch-norm layers come to this function, those of one's own, too, so no module is touched.
    """

    @abstractmethod
    def batch_norm(
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
        """Return what stands for ``F.batch_norm``, [B, C, ...].

        Args:
            x: Maps [B, C, ...].
            running_mean: Of each channel, [C]; None where the layer keeps none.
            running_var: Likewise, [C].
            weight: Scale [C].
            bias: Shift [C].
            training: By the statistics of ``x``, which the running ones then follow.
            momentum: Weight of the new ones.
            eps: Added to the variance.
        """

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        """Call ``func``, or what stands for it."""
        return (self.batch_norm if func is F.batch_norm else func)(*args, **(kwargs or {}))


def normalised(x: Tensor, mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Return maps [B, C, ...] normalised by statistics that may have gradients, which PyTorch's function does not give.

    Args:
        x: The maps, [B, C, ...].
        mean: Of each channel, [C].
        var: Of each channel, [C].
        weight: Scale [C]; None is 1.
        bias: Shift [C]; None is 0.
        eps: Added to the variance.
    """
    shape = (1, -1, *(1 for _ in x.shape[2:]))
    scale = (var + eps).rsqrt() if weight is None else (var + eps).rsqrt() * weight
    out = (x - mean.view(shape)) * scale.view(shape)
    return out if bias is None else out + bias.view(shape)
