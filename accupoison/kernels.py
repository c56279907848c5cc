"""Layers that PyTorch's CPU kernels take several times too long for, computed in another way.

A convolution of a map of a few pixels: most taps of a 3x3 kernel meet padding on a 2x2 map, and oneDNN multiplies by
the zeros all the same, a few rows at a time. One of a somewhat larger map of many channels
(:mod:`accupoison.winograd`). And the second derivative of batch norm in eval mode, which autograd puts together from
many passes over the map. ``benchmarks/alternatives.py`` times what gains by them beside PyTorch's own.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode

from accupoison import winograd
from accupoison.prepared import prepared

LARGEST_IN, LARGEST_OUT = 16, 4
"""Pixels of the maps that count as small: from 4x4 to 2x2, and below."""
Maps = tuple[tuple[int, int, int, int], ...]
"""Of both sides of an image: size of the map, size of the kernel, stride and padding."""
Table = NDArray[np.int64]


class Kernels(TorchFunctionMode):
    """Within this context ``torch.conv2d`` and ``F.batch_norm`` are :func:`convolve` and :func:`normalise`.

    A context and not layers of our own, so that models of other packages gain too and Opacus still meets ``nn.Conv2d``.
    Under the transforms of ``torch.func`` and in forward mode PyTorch's own are left in place.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """Call ``func``, or what stands for it."""
        if func in OURS and not torch._C._are_functorch_transforms_active() and forward_ad._current_level < 0:
            func = OURS[func]
        return func(*args, **(kwargs or {}))


def convolve(
    input: Tensor,  # noqa: A002 (torch's name)
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, ...] = 1,
    padding: int | tuple[int, ...] | str = 0,
    dilation: int | tuple[int, ...] = 1,
    groups: int = 1,
) -> Tensor:
    """Return ``torch.conv2d`` of the same arguments; small maps on the CPU by matrix products."""
    plain = groups == 1 and _pair(dilation) == (1, 1) and not isinstance(padding, str)
    if plain and _on_cpu(input) and _fits(input, weight, bias) and min(_pair(stride)) > 0:
        maps = tuple(zip(input.shape[2:], weight.shape[2:], _pair(stride), _pair(padding), strict=True))
        out = _by_products(input, weight, maps)
        if out is not None:
            out = out if bias is None else out + bias.to(out.dtype)[:, None, None]
            return out.contiguous(memory_format=_layout(input, weight))
    return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)


