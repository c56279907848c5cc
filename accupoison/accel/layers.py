"""Layers in the place of PyTorch's, on the CPU and in modules that are our own copies: a user's module has none."""

from functools import lru_cache
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from accupoison.accel.double_backward import MaxPool, convolve, is_transformed, layout, normalize

KERNELS = ("auto", "torch")
Taps = tuple[int, int, NDArray[np.int64]]
LARGEST_OUT = 4
"""Pixels of the maps that small maps lead to."""


def uses_own_kernels(kernels: str, device: torch.device) -> bool:
    """Return whether layers on a device are substituted by the setting ``run.kernels``, "auto" or "torch"."""
    return kernels == "auto" and device.type == "cpu"


def substitute(module: nn.Module, *, twice: bool) -> nn.Module:
    """Let layers of ``module`` compute in our way, in place, and return it.

    Only layers whose type is PyTorch's own, with ordinary settings.

    Args:
        module: A copy that nobody else has, since the types of its layers change.
        twice: Its passes may be differentiated twice.
    """
    for layer in module.modules():
        if type(layer) is nn.Conv2d and _is_ordinary(layer):
            layer.__class__ = Conv2d if twice else SmallMapConv2d
        elif twice and type(layer) is nn.BatchNorm2d and layer.affine and layer.track_running_stats:
            layer.__class__ = BatchNorm2d
        elif twice and type(layer) is nn.MaxPool2d and not layer.return_indices:
            layer.__class__ = MaxPool2d
    return module


def _is_ordinary(layer: nn.Conv2d) -> bool:
    plain = layer.groups == 1 and layer.dilation == (1, 1) and layer.padding_mode == "zeros"
    return plain and not isinstance(layer.padding, str)


class SmallMapConv2d(nn.Conv2d):
    """A convolution in which every output pixel may see the whole map, as in 3x3 on a map of 2x2.

    It is then a linear layer. PyTorch multiplies by the padding, too, with more than twice the products.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, H, W] to [B, O, rows, columns]."""
        taps = self._taps_of(x)
        if taps is None:
            return super().forward(x)
        rows, columns, tap = taps
        by_tap = self.weight.permute(0, 2, 3, 1).flatten(1, 2)  # [O, K * L, C]
        linear = by_tap.index_select(1, torch.from_numpy(tap)).view(self.out_channels * rows * columns, -1)
        out = x.permute(0, 2, 3, 1).flatten(1) @ linear.t()
        out = out.view(len(x), self.out_channels, rows, columns)
        out = out if self.bias is None else out + self.bias.to(out.dtype)[:, None, None]
        return out.contiguous(memory_format=layout(x, self.weight))

    def _taps_of(self, x: Tensor) -> Taps | None:
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            return None  # PyTorch says what is wrong
        sides = zip(x.shape[2:], self.kernel_size, self.stride, cast(tuple[int, int], self.padding), strict=True)
        return _taps(tuple(sides))


@lru_cache
def _taps(sides: tuple[tuple[int, int, int, int], ...]) -> Taps | None:
    """Return the size of the output and the kernel's tap of each pair of an output and an input pixel, or None.

    None is for maps of which a pixel misses a part, or which are not small. NumPy, since a cached tensor would remember
    the mode of the first call.

    Args:
        sides: Of both sides, the size of the map, of the kernel, stride and padding.
    """
    along = []
    for size, kernel, stride, padding in sides:
        starts = np.arange(0, size + 2 * padding - kernel + 1, stride) - padding
        along.append(np.arange(size) - starts[:, None])  # [output, input]
        if not along[-1].size or along[-1].min() < 0 or along[-1].max() >= kernel:
            return None
    down, across = along
    tap = down[:, None, :, None] * sides[1][1] + across[None, :, None, :]
    return (len(down), len(across), tap.reshape(-1)) if len(down) * len(across) <= LARGEST_OUT else None


class Conv2d(SmallMapConv2d):
    """A convolution with second derivatives of our own, where its weight takes part in them."""

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, H, W] to [B, O, rows, columns]."""
        exact = x.dtype == self.weight.dtype in (torch.float32, torch.float64)
        ours = self.bias is None and self.weight.requires_grad and exact and x.ndim == 4 and x.numel() > 0
        if not ours or _is_once() or torch.is_autocast_enabled("cpu") or self._taps_of(x) is not None:
            return super().forward(x)
        return convolve(x, self.weight, self.stride, cast(tuple[int, int], self.padding))


class BatchNorm2d(nn.BatchNorm2d):
    """A batch norm with second derivatives of our own in eval mode, where its weight takes part in them."""

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, H, W] to the same."""
        exact = x.dtype == self.weight.dtype in (torch.float32, torch.float64)
        ours = not self.training and self.weight.requires_grad and exact and x.ndim == 4
        if not ours or _is_once():
            return super().forward(x)
        mean, var = cast(Tensor, self.running_mean), cast(Tensor, self.running_var)
        return normalize(x, self.weight, self.bias, mean, var, self.eps)


class MaxPool2d(nn.MaxPool2d):
    """A max-pool with second derivatives of our own."""

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, H, W] to [B, C, rows, columns]."""
        if not x.requires_grad or x.ndim != 4 or _is_once():
            return cast(Tensor, super().forward(x))
        settings = (self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode)
        return cast(Tensor, MaxPool.apply(x, *settings))


def _is_once() -> bool:
    """Return whether nobody can differentiate this pass twice by functions of our own."""
    return not torch.is_grad_enabled() or is_transformed()
