"""What models are asked about samples: the logit of the true class, for the image and its shifted copies."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from accupoison.audit.metric import logit_scores
from accupoison.data import DataSet
from accupoison.errors import InputError
from accupoison.gradients import frozen
from accupoison.measure.accuracy import EVALUATION_BATCH
from accupoison.types import ModelView

QUERIES = ("plain", "flip", "up", "down", "left", "right")
"""What is asked about a sample: its image, its mirror image, or the image moved by a pixel."""
SHIFTS = {"up": (-1, 2), "down": (1, 2), "left": (-1, 3), "right": (1, 3)}


def check_queries(queries: Sequence[str]) -> None:
    """Raise InputError unless ``queries`` are some of ``QUERIES``, the plain one first."""
    for query in queries:
        if query not in QUERIES:
            raise InputError(f"unknown query {query!r}; choose from {', '.join(QUERIES)}")
    if list(queries[:1]) != ["plain"]:
        raise InputError(f"queries {','.join(queries)!r} must begin with plain, the image itself")


@torch.no_grad()
def signals(view: ModelView, data: DataSet, ids: Tensor, queries: Sequence[str]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the logit of the true class for each query [N, Q] and the plain one's probabilities [N, C], float32."""
    phi, probs, answer = [], [], frozen(view)
    for part in torch.split(ids, EVALUATION_BATCH):
        batch = data.batch(part)
        logits = [answer(_asked(batch.x, query)).cpu().double() for query in queries]
        labels = batch.y.cpu().numpy()
        phi.append(np.stack([logit_scores(z.numpy(), labels)["logit"] for z in logits], axis=1))
        probs.append(logits[0].softmax(dim=1).numpy())
    return np.concatenate(phi).astype(np.float32), np.concatenate(probs).astype(np.float32)


def _asked(x: Tensor, query: str) -> Tensor:
    if query == "plain":
        return x
    if query == "flip":
        return x.flip(-1)
    step, axis = SHIFTS[query]
    moved = x.roll(step, axis)
    moved.narrow(axis, 0 if step > 0 else x.shape[axis] - 1, 1).zero_()
    return moved
