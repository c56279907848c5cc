"""Which samples the models of an audit give away, one by one and by class."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from accupoison.audit.samples import EXPOSED, LEAST

FEWEST = 4
"""So many models must have a sample, and so many lack it, for an exposure."""


def exposure(phi: NDArray[np.float64], keep: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return how far apart each sample's signals lie with and without it in training, in standard deviations.

    The distance of the means over the root mean of the variances, as the privacy score of Carlini et al. (NeurIPS 2022,
    "The privacy onion effect"); an attacker with perfect shadows has AUC Phi(d / sqrt 2) on a sample with distance d.

    Args:
        phi: Signals [M, N] of M models.
        keep: Which samples each model was trained with, bool [M, N].

    Returns:
        Distances [N]; NaN where fewer than ``FEWEST`` models have the sample, or lack it: a deviation from two or three
        signals is often almost zero, and the list of the most exposed would be theirs.
    """
    parts = []
    for chosen in (keep, ~keep):
        count = chosen.sum(axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = (phi * chosen).sum(axis=0) / count
            variance = ((phi - mean) ** 2 * chosen).sum(axis=0) / (count - 1)
        parts.append((mean, np.where(count >= FEWEST, variance, np.nan)))
    (inside, spread_in), (outside, spread_out) = parts
    return (inside - outside) / np.sqrt(np.maximum((spread_in + spread_out) / 2, 1e-12))  # type: ignore[no-any-return]


def exposed(
    phi: NDArray[np.float64], keep: NDArray[np.bool_], ids: NDArray[np.int64], labels: NDArray[np.int64]
) -> dict[str, Any]:
    """Return the samples that the models give away most, and each class's mean exposure and AUC of the signal.

    Args:
        phi: Signals [M, N] of M models.
        keep: Which samples each model was trained with, bool [M, N].
        ids: Names of the samples [N].
        labels: Their classes [N].
    """
    from sklearn.metrics import roc_auc_score  # here, because it takes a second to load

    distance = exposure(phi, keep)
    order = np.argsort(-np.nan_to_num(distance, nan=-np.inf), kind="stable")[:EXPOSED]
    most = [
        {"id": int(ids[i]), "class": int(labels[i]), "exposure": float(distance[i])}
        for i in order
        if np.isfinite(distance[i])
    ]
    classes = {}
    for label in np.unique(labels):
        rows = labels == label
        member = keep[:, rows]
        known = distance[rows][np.isfinite(distance[rows])]
        enough = min(member.sum(axis=1).min(), (~member).sum(axis=1).min()) >= LEAST
        classes[int(label)] = {
            "samples": int(rows.sum()),
            "exposure": float(known.mean()) if len(known) else None,
            "auc": float(np.mean([roc_auc_score(k, p) for k, p in zip(member, phi[:, rows], strict=True)]))
            if enough
            else None,
        }
    return {"most_exposed": most, "by_class": classes}
