"""Softmax regression with its gradient in closed form, in numpy: no autograd, nothing of the package."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from accupoison.types import Batch

Array = NDArray[np.float64]
SIDE, CHANNELS, CLASSES = 3, 2, 4


def linear_net(seed: int) -> nn.Sequential:
    """Return softmax regression on flattened pixels, float64, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(CHANNELS * SIDE**2, CLASSES)).double().eval()


def images(seed: int, rows: int = 3) -> Batch:
    """Return random images well inside [0, 1], so that only the ball clips."""
    rng = torch.Generator().manual_seed(seed)
    x = 0.3 + 0.4 * torch.rand(rows, CHANNELS, SIDE, SIDE, generator=rng, dtype=torch.float64)
    return Batch(x, torch.randint(CLASSES, (rows,), generator=rng), torch.arange(rows))


def arrays(net: nn.Sequential) -> tuple[Array, Array]:
    """Return weight [C, D] and bias [C]."""
    weight, bias = (p.detach().numpy().copy() for p in net.parameters())
    return weight, bias


def gradient(weight: Array, bias: Array, x: Array, y: Array) -> list[Array]:
    """Return the gradient of the mean cross-entropy: the means of (p - onehot(y)) x^T and of p - onehot(y)."""
    flat = x.reshape(len(x), -1)
    logits = flat @ weight.T + bias
    odds = np.exp(logits - logits.max(1, keepdims=True))
    error = odds / odds.sum(1, keepdims=True) - np.eye(CLASSES)[y]
    return [error.T @ flat / len(x), error.mean(0)]


def units(grads: list[Array]) -> list[Array]:
    """Return each array divided by its norm."""
    return [g / np.sqrt((g**2).sum()) for g in grads]


def dot(a: list[Array], b: list[Array]) -> float:
    """Return the sum of the arrays' inner products."""
    return float(sum((x * y).sum() for x, y in zip(a, b, strict=True)))


def cosine(weight: Array, bias: Array, a: Batch, b: Batch) -> float:
    """Return the sum over weight and bias of the cosine between the gradients at two batches."""
    at = [units(gradient(weight, bias, batch.x.numpy(), batch.y.numpy())) for batch in (a, b)]
    return dot(at[0], at[1])
