"""Convolutions with kernels of 3x3 by fewer products than taps: F(4x4, 3x3) of Lavin and Gray (CVPR 2016, section 4.2).

Sixteen outputs from 36 products in place of 144. Every step is linear and made of PyTorch's matrix products, so
derivatives of any order come out of autograd, and cost as little.
"""

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Matrix = NDArray[np.floating[Any]]
TILE, TAPS, FACTORS = 4, 3, 6
"""Side of a tile of output, of a kernel, and of the products that make a tile."""
CHANNELS, LARGEST, TILES = 128, 64, 100
"""Fewest channels, most pixels of a map and fewest tiles of a batch: beyond, PyTorch can be faster."""
POINTS = (0, 2 / 3, -2 / 3, 3 / 2, -3 / 2)
"""Where the two polynomials are multiplied, beside infinity: c, -c, 1/c and -1/c as Alam et al. have them (ACM TECS
2022), with half the rounding error of the usual 0, 1, -1, 2 and -2.
"""


def suits(x: Tensor, weight: Tensor, maps: tuple[tuple[int, ...], ...]) -> bool:
    """Return whether :func:`convolve` can do a convolution, and in all likelihood faster than PyTorch.

    Args:
        x: Maps [B, C, H, W].
        weight: Kernels [O, C, K, L].
        maps: Of both sides, the map's size and the kernel's, stride and padding.
    """
    whole = all(size % TILE == 0 and rest == [TAPS, 1, 1] for size, *rest in maps)
    pixels = x.shape[2] * x.shape[3]
    worth = pixels <= LARGEST and min(weight.shape[:2]) >= CHANNELS and len(x) * pixels >= TILES * TILE**2
    exact = x.dtype == weight.dtype and x.dtype in (torch.float32, torch.float64)
    return whole and worth and exact and not torch.is_autocast_enabled("cpu")


def factors_of(weight: Tensor) -> Tensor:
    """Return what kernels [O, C, 3, 3] multiply the factors of an image by, [36, C, O]."""
    of_kernel = torch.from_numpy(np.kron(OF_KERNEL, OF_KERNEL)).to(weight.dtype)
    outputs, channels = weight.shape[:2]
    by_tap = weight.permute(2, 3, 1, 0).reshape(TAPS**2, channels * outputs)
    return (of_kernel @ by_tap).view(FACTORS**2, channels, outputs)


def convolve(x: Tensor, factors: Tensor) -> Tensor:
    """Return ``torch.conv2d(x, weight, padding=1)``.

    Args:
        x: Maps [B, C, H, W] whose sides are multiples of four.
        factors: What :func:`factors_of` makes of the weight.
    """
    count, channels, height, width = x.shape
    rows, columns, outputs = height // TILE, width // TILE, factors.shape[2]
    down, across, of_products = (torch.from_numpy(m).to(x.dtype) for m in _matrices(height, width))
    image = down @ x.permute(0, 2, 3, 1).reshape(count, height, width * channels)
    image = across @ image.view(count * rows * FACTORS, width, channels)
    image = image.view(count, rows, FACTORS, columns, FACTORS, channels).permute(2, 4, 0, 1, 3, 5)
    size = count * rows * columns
    products = image.reshape(FACTORS**2, size, channels) @ factors
    out = of_products @ products.view(FACTORS**2, size * outputs)
    out = out.view(TILE, TILE, count, rows, columns, outputs).permute(2, 3, 0, 4, 1, 5)
    return out.reshape(count, height, width, outputs).permute(0, 3, 1, 2)


@lru_cache
def _matrices(height: int, width: int) -> tuple[Matrix, ...]:
    """Return the transforms of the image down and across, and of the products."""
    return _padded(height), _padded(width), np.kron(OF_PRODUCTS, OF_PRODUCTS)


def _padded(size: int) -> Matrix:
    """Return the transform of a side of so many pixels, with its padding, [tiles * factors, pixels]."""
    out = np.zeros((size // TILE, FACTORS, size + 2))
    for tile, rows in enumerate(out):
        rows[:, tile * TILE : tile * TILE + FACTORS] = OF_ROW
    return np.ascontiguousarray(out[:, :, 1:-1]).reshape(-1, size)


def _transforms(points: tuple[float, ...]) -> tuple[Matrix, Matrix, Matrix]:
    """Return what turns a row of six pixels, and one of three taps, into factors, and six products into four outputs.

    By the method of Toom and Cook: factors are values of polynomials, and an output their product's coefficient.
    """
    others = [[q for q in points if q != p] for p in points]
    of_row = [[*np.poly(rest)[::-1], 0] for rest in others] + [np.poly(points)[::-1]]
    of_taps = [np.power(p, range(TAPS)) / np.prod(p - np.array(rest)) for p, rest in zip(points, others, strict=True)]
    of_products = [np.power(p, range(TILE)) for p in points]
    at_infinity = [np.eye(size)[-1] for size in (TAPS, TILE)]
    return np.array(of_row), np.array([*of_taps, at_infinity[0]]), np.array([*of_products, at_infinity[1]]).T


OF_ROW, OF_KERNEL, OF_PRODUCTS = _transforms(POINTS)
