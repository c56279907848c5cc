"""What a membership attack achieves, with its uncertainty."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from accupoison.audit.metric import check_members
from accupoison.errors import InputError

LEVELS = (0.1, 0.01, 0.001)
"""False positive rates at which the true positive rate is reported."""
PRIORS = (0.5, 0.1, 0.01)
"""Shares of members in the population for which the positive predictive value is reported."""
CONFIDENCE = 0.95

Interval = tuple[float, float]


@dataclass(frozen=True)
class RocSummary:
    """How well a score tells members from others.

    Attributes:
        auc: Area under the ROC curve.
        oracle_balanced_accuracy: Balanced accuracy at the best threshold *of these samples*: an upper bound, not what
            an attacker gets.
        tpr_at_fpr: True positive rate at the last threshold whose false positive rate is below the level, by level;
            None where it is withheld.
        intervals: 95% intervals: ``auc`` (DeLong et al. 1988) and ``tpr@LEVEL`` (Clopper-Pearson).
        withheld: Why a level has no value, by level.
        members: Number of members.
        others: Number of others.
    """

    auc: float
    oracle_balanced_accuracy: float
    tpr_at_fpr: dict[float, float | None]
    intervals: dict[str, Interval]
    withheld: dict[float, str]
    members: int
    others: int


def roc_summary(
    score: ArrayLike, member: ArrayLike, *, levels: Sequence[float] = LEVELS, withhold: bool = True
) -> RocSummary:
    """Return the summary of a score's ROC curve.

    Args:
        score: Scores [N], higher for likelier members.
        member: Membership, bool [N].
        levels: False positive rates for ``tpr_at_fpr``.
        withhold: Give no true positive rate at a level of which fewer than ten others may be false positives: it would
            rest on a handful of samples.

    Raises:
        InputError: Lengths differ, a score is NaN, or there are no members or no others.
    """
    from scipy.stats import rankdata  # here, as both take seconds to load
    from sklearn.metrics import roc_curve

    s, m = np.asarray(score, dtype=np.float64), np.asarray(member, dtype=bool)
    if s.shape != m.shape or s.ndim != 1:
        raise InputError(f"{list(s.shape)} scores and {list(m.shape)} memberships do not line up; give [N] each")
    if np.isnan(s).any():
        raise InputError(f"{int(np.isnan(s).sum())} of {len(s)} scores are NaN; leave those samples out")
    check_members(m)
    positives, negatives = int(m.sum()), int((~m).sum())
    fpr, tpr, _ = roc_curve(m, rankdata(s), drop_intermediate=False)  # ranks, as scores may be infinite
    auc, interval = auc_of(s, m)
    tpr_at_fpr: dict[float, float | None] = {}
    intervals = {"auc": interval}
    withheld = {}
    for level in levels:
        if withhold and too_few(negatives, level):
            tpr_at_fpr[level] = None
            withheld[level] = f"{negatives} non-members are fewer than {10 / level:.0f}"
            continue
        rate = float(tpr[fpr < level].max(initial=0.0))
        tpr_at_fpr[level] = rate
        intervals[f"tpr@{level:g}"] = clopper_pearson(round(rate * positives), positives)
    best = float((0.5 * (tpr + 1 - fpr)).max())
    return RocSummary(auc, best, tpr_at_fpr, intervals, withheld, positives, negatives)


def too_few(others: int, level: float) -> bool:
    """Return whether fewer than ten of the non-members may be false positives at a rate of ``level``."""
    return others * level < 10 * (1 - 1e-9)


def clopper_pearson(hits: int, trials: int, confidence: float = CONFIDENCE, alternative: str = "two-sided") -> Interval:
    """Return the exact interval of a proportion (Clopper and Pearson 1934).

    Args:
        hits: Successes, in [0, trials].
        trials: At least 1.
        confidence: Of the interval, in (0, 1).
        alternative: "two-sided"; or "greater" or "less", with the bound from below or above alone.

    Returns:
        Both ends, in [0, 1].
    """
    from scipy.special import betaincinv  # a hundred times faster than scipy.stats.binomtest, which searches

    tail = (1 - confidence) / (2 if alternative == "two-sided" else 1)
    low = 0.0 if hits == 0 or alternative == "less" else betaincinv(hits, trials - hits + 1, tail)
    high = 1.0 if hits == trials or alternative == "greater" else 1 - betaincinv(trials - hits, hits + 1, tail)
    return float(low), float(high)


def predictive_value(tpr: float, fpr: float, prior: float) -> float:
    """Return the positive predictive value: the share of members among the samples taken for members.

    Args:
        tpr: True positive rate of the attack, in [0, 1].
        fpr: Its false positive rate, in [0, 1].
        prior: Share of members in the population, in [0, 1].

    Returns:
        A number in [0, 1], by Bayes' rule; NaN if no sample is taken for a member.
    """
    predicted = prior * tpr + (1 - prior) * fpr
    return prior * tpr / predicted if predicted > 0 else float("nan")


def epsilon_lower_bound(
    predicted: ArrayLike, member: ArrayLike, *, delta: float = 0.0, confidence: float = CONFIDENCE
) -> float:
    """Return a lower bound on the epsilon of (epsilon, delta) differential privacy that the attack disproves.

    From the hypothesis-testing bound TPR <= exp(epsilon) FPR + delta and its mirror image (Kairouz et al., ICML 2015),
    with Clopper-Pearson bounds on both rates that hold jointly (Jagielski et al., NeurIPS 2020, Section 3). The
    decision must have been fixed on other samples.

    Args:
        predicted: Samples taken for members, bool [N].
        member: Membership, bool [N].
        delta: In [0, 1).
        confidence: Of the bound, in (0, 1).

    Returns:
        A number of at least 0.
    """
    p, m = np.asarray(predicted, dtype=bool), np.asarray(member, dtype=bool)
    each = 1 - (1 - confidence) / 2
    bounds = []
    for answer, right, wrong in ((p, m, ~m), (~p, ~m, m)):
        low, _ = clopper_pearson(int(answer[right].sum()), int(right.sum()), each, "greater")
        _, high = clopper_pearson(int(answer[wrong].sum()), int(wrong.sum()), each, "less")
        if low > delta and high > 0:
            bounds.append(float(np.log((low - delta) / high)))
    return max([0.0, *bounds])


def auc_of(score: ArrayLike, member: NDArray[np.bool_]) -> tuple[float, Interval]:
    """Return the AUC and its 95% interval (DeLong et al. 1988), from mid-ranks (Sun and Xu 2014) in O(n log n).

    Args:
        score: Scores [N], higher for likelier members.
        member: Membership, bool [N], of both kinds.
    """
    from scipy.stats import norm, rankdata  # here, as it takes seconds to load

    ranks = rankdata(score)  # infinite scores have ranks, which is all that a ROC curve needs
    m, n = int(member.sum()), int((~member).sum())
    above = (ranks[member] - rankdata(ranks[member])) / n  # share of the others below each member
    below = 1 - (ranks[~member] - rankdata(ranks[~member])) / m
    auc = float(above.mean())
    if min(m, n) < 2:
        return auc, (0.0, 1.0)
    half = float(norm.ppf(0.5 + CONFIDENCE / 2) * np.sqrt(above.var(ddof=1) / m + below.var(ddof=1) / n))
    return auc, (max(0.0, auc - half), min(1.0, auc + half))
