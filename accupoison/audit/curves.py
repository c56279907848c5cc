"""The curves of an audit as numbers, for those who draw them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata
from sklearn.metrics import roc_curve

from accupoison.audit.results import AttackResult, Results
from accupoison.study.outcomes import FEWEST, half_width

FLOOR = 1e-4
"""Where the axes of ROC figures begin."""
POINTS, BINS = 81, 50


def roc_of(result: AttackResult) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the false and the true positive rates of an attack at its thresholds, [K] each, ascending."""
    fpr, tpr, _ = roc_curve(result.samples.member, rankdata(result.score))  # ranks, as scores may be infinite
    return fpr, tpr


def roc_rows(models: Sequence[Results]) -> list[dict[str, str]]:
    """Return each attack's true positive rate at false positive rates that are even on a logarithmic axis.

    Of several models, means; from three on with ``half``, half the width of the 95% t-interval over models.
    """
    rates = np.geomspace(FLOOR, 1, POINTS)
    rows = []
    for name in models[0]:
        curves = [roc_of(model[name]) for model in models]
        reached = np.array([tpr[np.searchsorted(fpr, rates, side="right") - 1] for fpr, tpr in curves]).T
        for rate, found in zip(rates, reached, strict=True):
            half = {"half": f"{half_width(found):.6g}"} if len(models) >= FEWEST else {}
            rows.append({"attack": name, "fpr": f"{rate:.6g}", "tpr": f"{found.mean():.6g}", **half})
    return rows


def score_rows(models: Sequence[Results]) -> list[dict[str, str]]:
    """Return how many members and others of all models have scores in each of fifty bins, by attack.

    The first and the last bin hold what lies beyond them, at most half a percent of the scores each.
    """
    rows = []
    for name in models[0]:
        score = np.concatenate([model[name].score for model in models])
        member = np.concatenate([model[name].samples.member for model in models])
        finite = score[np.isfinite(score)]
        first, last = np.quantile(finite, (0.005, 0.995)) if len(finite) else (0.0, 1.0)
        edges = np.linspace(first, last, BINS + 1) if first < last else np.linspace(first - 0.5, first + 0.5, BINS + 1)
        kept = np.clip(score, edges[0], edges[-1])
        counts = [np.histogram(kept[some], bins=edges)[0] for some in (member, ~member)]
        for low, high, inside, others in zip(edges, edges[1:], *counts, strict=False):
            ends = {"low": f"{low:.6g}", "high": f"{high:.6g}"}
            rows.append({"attack": name, **ends, "members": str(inside), "others": str(others)})
    return rows
