"""Named random generators, all derived from one seed."""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Generator


def derive(seed: int, *names: str | int) -> int:
    """Return a 63-bit seed that depends on ``seed`` and ``names`` alone."""
    text = "/".join([str(seed), *(str(name) for name in names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: str | int) -> Generator:
    """Return a fresh CPU generator for the purpose that ``names`` spell.

    A purpose always gets the same numbers, whatever was drawn elsewhere, so there is no generator state to save and
    a change of defence leaves the data order as it was.
    """
    return Generator().manual_seed(derive(seed, *names))


@contextmanager
def global_seed(seed: int, *names: str | int, device: torch.device | None = None) -> Iterator[None]:
    """Seed the global generators of torch, NumPy and Python within the context, and put them back afterwards.

    For what cannot be handed a generator: the random numbers that a network draws itself, such as those of dropout.

    Args:
        seed: The seed.
        names: The purpose; see :func:`derive`.
        device: Where the network is, if not on the CPU alone.
    """
    numpy_state, python_state = np.random.get_state(), random.getstate()
    devices = [device] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        number = derive(seed, *names)
        torch.manual_seed(number)
        np.random.seed(number % 2**32)
        random.seed(number)
        try:
            yield
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)
