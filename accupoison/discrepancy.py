"""Memorization discrepancy: how far the live model's answer has moved from the early model's."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from accupoison.types import ModelView


def divergence(reference: Tensor, logits: Tensor) -> Tensor:
    """Return KL(softmax reference || softmax logits) of each row, [B], from two tensors of logits [B, classes]."""
    early, late = F.log_softmax(reference, dim=1), F.log_softmax(logits, dim=1)
    return (early.exp() * (early - late)).sum(dim=1)


def memorization_discrepancy(live: ModelView, reference: ModelView, x: Tensor) -> Tensor:
    """Return KL(softmax f_reference(x) || softmax f_live(x)) of each sample (Zhu et al., ICML 2023, Definition 3.1).

    Args:
        live: The model as it is now.
        reference: The early model.
        x: Inputs [B, ...] in [0, 1].

    Returns:
        Discrepancies [B] in nats, at least 0 up to rounding; differentiable in ``x``.
    """
    return divergence(reference.logits(x), live.logits(x))


def frozen_discrepancy(live: ModelView, reference: ModelView) -> Callable[[Tensor], Tensor]:
    """Return :func:`memorization_discrepancy` of inputs [B, ...], [B], with the weights of now, as DSC itself measures.

    The weights need no gradient, so that who differentiates by them does not by these.

    Args:
        live: The model as it is now.
        reference: The early model.
    """
    answer, early = live.frozen(), reference.frozen()
    return lambda x: divergence(early(x), answer(x))


def batch_discrepancy(live: ModelView, reference: ModelView, x: Tensor) -> float:
    """Return the mean of :func:`memorization_discrepancy` over a batch, without a graph.

    Args:
        live: The model as it is now.
        reference: The early model.
        x: Inputs [B, ...] in [0, 1].
    """
    with torch.no_grad():
        return float(memorization_discrepancy(live, reference, x).mean())
