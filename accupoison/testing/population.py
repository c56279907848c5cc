"""Whom an attack may poison in a world of batches."""

from collections.abc import Sequence

import torch
from torch import Tensor

from accupoison.types import Batch, ModelView, Population


def population_of(batches: Sequence[Batch], model: ModelView, *, size: int, num_classes: int) -> Population:
    """Return the population of a stream of the first six batches; the others are asked about as well.

    Args:
        batches: [B, ...] each.
        model: What is opened, whatever the path.
        size: One above the largest id.
        num_classes: Of labels.
    """
    everything = Batch.concat(batches)
    row = {int(i): number for number, i in enumerate(everything.ids)}

    def raw(ids: Tensor) -> Batch:
        return everything.rows(torch.tensor([row[int(i)] for i in ids], dtype=torch.int64))

    return Population(
        steps=tuple(batch.ids for batch in batches[:6]),
        candidates=everything.ids,
        total=sum(len(batch) for batch in batches[:6]),
        size=size,
        num_classes=num_classes,
        labels=lambda ids: raw(ids).y,
        raw=raw,
        model=lambda path: model,
    )