def _fits(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Return whether shapes go together; PyTorch says what is wrong with those that do not."""
    return weight.ndim == 4 and x.shape[1] == weight.shape[1] and (bias is None or bias.shape == weight.shape[:1])


def _by_products(x: Tensor, weight: Tensor, maps: Maps) -> Tensor | None:
    """Return the convolution by matrix products if that is faster than PyTorch, else None."""
    rows, columns = ((size + 2 * pad - kernel) // step + 1 for size, kernel, step, pad in maps)
    if x.shape[2] * x.shape[3] <= LARGEST_IN and min(rows, columns) > 0 and rows * columns <= LARGEST_OUT:
        return _as_product(x, weight, maps).view(len(x), len(weight), rows, columns)
    if winograd.suits(x, weight, maps):
        return winograd.convolve(x, prepared("factors", winograd.factors_of, weight))
    return None


def _on_cpu(images: Tensor) -> bool:
    return images.device.type == "cpu" and images.layout == torch.strided and images.ndim == 4


def _pair(value: Any) -> tuple[int, ...]:  # noqa: ANN401
    return (value, value) if isinstance(value, int) else tuple(value) * (3 - len(value))


def _layout(*tensors: Tensor) -> torch.memory_format:
    """Return the layout that ``torch.conv2d`` gives its result."""
    last = torch.channels_last
    found = any(t.is_contiguous(memory_format=last) and not t.is_contiguous() for t in tensors)
    return last if found else torch.contiguous_format


def _as_product(x: Tensor, weight: Tensor, maps: Maps) -> Tensor:
    """Return the convolution of ``x`` [B, C, H, W] with ``weight`` [O, C, K, L] as [B, O, P], P output pixels."""
    pixels = x.permute(0, 2, 3, 1).flatten(1, 2)  # [B, H * W, C]
    taps, whole = _taps(maps)
    if whole:  # every output pixel sees the whole map: a linear layer, with fewer products than taps
        layer = prepared(maps, partial(_layer, taps=taps), weight)
        return (pixels.flatten(1) @ layer.t()).view(len(x), len(weight), len(taps))
    seen = torch.from_numpy(_seen(maps))
    kernel = prepared("kernel", _kernel, weight).flatten(1)
    patches = F.pad(pixels, (0, 0, 0, 1)).index_select(1, seen.flatten()).view(-1, kernel.shape[1])
    return (patches @ kernel.t()).view(len(x), len(seen), len(weight)).transpose(1, 2)


def _kernel(weight: Tensor) -> Tensor:
    """Return a weight [O, C, K, L] as [O, K * L, C]."""
    return weight.permute(0, 2, 3, 1).flatten(1, 2)


def _layer(weight: Tensor, taps: Table) -> Tensor:
    """Return a linear layer's weight, [O * P, H * W * C], from the tap of each output pixel on each input pixel."""
    return _kernel(weight).index_select(1, torch.from_numpy(taps).flatten()).view(len(weight) * len(taps), -1)


@lru_cache
def _taps(maps: Maps) -> tuple[Table, bool]:
    """Return which tap of the kernel each output pixel has on each input pixel, [P, H * W], and if all have one.

    -1 is none. NumPy, since a cached tensor would remember the mode and the device of the first call.
    """
    rows, columns = (_offsets(*side) for side in maps)
    taps = rows[:, None, :, None] * maps[1][1] + columns[None, :, None, :]
    taps[(rows < 0)[:, None, :, None] | (columns < 0)[None, :, None, :]] = -1
    taps = taps.reshape(len(rows) * len(columns), -1)
    return taps, bool(taps.min() >= 0)


def _offsets(size: int, kernel: int, step: int, pad: int) -> Table:
    """Return the same along one side, [output pixels, input pixels]."""
    starts = np.arange(0, size + 2 * pad - kernel + 1, step) - pad
    taps = np.arange(size) - starts[:, None]
    return np.where((taps >= 0) & (taps < kernel), taps, -1)


@lru_cache
def _seen(maps: Maps) -> Table:
    """Return which input pixel each output pixel sees at each tap, [P, K * L]; H * W is padding."""
    (height, rows, *_), (width, columns, *_) = maps
    taps, _ = _taps(maps)
    seen = np.full((len(taps), rows * columns), height * width)
    output, pixel = np.nonzero(taps >= 0)
    seen[output, taps[output, pixel]] = pixel
    return seen


def normalise(
    input: Tensor,  # noqa: A002 (torch's name)
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Return ``F.batch_norm`` of the same arguments; on the CPU in eval mode with second derivatives of our own.

    Only where the weight takes part in derivatives, since first ones alone are slower in our way.
    """
    wanted = torch.is_grad_enabled() and weight is not None and weight.requires_grad
    ours = wanted and not training and _on_cpu(input) and len(input) > 0  # without rows the native pass is a crash
    if not ours or any(t is None or t.shape != input.shape[1:2] for t in (running_mean, running_var, weight, bias)):
        return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    out: Tensor = _Normalise.apply(input, weight, bias, running_mean, running_var, eps)
    return out


class _Normalise(torch.autograd.Function):
    """Batch norm with fixed statistics."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, eps: float) -> Tensor:
        """Return ``(x - mean) / sqrt(var + eps) * weight + bias``, channel by channel."""
        out: Tensor = torch.native_batch_norm(x, weight, bias, mean, var, False, 0.0, eps)[0]
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ANN401
        """Keep what the derivatives need."""
        x, weight, _, mean, var, ctx.eps = inputs
        ctx.save_for_backward(x, weight, mean, var)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        """Return the gradients with respect to image, weight and bias."""
        return (*_NormaliseBackward.apply(grad, *ctx.saved_tensors, ctx.eps), None, None, None)


class _NormaliseBackward(torch.autograd.Function):
    """The gradients of :class:`_Normalise`, differentiable in turn."""

    @staticmethod
    def forward(
        grad: Tensor, x: Tensor, weight: Tensor, mean: Tensor, var: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradients with respect to image, weight and bias."""
        backward = torch.ops.aten.native_batch_norm_backward
        out: tuple[Tensor, Tensor, Tensor] = backward(
            grad, x, weight, mean, var, None, None, False, eps, [True, True, True]
        )
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ANN401
        """Keep everything: the gradients are linear in each of the first three."""
        *tensors, ctx.eps = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, image: Tensor, by_weight: Tensor, by_bias: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        """Return what a change of the gradients, in the direction given, asks of output gradient, image and weight."""
        grad, x, weight, mean, var = ctx.saved_tensors
        image = image.contiguous(memory_format=_layout(x))  # mixed layouts are slow
        scale = (weight * torch.rsqrt(var + ctx.eps))[:, None, None]
        to_grad = torch.native_batch_norm(x, by_weight, by_bias, mean, var, False, 0.0, ctx.eps)[0]
        to_x, to_weight, _ = torch.ops.aten.native_batch_norm_backward(
            grad, image, by_weight, torch.zeros_like(mean), var, None, None, False, ctx.eps, [True, True, False]
        )  # a product with (by_weight * rate), and the sum of grad * image * rate
        return to_grad.addcmul_(image, scale), to_x, to_weight, None, None, None


OURS: dict[Callable[..., Any], Callable[..., Tensor]] = {torch.conv2d: convolve, F.batch_norm: normalise}
