"""How fast this machine multiplies matrices, beside which every other speed is to be read."""

import time
from collections.abc import Callable
from functools import cache
from statistics import median

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

SIDE = 2048


@cache  # it takes as long as training a small model
def ceiling(device: torch.device, repeats: int = 5) -> float:
    """Return the FLOP/s that a float32 product of two ``SIDE`` x ``SIDE`` matrices reaches, by the median time."""
    a = torch.rand(SIDE, SIDE, device=device)

    def multiply() -> None:
        float((a @ a)[0, 0])  # waits for a device that works behind our back

    return 2 * SIDE**3 / median(seconds(multiply, repeats))


def seconds(work: Callable[[], object], repeats: int, *, warm: bool = True) -> list[float]:
    """Return how long each call took, in seconds.

    Args:
        work: What is called.
        repeats: How often.
        warm: Call it once before, uncounted.
    """
    if warm:
        work()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return times


def flops(work: Callable[[], object]) -> int:
    """Return the floating-point operations of the matrix products and convolutions in ``work()``."""
    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


def training_flops(model: nn.Module, x: torch.Tensor) -> float:
    """Return the floating-point operations of one forward and backward pass, by sample of ``x`` [B, ...]."""

    def work() -> None:
        torch.autograd.grad(model(x).sum(), tuple(model.parameters()))

    return flops(work) / len(x)
