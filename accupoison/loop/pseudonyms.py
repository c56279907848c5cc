"""A secret renaming of samples: ids leak, and a defence must not learn who is who."""

import torch
from torch import Tensor

from accupoison.rng import generator


class Pseudonyms:
    """A secret renaming of the ids 0 .. ``size`` - 1 among themselves.

    Ids leak: a defence that sees true ids could know who is poisoned. Negative ids belong to fabricated samples and
    stay as they are.

    Args:
        seed: The run's seed.
        size: How many ids there are.
    """

    def __init__(self, seed: int, size: int) -> None:
        self._names = torch.randperm(size, generator=generator(seed, "pseudonyms"))
        self._ids = torch.argsort(self._names)

    def hide(self, ids: Tensor) -> Tensor:
        """Return the pseudonyms of true ids, int64 [B].

        Raises:
            ValueError: An id is ``size`` or more.
        """
        return self._look_up(self._names, ids)

    def reveal(self, ids: Tensor) -> Tensor:
        """Return the true ids of pseudonyms, int64 [B].

        Raises:
            ValueError: A pseudonym is ``size`` or more.
        """
        return self._look_up(self._ids, ids)

    @staticmethod
    def _look_up(table: Tensor, ids: Tensor) -> Tensor:
        known = ids >= 0
        if (ids >= len(table)).any():
            raise ValueError(f"id {int(ids.max())} is outside 0..{len(table) - 1}")
        names = ids.clone()
        names[known] = table.to(ids.device)[ids[known]]
        return names
