"""Layers that PyTorch's CPU kernels take several times too long for, computed in another way.

A convolution of a map of a few pixels: most taps of a 3x3 kernel meet padding on a 2x2 map, and oneDNN multiplies by
the zeros all the same, a few rows at a time. One of a somewhat larger map of many channels
(:mod:`accupoison.accel.winograd`). And second derivatives (:mod:`accupoison.accel.double_backward`).
``benchmarks/alternatives.py`` times what gains by them beside PyTorch's own.
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
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from accupoison.accel import winograd
from accupoison.accel.double_backward import Convolve, Normalise, Pool, layout
from accupoison.accel.prepared import prepared

LARGEST_IN, LARGEST_OUT = 16, 4
"""Pixels of the maps that count as small: from 4x4 to 2x2, and below."""
Maps = tuple[tuple[int, int, int, int], ...]
"""Of both sides of an image: size of the map, size of the kernel, stride and padding."""
Table = NDArray[np.int64]


class Kernels(TorchFunctionMode):
    """Within this context layers are our own: :func:`convolve`, :func:`normalise`, :func:`pool` and :func:`attend`.

    A context and not modules of our own, so that models of other packages gain too and Opacus still meets
    ``nn.Conv2d``. Under the transforms of ``torch.func`` and in forward mode PyTorch's own are left in place.

    Args:
        twice: Somebody may differentiate twice; our own second derivatives make first ones alone a little slower.
    """

    def __init__(self, *, twice: bool = True) -> None:
        super().__init__()
        self._ours = OURS if twice else ONCE

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """Call ``func``, or what stands for it."""
        if func in self._ours and not torch._C._are_functorch_transforms_active() and forward_ad._current_level < 0:
            func = self._ours[func]
        return func(*args, **(kwargs or {}))


def convolve(
    input: Tensor,  # noqa: A002 (torch's name)
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, ...] = 1,
    padding: int | tuple[int, ...] | str = 0,
    dilation: int | tuple[int, ...] = 1,
    groups: int = 1,
    *,
    twice: bool = True,
) -> Tensor:
    """Return ``torch.conv2d`` of the same arguments; small maps on the CPU by matrix products.

    Others on the CPU with second derivatives of our own, if ``twice``.
    """
    plain = groups == 1 and _pair(dilation) == (1, 1) and not isinstance(padding, str)
    if plain and _on_cpu(input) and _fits(input, weight, bias) and min(_pair(stride)) > 0:
        maps = tuple(zip(input.shape[2:], weight.shape[2:], _pair(stride), _pair(padding), strict=True))
        out = _by_products(input, weight, maps)
        if out is not None:
            out = out if bias is None else out + bias.to(out.dtype)[:, None, None]
            return out.contiguous(memory_format=layout(input, weight))
        if twice and bias is None and weight.requires_grad and _is_plain(input, weight):
            ours: Tensor = Convolve.apply(input, weight, _pair(stride), _pair(padding))
            return ours
    return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)


def _fits(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Return whether shapes go together; PyTorch says what is wrong with those that do not."""
    return weight.ndim == 4 and x.shape[1] == weight.shape[1] and (bias is None or bias.shape == weight.shape[:1])


def _is_plain(x: Tensor, weight: Tensor) -> bool:
    """Return whether a derivative by the weights is of a type that our own ones are for."""
    exact = x.dtype == weight.dtype and x.dtype in (torch.float32, torch.float64)
    return exact and torch.is_grad_enabled() and len(x) > 0 and not torch.is_autocast_enabled("cpu")


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
    out: Tensor = Normalise.apply(input, weight, bias, running_mean, running_var, eps)
    return out


def pool(
    input: Tensor,  # noqa: A002 (torch's name)
    kernel_size: int | tuple[int, ...],
    stride: int | tuple[int, ...] | None = None,
    padding: int | tuple[int, ...] = 0,
    dilation: int | tuple[int, ...] = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Return ``F.max_pool2d`` of the same arguments; on the CPU with second derivatives of our own."""
    if return_indices or not (torch.is_grad_enabled() and input.requires_grad and _on_cpu(input)):
        return F.max_pool2d(input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)  # type: ignore[call-overload, no-any-return]
    step = kernel_size if stride is None else stride
    out: Tensor = Pool.apply(input, (*map(_pair, (kernel_size, step, padding, dilation)), ceil_mode))[0]
    return out


def attend(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
    """Return attention by PyTorch's plain kernel: its fused ones have no second derivatives."""
    with sdpa_kernel(SDPBackend.MATH):
        return function(*args, **kwargs)


ONCE: dict[Callable[..., Any], Callable[..., Any]] = {torch.conv2d: partial(convolve, twice=False)}
OURS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.conv2d: convolve,
    F.batch_norm: normalise,
    F.max_pool2d: pool,
    F.scaled_dot_product_attention: partial(attend, F.scaled_dot_product_attention),
    F.multi_head_attention_forward: partial(attend, F.multi_head_attention_forward),
}
