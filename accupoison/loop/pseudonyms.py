"""A secret renaming of samples: ids leak, and a defence must not learn who is who."""

import torch
from torch import Tensor

from accupoison.data.fabricated import FIRST_FABRICATED
from accupoison.rng import generator

HALF = 26
"""Pseudonyms have twice as many bits."""
MASK, ROUNDS = 2**HALF - 1, 4


class Pseudonyms:
    """A secret one-to-one renaming of samples, true and fabricated, to numbers from 0 that tell nothing of either.

    It is a Feistel network, so there is no table, and an attacker's own sample looks like any other
    (:func:`~accupoison.data.fabricated.fabricated_id`). Other negative ids are rows of a defence; they stay.

    Args:
        seed: The run's seed.
    """

    def __init__(self, seed: int) -> None:
        self._keys = torch.randint(2**HALF, (ROUNDS, 2), generator=generator(seed, "pseudonyms")).tolist()

    def hide(self, ids: Tensor) -> Tensor:
        """Return the pseudonyms of true ids, int64 [B], on their device.

        Raises:
            ValueError: An id has more than 51 bits.
        """
        numbers = torch.where(ids < 0, -2 * ids - 1, 2 * ids)
        if bool((numbers >= 2 ** (2 * HALF)).any()):
            raise ValueError(f"the ids {int(ids.min())} to {int(ids.max())} are outside -2**51 to 2**51 - 1")
        high, low = numbers >> HALF, numbers & MASK
        for key in self._keys:
            high, low = low, high ^ _mixed(low, *key)
        return torch.where(_made_up(ids), ids, (high << HALF) | low)

    def reveal(self, names: Tensor) -> Tensor:
        """Return the true ids of pseudonyms, int64 [B], on their device."""
        high, low = names >> HALF, names & MASK
        for key in reversed(self._keys):
            high, low = low ^ _mixed(high, *key), high
        numbers = (high << HALF) | low
        ids = torch.where(numbers % 2 == 1, -(numbers + 1) // 2, numbers // 2)
        return torch.where(_made_up(names), names, ids)


def _made_up(ids: Tensor) -> Tensor:
    return torch.logical_and(ids < 0, ids > -FIRST_FABRICATED)


def _mixed(half: Tensor, key: int, factor: int) -> Tensor:
    """Return a keyed hash of half a number; products of two halves fit into 64 bits."""
    value: Tensor = ((half ^ key) * (factor | 1)) & MASK
    value = ((value ^ (value >> 13)) * 0x2C1B3C7) & MASK
    return value ^ (value >> 11)
