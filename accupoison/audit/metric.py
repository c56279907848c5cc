"""Metric attacks: a number per sample from the model's answer alone, and a threshold set on other samples."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import xlog1py, xlogy

from accupoison.errors import InputError

Floats = NDArray[np.float64]
TINY = float(np.finfo(np.float64).tiny)
"""Probabilities are kept this far from 0 inside logarithms, so that scores stay finite and keep their order."""


def scores(probs: ArrayLike, labels: ArrayLike) -> dict[str, Floats]:
    """Return the scores of the metric attacks, higher for likelier members.

    Args:
        probs: Probabilities [N, C] in [0, 1], each row summing to 1.
        labels: The true classes, integers [N].

    Returns:
        Arrays float64 [N] by name: ``correctness`` (1 where the largest probability is the true class's; Yeom et al.,
        CSF 2018), ``confidence`` p_y, ``max_confidence`` (Salem et al., NDSS 2019), ``loss`` log p_y, ``entropy``
        sum p log p, and ``modified_entropy`` (1 - p_y) log p_y + sum over i != y of p_i log(1 - p_i) (Song and Mittal,
        USENIX Security 2021, Eq. 3), the signs turned where necessary.

    Raises:
        InputError: Shapes, labels or values are not as above.
    """
    p, y = checked(probs, labels)
    true = p[np.arange(len(p)), y]
    others = xlog1py(p, -np.minimum(p, 1 - np.finfo(np.float64).epsneg))
    others[np.arange(len(p)), y] = 0
    return {
        "correctness": (p.argmax(axis=1) == y).astype(np.float64),
        "confidence": true,
        "max_confidence": p.max(axis=1),
        "loss": np.log(np.maximum(true, TINY)),
        "entropy": xlogy(p, p).sum(axis=1),
        "modified_entropy": (1 - true) * np.log(np.maximum(true, TINY)) + others.sum(axis=1),
    }


def logit_scores(logits: ArrayLike, labels: ArrayLike) -> dict[str, Floats]:
    """Return the scores that need logits, higher for likelier members.

    Args:
        logits: Logits [N, C].
        labels: The true classes, integers [N].

    Returns:
        Arrays float64 [N] by name: ``logit`` z_y - logsumexp of the others, which is log(p_y / (1 - p_y)) without
        cancellation (Carlini et al., S&P 2022, Section IV); ``hinge`` z_y - the largest other; ``gap`` p_y - the
        largest other probability.

    Raises:
        InputError: Shapes, labels or values are not as above.
    """
    z, y = _checked_rows(logits, labels, "logits")
    if z.shape[1] < 2:
        raise InputError("logits of a single class cannot be scored; give [N, C] with C of 2 or more")
    rows = np.arange(len(z))
    true, rest = z[rows, y], z.copy()
    rest[rows, y] = -np.inf
    highest = rest.max(axis=1)
    spread = np.exp(rest - highest[:, None]).sum(axis=1)
    top = np.maximum(true, highest)
    scale = np.exp(z - top[:, None]).sum(axis=1)
    return {
        "logit": true - highest - np.log(spread),
        "hinge": true - highest,
        "gap": (np.exp(true - top) - np.exp(highest - top)) / scale,
    }


def all_scores(probs: ArrayLike, labels: ArrayLike) -> dict[str, Floats]:
    """Return :func:`scores` together with :func:`logit_scores` of the log-probabilities.

    Args:
        probs: Probabilities [N, C] in [0, 1], each row summing to 1.
        labels: The true classes, integers [N].

    Returns:
        Arrays float64 [N] by name, higher for likelier members.

    Raises:
        InputError: Shapes, labels or values are not as above.
    """
    p, _ = checked(probs, labels)
    return scores(probs, labels) | logit_scores(np.log(np.maximum(p, TINY)), labels)


def thresholds(
    score: ArrayLike, labels: ArrayLike, member: ArrayLike, *, per_class: bool = True
) -> tuple[float, Mapping[int, float]]:
    """Return the threshold most accurate on these samples (balanced), for all of them and for each class.

    A sample is taken for a member where its score is at least the threshold; candidates are the scores themselves, and
    of equally good ones the largest is taken. A class without members or without others here has no threshold of its
    own (Song and Mittal 2021, Section 4.1). Costs O(n log n).

    Args:
        score: Scores [N], higher for likelier members.
        labels: The true classes, integers [N].
        member: Membership, bool [N].
        per_class: Also return the thresholds of the classes; else the mapping is empty.

    Returns:
        The common threshold, and those of the classes by label.

    Raises:
        InputError: Lengths differ, or there are no members or no others.
    """
    s, y, m = _aligned(score, labels, member)
    own: dict[int, float] = {}
    for label in np.unique(y) if per_class else ():
        rows = y == label
        if m[rows].any() and not m[rows].all():
            own[int(label)] = _best(s[rows], m[rows])
    return _best(s, m), own


def predict(score: ArrayLike, labels: ArrayLike, threshold: float, by_class: Mapping[int, float]) -> NDArray[np.bool_]:
    """Return which samples are taken for members.

    Args:
        score: Scores [N], higher for likelier members.
        labels: The true classes, integers [N].
        threshold: For all samples; see :func:`thresholds`.
        by_class: For the classes that have one of their own.

    Returns:
        Where the score is at least the threshold, bool [N].
    """
    y = np.asarray(labels)
    bounds = np.full(y.shape, threshold)
    for label, own in by_class.items():
        bounds[y == label] = own
    return np.asarray(score) >= bounds


def balanced_accuracy(predicted: ArrayLike, member: ArrayLike) -> float:
    """Return the mean of the true positive and the true negative rate, in [0, 1].

    Args:
        predicted: Samples taken for members, bool [N].
        member: Membership, bool [N], of both kinds.
    """
    p, m = np.asarray(predicted, dtype=bool), np.asarray(member, dtype=bool)
    return 0.5 * (float(p[m].mean()) + float((~p[~m]).mean()))


def thresholded_accuracy(
    score: ArrayLike,
    labels: ArrayLike,
    member: ArrayLike,
    shadow_score: ArrayLike,
    shadow_labels: ArrayLike,
    shadow_member: ArrayLike,
    *,
    per_class: bool = True,
) -> float:
    """Return the balanced accuracy of an attack whose thresholds were set on a shadow model's samples.

    Args:
        score: Scores of the target's samples [N], higher for likelier members.
        labels: Their classes, integers [N].
        member: Their membership, bool [N].
        shadow_score: Scores of the shadow's samples [S].
        shadow_labels: Their classes [S].
        shadow_member: Their membership [S].
        per_class: One threshold a class instead of one for all.

    Returns:
        A number in [0, 1].

    Raises:
        InputError: Lengths differ, or members or others are missing on either side.
    """
    s, y, m = _aligned(score, labels, member)
    common, own = thresholds(shadow_score, shadow_labels, shadow_member, per_class=per_class)
    return balanced_accuracy(predict(s, y, common, own), m)


def checked(probs: ArrayLike, labels: ArrayLike) -> tuple[Floats, NDArray[np.int64]]:
    """Return probabilities as float64 [N, C] and labels as int64 [N].

    Args:
        probs: Probabilities [N, C] in [0, 1], each row summing to 1.
        labels: The true classes, integers [N].

    Raises:
        InputError: Shapes, labels or values are not those of probabilities and classes.
    """
    p, y = _checked_rows(probs, labels, "probs")
    if len(p) and (p.min() < 0 or p.max() > 1 + 1e-6):
        raise InputError(f"probs range from {p.min():g} to {p.max():g}; give probabilities in [0, 1], after softmax")
    total = p.sum(axis=1)
    worst = int(np.abs(total - 1).argmax())
    if abs(total[worst] - 1) > 1e-3:
        raise InputError(f"row {worst} of probs sums to {total[worst]:g}; give probabilities that sum to 1")
    return p, y


def _checked_rows(values: ArrayLike, labels: ArrayLike, what: str) -> tuple[Floats, NDArray[np.int64]]:
    v, y = np.asarray(values), np.asarray(labels)
    if v.dtype.kind not in "biuf":
        raise InputError(f"{what} have dtype {v.dtype}; give numbers")
    with np.errstate(over="ignore"):  # of long doubles, which are then not finite
        v = v.astype(np.float64, copy=False)
    if v.ndim != 2 or y.shape != v.shape[:1] or len(v) == 0:
        raise InputError(
            f"{what} {list(v.shape)} and labels {list(y.shape)} do not fit; give [N, C] and [N], N above 0"
        )
    if y.dtype.kind not in "iu":
        raise InputError(f"labels have dtype {y.dtype}; give integers")
    if not np.isfinite(v).all():
        raise InputError(f"{what} hold values that are not finite; leave those rows out")
    if y.min() < 0 or y.max() >= v.shape[1]:
        raise InputError(f"labels range from {y.min()} to {y.max()} and {what} have {v.shape[1]} classes")
    return v, y.astype(np.int64)


def _aligned(
    score: ArrayLike, labels: ArrayLike, member: ArrayLike
) -> tuple[Floats, NDArray[np.int64], NDArray[np.bool_]]:
    s, y, m = np.asarray(score, dtype=np.float64), np.asarray(labels), np.asarray(member, dtype=bool)
    if s.ndim != 1 or not s.shape == y.shape == m.shape:
        raise InputError(f"{s.shape} scores, {y.shape} labels and {m.shape} memberships do not line up; give [N] each")
    check_members(m)
    return s, y.astype(np.int64), m


def check_members(member: NDArray[np.bool_]) -> None:
    """Raise InputError unless some of the samples are members and some are not, bool [N]."""
    if member.all() or not member.any():
        raise InputError(f"{int(member.sum())} of {len(member)} samples are members; both kinds are needed")


def _best(score: Floats, member: NDArray[np.bool_]) -> float:
    order = np.argsort(-score, kind="stable")
    s, m = score[order], member[order]
    last = np.append(s[1:] != s[:-1], True)  # a threshold takes all samples of equal score
    gain = (np.cumsum(m) * (~m).sum() - np.cumsum(~m) * m.sum())[last]  # in whole numbers, so that ties are ties
    return float(s[last][np.argmax(gain)])
