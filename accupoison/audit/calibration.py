"""Whether rates hold where they are claimed: on the target, on every sample, and from one model to the next."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accupoison.audit.metric import Floats
from accupoison.audit.privacy_score import MODEL_MINIMUM
from accupoison.audit.roc import LEVELS, auc_of, clopper_pearson, too_few

Bools = NDArray[np.bool_]
DECILE_MINIMUM = 10
"""The worst decile needs this many members and as many others for an AUC of its own."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """What an attack says of samples whose membership the attacker knows.

    Attributes:
        score: Scores, float64 [M, S] of M shadow models, higher for likelier members.
        member: Membership, bool [M, S].
        gap: How much higher the shadows' signals of a sample are with it in training than without, [S]; NaN where too
            few shadows have it, or lack it. None without shadow models.
        per_sample: The samples are those of the target in its order, and the scores of models without a sample are
            distributed as the target's would be without it. Not so where models attack each other by fits to each
            sample's signals: a target with the sample is scored by fits to one shadow fewer with it.
    """

    score: Floats
    member: Bools
    gap: Floats | None = None
    per_sample: bool = False


def bar(others: Floats, level: float) -> float:
    """Return the score that non-members exceed at a rate below ``level``: the lowest such score among theirs."""
    allowed = ceil(len(others) * level - 1e-9) - 1
    return float(np.sort(others)[::-1][allowed])


def realised_fpr(calibration: Calibration, score: Floats, member: Bools) -> dict[float, dict[str, Any] | None]:
    """Return which false positive rate a threshold has on the target that has a given one on the calibration samples.

    Args:
        calibration: Whose non-members set the threshold.
        score: Scores of the target's samples [N].
        member: Their membership, bool [N].

    Returns:
        By level: ``calibration``, the rate there (below the level, as ties allow); ``target``, the rate on the target's
        non-members, with its 95% Clopper-Pearson ``interval``; and whether that ``covers`` the former. None where the
        calibration has too few non-members for the level.
    """
    known, others = calibration.score[~calibration.member], score[~member]
    found: dict[float, dict[str, Any] | None] = {}
    for level in LEVELS:
        if too_few(len(known), level):
            found[level] = None
            continue
        threshold = bar(known, level)
        reached, hits = float((known > threshold).mean()), int((others > threshold).sum())
        low, high = clopper_pearson(hits, len(others))
        found[level] = {
            "calibration": reached,
            "target": hits / len(others),
            "interval": (low, high),
            "covers": low <= reached <= high,
        }
    return found


def per_sample_scores(calibration: Calibration, score: Floats) -> Floats | None:
    """Return scores that have the same false positive rate on every sample at any threshold (arXiv 2605.25819).

    A pooled threshold spends its false positives on the samples that score high in every model. Here the score of a
    sample is one minus its p-value among the scores of the n shadows without it, were those normal:
    T_{n-1}((score - mean) / (s sqrt(1 + 1/n))), the Student-t distribution's prediction of one more.

    Args:
        calibration: The shadows' scores of the same samples.
        score: The target's [N].

    Returns:
        Scores [N]; NaN for samples that fewer than ``MODEL_MINIMUM`` shadows lack. None where that is all of them, or
        the calibration says nothing of single samples.
    """
    from scipy.stats import t  # here, as it takes seconds to load

    if not calibration.per_sample:
        return None
    out = ~calibration.member
    n = out.sum(axis=0)
    known = n >= MODEL_MINIMUM
    if not known.any():
        return None
    n, out, values = n[known], out[:, known], calibration.score[:, known]
    mean = (values * out).sum(axis=0) / n
    spread = np.sqrt((np.square(values - mean) * out).sum(axis=0) / (n - 1) * (1 + 1 / n))
    away = score[known] - mean
    still = spread <= 1e-12 * np.abs(mean)  # the same score in all shadows
    distance = np.where(still, np.copysign(np.inf, away), away / np.where(still, 1.0, spread))
    distance[still & (np.abs(away) <= 1e-12 * np.abs(mean))] = 0
    calibrated = np.full(len(score), np.nan)
    calibrated[known] = -t.sf(distance, n - 1)  # not its complement, which is 1 for all that are far out
    return calibrated


def worst_decile(score: Floats, member: Bools, gap: Floats | None) -> dict[str, Any] | None:
    """Return how well members can be told in the tenth of the samples that is exposed most.

    Where shadows say which samples those are, the target plays no part in the choice, so the AUC among them is
    unbiased. Else they are those of the highest scores, and what can be said is how many of them are members.

    Args:
        score: The target's scores [N].
        member: Membership, bool [N].
        gap: Of the shadows; see :class:`Calibration`.

    Returns:
        ``samples`` and either ``auc`` or the share of ``members``, with the 95% ``interval``, and that of all
        (``of_all``); None where they are too few.
    """
    value = score if gap is None else gap
    known = value[~np.isnan(value)]
    if len(known) < 10 * DECILE_MINIMUM:
        return None
    worst = value >= np.sort(known)[-(len(known) // 10)]  # more than a tenth where there are ties, which have no order
    count, members = int(worst.sum()), int(member[worst].sum())
    if gap is None:
        share = {
            "members": members / count,
            "interval": clopper_pearson(members, count),
            "of_all": float(member.mean()),
        }
        return {"samples": count, **share}
    if min(members, count - members) < DECILE_MINIMUM:
        return None
    auc, interval = auc_of(score[worst], member[worst])
    return {"samples": count, "auc": auc, "interval": interval}


def exposed_sets(scores: Sequence[Floats], members: Sequence[Bools]) -> dict[float, dict[str, Any] | None]:
    """Return how far models agree on which samples they expose (arXiv 2603.07567).

    Exposed by a model are those of its members that score above the bar which its non-members pass at a rate below the
    level. Two models are compared on the members that they share.

    Args:
        scores: An attack's scores of the same samples for each model, [N] each.
        members: Membership in each, bool [N] each.

    Returns:
        By level: the mean ``jaccard`` index over pairs of models, that of sets of the same sizes drawn at random
        (``chance``), the number of ``pairs`` (those in which either exposes anybody), and for k from 1 to all models
        the ``support``: how many samples k models or more expose, and ``learnt``: how many k models or more have
        learnt. None with fewer than two models, or too few non-members for the level.
    """
    found: dict[float, dict[str, Any] | None] = {}
    member = np.stack(members)
    for level in LEVELS:
        if len(member) < 2 or too_few(int((~member).sum(axis=1).min()), level):
            found[level] = None
            continue
        exposed = np.stack([s > bar(s[~m], level) for s, m in zip(scores, member, strict=True)]) & member
        indices, chances = [], []
        for a, b in zip(*np.triu_indices(len(member), 1), strict=True):
            shared = member[a] & member[b]
            one, other = exposed[a] & shared, exposed[b] & shared
            if either := int((one | other).sum()):
                indices.append(int((one & other).sum()) / either)
                p, q = one.sum() / shared.sum(), other.sum() / shared.sum()
                chances.append(p * q / (p + q - p * q))
        at_least = np.arange(1, len(member) + 1)[:, None]
        found[level] = {
            "jaccard": float(np.mean(indices)) if indices else None,
            "chance": float(np.mean(chances)) if indices else None,
            "pairs": len(indices),
            "support": [int(count) for count in (exposed.sum(axis=0) >= at_least).sum(axis=1)],
            "learnt": [int(count) for count in (member.sum(axis=0) >= at_least).sum(axis=1)],
        }
    return found


def signal_gap(phi: Floats, keep: Bools) -> Floats:
    """Return how much higher each sample's mean signal is in the models that were trained with it, [N].

    Args:
        phi: Signals [M, N].
        keep: Membership, bool [M, N].

    Returns:
        NaN where fewer than two models have the sample, or lack it.
    """
    inside, outside = keep.sum(axis=0), (~keep).sum(axis=0)
    gap = (phi * keep).sum(axis=0) / np.maximum(inside, 1) - (phi * ~keep).sum(axis=0) / np.maximum(outside, 1)
    return np.where((inside >= 2) & (outside >= 2), gap, np.nan)


def realised_text(found: Mapping[float, dict[str, Any] | None], level: float) -> str:
    """Return a realised false positive rate with its interval, for people."""
    rate = found[level]
    return (
        "withheld" if rate is None else f"{rate['target']:.4f} [{rate['interval'][0]:.4f}, {rate['interval'][1]:.4f}]"
    )


def best_rows(attacks: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Return what is to be said of the attack of highest AUC, as further rows of the controls, for people.

    Args:
        attacks: Of :func:`accupoison.audit.results.by_attack`.
    """
    best = max(attacks, key=lambda row: float(np.mean(row["auc"])))
    name, rows = best["attack"], []
    for level in LEVELS[1:]:
        rates = [rate for model in best["target_models"] if (rate := model["realised_fpr"][level])]
        if rates:
            mean = float(np.mean([rate["target"] for rate in rates]))
            holds = sum(rate["covers"] for rate in rates)
            low, high = (min(r["interval"][0] for r in rates), max(r["interval"][1] for r in rates))
            text = (
                f"{mean:.4f}, intervals within [{low:.4f}, {high:.4f}]; {holds} of {len(rates)} cover the shadows' rate"
            )
            rows.append({"control": f"FPR of the shadows' {level:.1%}, {name}", "found": text, "verdict": ""})
    for level, found in best["exposed"].items():
        if found and found["jaccard"] is not None:
            support = ", ".join(f"{count} by {k}" for k, count in enumerate(found["support"], 1) if count)
            text = f"mean Jaccard {found['jaccard']:.3f} (by chance {found['chance']:.3f}); by so many models or more: "
            text += f"{support}; learnt: {', '.join(map(str, found['learnt'][: len(found['support'])]))}"
            rows.append({"control": f"exposed at {level:.1%} FPR, {name}", "found": text, "verdict": ""})
    return rows
