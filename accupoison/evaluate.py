"""Accuracy on held-out images, as the model is and after its batch-norm statistics are made afresh."""

import copy
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from accupoison.data import DataSet
from accupoison.types import ModelView

CHUNK = 500

Transform = Callable[[Tensor, Tensor], Tensor]
"""What happens to images before the model sees them: (images [B, ...], ids [B]) to images."""


@torch.no_grad()
def evaluate(view: ModelView, data: DataSet, ids: Tensor, transform: Transform | None = None) -> tuple[float, float]:
    """Return accuracy in [0, 1] and mean cross-entropy in nats over the samples ``ids``."""
    correct, loss = 0.0, 0.0
    for part in torch.split(ids, CHUNK):
        batch = data.batch(part)
        logits = view.logits(batch.x if transform is None else transform(batch.x, part))
        correct += float((logits.argmax(1) == batch.y).sum())
        loss += float(F.cross_entropy(logits, batch.y, reduction="sum"))
    return correct / len(ids), loss / len(ids)


@torch.no_grad()
def reestimate_batchnorm(model: nn.Module, batches: Iterable[Tensor]) -> nn.Module:
    """Return a copy whose batch-norm statistics are the averages over ``batches``, weights untouched.

    What a poisoned stream costs in stale statistics alone comes back by this, without labels; what it has done to the
    weights does not. A model without batch norm comes back equal.

    Args:
        model: The network; left as it is.
        batches: Images [B, ...] in [0, 1], each batch weighing the same.

    Raises:
        ValueError: There is not a single image, so there are no statistics.
    """
    copied = copy.deepcopy(model).eval()
    norms = [m for m in copied.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative average
        norm.train()
    if norms:
        batches = [x for x in batches if len(x)]
        if not batches:
            raise ValueError("batch-norm statistics cannot be re-estimated without images")
        for x in batches:
            copied(x)
    return copied.eval()
