"""Ids of samples that an attacker makes."""

import torch
from torch import Tensor

FABRICATED = ("copy", "collision", "own", "twin")
"""What samples of an attacker's own can be: copies of one, crafted from one, one of its images, noise made of one."""
FIRST_FABRICATED = 2**48
COPIES, SOURCES = 2**12, 2**32


def fabricated_id(kind: str, sources: Tensor, copies: Tensor | int = 0) -> Tensor:
    """Return the ids of samples that an attacker makes, int64 [N]: negative, and the same wherever they are made.

    Args:
        kind: Of :data:`FABRICATED`.
        sources: The ids of what they are made from, int64 [N], below 2**32.
        copies: Tell those of one source apart, int64 [N], below 4,096.
    """
    return -FIRST_FABRICATED - ((FABRICATED.index(kind) * COPIES + copies) * SOURCES + sources)


def source_ids(ids: Tensor) -> Tensor:
    """Return what the samples ``ids``, int64 [N], were made from; those not of :func:`fabricated_id` stay."""
    return torch.where(ids <= -FIRST_FABRICATED, (-ids - FIRST_FABRICATED) % SOURCES, ids)
