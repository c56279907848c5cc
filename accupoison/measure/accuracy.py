"""Accuracy on held-out images, as the model is and after its batch-norm statistics are made afresh."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from accupoison.data import DataSet, Splits
from accupoison.types import ModelView

EVALUATION_BATCH = 400
"""Images at a time on a CPU; ``benchmarks/alternatives.py`` times half as many beside."""
GPU_BATCH, OFTEN = 1000, 8
"""On a GPU, and batches of one model before their pass is worth a recording: many models are looked at once."""
Z = 1.959964
"""Of a 95% interval."""

Transform = Callable[[Tensor, Tensor], Tensor]
"""What happens to images before the model sees them: (images [B, ...], ids [B]) to images."""


@torch.no_grad()
def evaluate(view: ModelView, data: DataSet, ids: Tensor, transform: Transform | None = None) -> tuple[float, float]:
    """Return accuracy in [0, 1] and mean cross-entropy in nats over samples.

    Args:
        view: The model.
        data: The samples.
        ids: Which of them, int64 [N].
        transform: What happens to their images first; None for nothing.
    """
    hits, losses = predict_correct_and_loss(view, data, ids, transform)
    return float(hits.double().mean()), float(losses.double().mean())


@torch.no_grad()
def predict_correct_and_loss(
    view: ModelView, data: DataSet, ids: Tensor, transform: Transform | None = None
) -> tuple[Tensor, Tensor]:
    """Return which samples are told correctly, bool [N], and the cross-entropy of each in nats [N], on the CPU.

    Args:
        view: The model.
        data: The samples.
        ids: Which of them, int64 [N].
        transform: What happens to their images first; None for nothing.
    """
    answer = view.frozen()

    def predict(x: Tensor) -> tuple[Tensor]:
        return (answer(x),)

    hits = []
    losses = []
    for part in torch.split(ids, GPU_BATCH if data.device.type == "cuda" else EVALUATION_BATCH):
        batch = data.batch(part)
        x = batch.x if transform is None else transform(batch.x, part)
        (logits,) = view.recorded("logits", predict, x, after=OFTEN)
        hits.append(logits.argmax(1) == batch.y)
        losses.append(F.cross_entropy(logits, batch.y, reduction="none"))
    return torch.cat(hits).cpu(), torch.cat(losses).cpu()


def monitor(view: ModelView, data: DataSet, splits: Splits) -> dict[str, float]:
    """Return accuracy on the monitor images, stratified by class, with its 95% interval, by tag.

    Args:
        view: The model.
        data: The samples.
        splits: Their parts; classes are weighted as in ``test``.
    """
    hits, _ = predict_correct_and_loss(view, data, splits.monitor)
    labels, population = (data.labels(ids).cpu() for ids in (splits.monitor, splits.test))
    accuracy, low, high = stratified(hits, labels, population)
    return {"monitor/acc": accuracy, "monitor/acc_low": low, "monitor/acc_high": high}


def stratified(hits: Tensor, labels: Tensor, population: Tensor) -> tuple[float, float, float]:
    """Estimate an accuracy from a sample whose classes are weighted as they occur in the population.

    The interval is Wilson's, with the sample size at which a simple sample would be as precise (Korn and Graubard,
    Survey Methodology 1998); classes that the sample lacks have no say.

    Args:
        hits: Which samples are classified correctly, bool [N].
        labels: Their classes, int64 [N].
        population: Classes of the population, int64 [M].

    Returns:
        The estimate and the ends of its 95% interval, in [0, 1].
    """
    classes = int(max(labels.max(), population.max())) + 1
    count = torch.bincount(labels, minlength=classes).double()
    share = torch.bincount(population, minlength=classes).double() * (count > 0)
    if not share.sum():  # no class in common: a simple mean
        share = count
    share, size = share / share.sum(), count.clamp_min(1)
    rate = torch.bincount(labels, weights=hits.double(), minlength=classes) / size
    p = float((share * rate).sum())
    spread = torch.where(count > 1, rate * (1 - rate) / (size - 1).clamp_min(1), torch.full_like(rate, p * (1 - p)))
    variance = float((share**2 * spread).sum())  # a class with a single image says nothing of its own spread
    n = p * (1 - p) / variance if variance > 0 else float(len(hits))
    centre, slack = p + Z**2 / (2 * n), Z * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    return p, max(0.0, (centre - slack) / (1 + Z**2 / n)), min(1.0, (centre + slack) / (1 + Z**2 / n))
