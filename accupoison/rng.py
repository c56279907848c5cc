"""Named random generators, all derived from one seed."""

import hashlib

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
