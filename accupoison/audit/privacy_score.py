"""Which samples the models of an audit give away, one by one and by class."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

CLASS_MINIMUM = 10
"""A class needs this many members and as many others for an AUC of its own."""
MOST_VULNERABLE = 20
"""How many of the samples likeliest to be recognised are named."""
MODEL_MINIMUM = 4
"""So many models must have a sample, and so many lack it, for a privacy score."""


def privacy_scores(phi: NDArray[np.float64], keep: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return how far apart each sample's signals lie with and without it in training, in standard deviations.

    The distance of the means over the root mean of the variances, as the privacy score of Carlini et al. (NeurIPS 2022,
    "The privacy onion effect"); an attacker with perfect shadows has AUC Phi(d / sqrt 2) on a sample with distance d.

    Args:
        phi: Signals [M, N] of M models.
        keep: Which samples each model was trained with, bool [M, N].

    Returns:
        Distances [N]; NaN where fewer than ``MODEL_MINIMUM`` models have the sample, or lack it: a deviation from two
        or three signals is often almost zero, and the list of the most vulnerable would be theirs.
    """
    parts = []
    for chosen in (keep, ~keep):
        count = chosen.sum(axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = (phi * chosen).sum(axis=0) / count
            variance = ((phi - mean) ** 2 * chosen).sum(axis=0) / (count - 1)
        parts.append((mean, np.where(count >= MODEL_MINIMUM, variance, np.nan)))
    (in_mean, in_variance), (out_mean, out_variance) = parts
    return (in_mean - out_mean) / np.sqrt(np.maximum((in_variance + out_variance) / 2, 1e-12))  # type: ignore[no-any-return]


def privacy_report(
    phi: NDArray[np.float64], keep: NDArray[np.bool_], ids: NDArray[np.int64], labels: NDArray[np.int64]
) -> dict[str, Any]:
    """Return the samples that the models give away most, and each class's mean privacy score and AUC of the signal.

    Args:
        phi: Signals [M, N] of M models.
        keep: Which samples each model was trained with, bool [M, N].
        ids: Names of the samples [N].
        labels: Their classes [N].

    Returns:
        ``most_vulnerable``, a list, and ``by_class``; a class without enough samples or models has None.
    """
    from sklearn.metrics import roc_auc_score  # here, because it takes a second to load

    score = privacy_scores(phi, keep)
    order = np.argsort(-np.nan_to_num(score, nan=-np.inf), kind="stable")[:MOST_VULNERABLE]
    most = [
        {"id": int(ids[i]), "class": int(labels[i]), "privacy_score": float(score[i])}
        for i in order
        if np.isfinite(score[i])
    ]
    by_class = {}
    for label in np.unique(labels):
        rows = labels == label
        member = keep[:, rows]
        known = score[rows][np.isfinite(score[rows])]
        enough = min(member.sum(axis=1).min(), (~member).sum(axis=1).min()) >= CLASS_MINIMUM
        aucs = [roc_auc_score(m, p) for m, p in zip(member, phi[:, rows], strict=True)] if enough else []
        by_class[int(label)] = {
            "samples": int(rows.sum()),
            "privacy_score": float(known.mean()) if len(known) else None,
            "auc": float(np.mean(aucs)) if enough else None,
        }
    return {"most_vulnerable": most, "by_class": by_class}


def per_sample_auc(score: NDArray[np.float64], keep: NDArray[np.bool_]) -> float | None:
    """Return the AUC of telling models with a sample from models without it, the mean over samples, in [0, 1].

    A pooled AUC also profits from samples that are easy or hard for all models; this one does not (arXiv 2605.25819).

    Args:
        score: What an attack says of each sample, for M models, [M, N].
        keep: Which samples each model was trained with, bool [M, N].

    Returns:
        The mean over the samples that ``MODEL_MINIMUM`` models have and as many lack; None where there is none.
    """
    inside, outside = keep.sum(axis=0), (~keep).sum(axis=0)
    known = (inside >= MODEL_MINIMUM) & (outside >= MODEL_MINIMUM)
    if not known.any():
        return None
    ranks = rankdata(score[:, known], axis=0)
    count, rest = inside[known], outside[known]
    wins = (ranks * keep[:, known]).sum(axis=0) - count * (count + 1) / 2
    return float((wins / (count * rest)).mean())
