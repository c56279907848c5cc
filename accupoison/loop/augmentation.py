"""Crops and flips of a stream, the same for a step however often it is asked for."""

from dataclasses import dataclass

import torch

from accupoison.data import crop_flip
from accupoison.rng import generator
from accupoison.types import Batch


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Random crops and flips by name.

    Attributes:
        active: False leaves batches as they are.
        seed: Of the run.
        flip: Flip horizontally, too.
    """

    active: bool
    seed: int
    flip: bool

    def __call__(self, batch: Batch, *names: str | int) -> Batch:
        """Return ``batch`` augmented; the same ``names`` give the same crops, row by row."""
        if not self.active:
            return batch
        return batch.with_x(crop_flip(batch.x, rng=generator(self.seed, "augment", *names), flip=self.flip))

    def alike(self, batch: Batch, rows: int, t: int) -> Batch:
        """Return ``batch`` with the crops of a step for its first rows, and for further ones their own.

        Args:
            batch: The batch.
            rows: How many rows are those of the stream's batch.
            t: The step.
        """
        first, own = self(batch.rows(slice(0, rows)), t), batch.rows(slice(rows, None))
        return first if not len(own) else batch.with_x(torch.cat([first.x, self(own, t, "own").x]))
