"""Two layers that PyTorch's CPU kernels take several times too long for, computed in another way.

A convolution of a map of a few pixels: most taps of a 3x3 kernel meet padding on a 2x2 map, and oneDNN multiplies by
the zeros all the same, a few rows at a time. And the second derivative of batch norm in eval mode, which autograd puts
together from some twenty passes over the map. ``benchmarks/alternatives.py`` times both beside PyTorch's own.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.overrides import TorchFunctionMode

LARGEST_IN, LARGEST_OUT = 16, 4
"""Pixels of the maps that count as small: on 4x4 outputs oneDNN is as fast."""
Maps = tuple[tuple[int, int, int, int], ...]
"""Of both sides of an image: size of the map, size of the kernel, stride and padding."""


class Kernels(TorchFunctionMode):
    """Within this context ``torch.conv2d`` and ``F.batch_norm`` are :func:`convolve` and :func:`normalise`.

    A context and not layers of our own, so that models of other packages gain too and Opacus still meets ``nn.Conv2d``.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """Call ``func``, or what stands for it."""
        if func is torch.conv2d:
            func = convolve
        elif func is F.batch_norm:
            func = normalise
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
    """Return ``torch.conv2d`` of the same arguments; small maps on the CPU as a matrix product."""
    plain = groups == 1 and _pair(dilation) == (1, 1) and input.ndim == 4 and not isinstance(padding, str)
    if plain and input.device.type == "cpu" and input.shape[2] * input.shape[3] <= LARGEST_IN:
        maps = tuple(zip(input.shape[2:], weight.shape[2:], _pair(stride), _pair(padding), strict=True))
        rows, columns = ((size + 2 * pad - kernel) // step + 1 for size, kernel, step, pad in maps)
        if min(rows, columns) > 0 and rows * columns <= LARGEST_OUT:
            out = _as_product(input, weight, maps).view(len(input), len(weight), rows, columns)
            return out if bias is None else out + bias[:, None, None]
    return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)


def _pair(value: Any) -> tuple[int, ...]:  # noqa: ANN401
    return (value, value) if isinstance(value, int) else tuple(value) * (3 - len(value))


def _as_product(x: Tensor, weight: Tensor, maps: Maps) -> Tensor:
    """Return the convolution of ``x`` [B, C, H, W] with ``weight`` [O, C, K, L] as [B, O, P], P output pixels."""
    pixels = x.permute(0, 2, 3, 1).flatten(1, 2)  # [B, H * W, C]
    kernel = weight.permute(0, 2, 3, 1).flatten(1, 2)  # [O, K * L, C]
    taps = _taps(maps)
    if taps.min() >= 0:  # every output pixel sees the whole map: a linear layer, with fewer products than taps
        layer = kernel.index_select(1, taps.flatten()).view(len(weight) * len(taps), -1)
        return (pixels.flatten(1) @ layer.t()).view(len(x), len(weight), -1)
    seen = _seen(maps)
    patches = F.pad(pixels, (0, 0, 0, 1)).index_select(1, seen.flatten()).view(len(x) * len(seen), -1)
    return (patches @ kernel.flatten(1).t()).view(len(x), len(seen), -1).transpose(1, 2)


@lru_cache
def _taps(maps: Maps) -> Tensor:
    """Return which tap of the kernel each output pixel has on each input pixel, [P, H * W]; -1 is none."""
    rows, columns = (_offsets(*side) for side in maps)
    taps = rows[:, None, :, None] * maps[1][1] + columns[None, :, None, :]
    taps[(rows < 0)[:, None, :, None] | (columns < 0)[None, :, None, :]] = -1
    return taps.flatten(2).flatten(0, 1)


def _offsets(size: int, kernel: int, step: int, pad: int) -> Tensor:
    """Return the same along one side, [output pixels, input pixels]."""
    starts = torch.arange(0, size + 2 * pad - kernel + 1, step) - pad
    taps = torch.arange(size) - starts[:, None]
    return torch.where(taps < kernel, taps, -1).clamp_min(-1)


@lru_cache
def _seen(maps: Maps) -> Tensor:
    """Return which input pixel each output pixel sees at each tap, [P, K * L]; H * W is padding."""
    (height, rows, *_), (width, columns, *_) = maps
    taps = _taps(maps)
    seen = torch.full((len(taps), rows * columns), height * width)
    output, pixel = torch.nonzero(taps >= 0, as_tuple=True)
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
    """Return ``F.batch_norm`` of the same arguments; on the CPU, where a gradient may be wanted, by :class:`_Scale`."""
    wanted = torch.is_grad_enabled() and not training and input.ndim == 4 and input.device.type == "cpu"
    if not wanted or running_mean is None or running_var is None or weight is None or bias is None:
        return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    scale = weight * torch.rsqrt(running_var + eps)
    out: Tensor = _Scale.apply(input, scale, bias - running_mean * scale)
    return out


class _Scale(torch.autograd.Function):
    """Every channel of [B, C, H, W] times a number [C] plus another."""

    @staticmethod
    def forward(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """Return ``scale * x + shift``."""
        out: Tensor = torch.native_batch_norm(x, scale, shift, *_neutral(scale), False, 0.0, 0.0)[0]
        return out

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ANN401
        """Keep what the derivatives need."""
        ctx.save_for_backward(*inputs[:2])
        ctx.save_for_forward(*inputs[:2])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # noqa: ANN401
        """Return the gradients with respect to all three."""
        grads: tuple[Tensor, Tensor, Tensor] = _ScaleBackward.apply(grad, *ctx.saved_tensors)
        return grads

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:  # noqa: ANN401
        """Return the directional derivative."""
        (x, scale), (of_x, of_scale, of_shift) = ctx.saved_tensors, tangents
        out = torch.zeros_like(x)
        for factor, tangent in ((_spread(scale), of_x), (x, _spread(of_scale)), (1, _spread(of_shift))):
            out = out if tangent is None else out + factor * tangent
        return out


class _ScaleBackward(torch.autograd.Function):
    """The gradients of :class:`_Scale`, differentiable in turn."""

    @staticmethod
    def forward(grad: Tensor, x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradients with respect to image, scale and shift."""
        backward = torch.ops.aten.native_batch_norm_backward
        out: tuple[Tensor, Tensor, Tensor] = backward(
            grad, x, scale, *_neutral(scale), None, None, False, 0.0, [True, True, True]
        )
        return out

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ANN401
        """Keep everything: the form is linear in each of its arguments."""
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *towards: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # noqa: ANN401
        """Return the gradients of the gradients with respect to output gradient, image and scale."""
        (grad, x, scale), (image, by_scale, by_shift) = ctx.saved_tensors, towards
        to_grad = torch.addcmul(torch.addcmul(_spread(by_shift), x, _spread(by_scale)), image, _spread(scale))
        return to_grad, grad * _spread(by_scale), (image * grad).sum((0, 2, 3))


def _neutral(like: Tensor) -> tuple[Tensor, Tensor]:
    """Return running statistics that change nothing."""
    return torch.zeros_like(like), torch.ones_like(like)


def _spread(by_channel: Tensor | None) -> Any:  # noqa: ANN401
    return None if by_channel is None else by_channel[:, None, None]
