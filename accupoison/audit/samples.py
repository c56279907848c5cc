"""Samples with a model's answers, from files too, and what the attacks achieve on them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accupoison.audit.metric import all_scores, balanced_accuracy, checked, predict, thresholds
from accupoison.audit.neural import neural_scores
from accupoison.audit.roc import PRIORS, RocSummary, epsilon_lower_bound, predictive_value, roc_summary
from accupoison.errors import InputError
from accupoison.records.arrays import read_arrays

EXPOSED = 20
"""How many of the samples likeliest to be recognised are named."""
LEAST = 10
"""A class needs this many members and as many others for an AUC of its own."""


@dataclass(frozen=True, eq=False)
class Samples:
    """Samples with a model's answers.

    Attributes:
        probs: Probabilities [N, C].
        labels: The true classes, int64 [N].
        member: The model was trained with the sample, bool [N].
        ids: Names of the samples, int64 [N].
        extra: Further scores by name, each [N] and higher for likelier members.
    """

    probs: NDArray[np.float64]
    labels: NDArray[np.int64]
    member: NDArray[np.bool_]
    ids: NDArray[np.int64]
    extra: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.member.all() or not self.member.any():
            raise InputError(
                f"{int(self.member.sum())} of {len(self.member)} samples are members; both kinds are needed"
            )

    def rows(self, index: NDArray[Any]) -> "Samples":
        """Return the samples that ``index`` selects."""
        extra = {name: score[index] for name, score in self.extra.items()}
        return Samples(self.probs[index], self.labels[index], self.member[index], self.ids[index], extra)


@dataclass(frozen=True)
class AttackResult:
    """What one attack achieves.

    Attributes:
        attack: Its name.
        roc: The ROC curve in numbers.
        balanced_accuracy: At one threshold set on the calibration samples.
        balanced_accuracy_per_class: At a threshold a class, set there too.
        tpr: True positive rate at the one threshold.
        fpr: False positive rate there.
        predictive_value: Share of members among those taken for members, by share of members in the population.
        epsilon: Lower bound on the epsilon of differential privacy (delta 0), 95% confidence; holds where the samples
            entered training independently of one another.
        auc_by_class: AUC by class, for classes with enough members and others.
        most_exposed: Ids of the members with the highest scores.
    """

    attack: str
    roc: RocSummary
    balanced_accuracy: float
    balanced_accuracy_per_class: float
    tpr: float
    fpr: float
    predictive_value: dict[float, float]
    epsilon: float
    auc_by_class: dict[int, float]
    most_exposed: list[int]

    def as_dict(self) -> dict[str, Any]:
        """Return plain containers, for JSON."""
        return asdict(self)


def audit_samples(
    samples: Samples, shadow: Samples | None, *, seed: int = 0
) -> tuple[dict[str, NDArray[np.float64]], Samples, list[AttackResult]]:
    """Run all attacks that one model's answers allow.

    Args:
        samples: The audited model's.
        shadow: Those of a model that the attacker trained, on which thresholds are set and the neural attack trains.
            None sets the thresholds on a random half of ``samples`` and reports the other half: an attacker who knows
            the membership of some.
        seed: Of that half and of the neural attack.

    Returns:
        Scores by attack, the samples reported, and the results in the same order.

    Raises:
        InputError: Values are not as they should be, or a half lacks members or others.
    """
    if shadow is None:
        chosen = np.random.default_rng(seed).permutation(len(samples.labels)) < len(samples.labels) // 2
        shadow, samples = samples.rows(chosen), samples.rows(~chosen)
    found, reference = ({**all_scores(s.probs, s.labels), **s.extra} for s in (samples, shadow))
    against = (shadow.probs, shadow.labels, shadow.member)
    found["neural"] = neural_scores(samples.probs, samples.labels, *against, seed=seed)
    reference["neural"] = neural_scores(shadow.probs, shadow.labels, *against, seed=seed)
    return found, samples, [evaluate_attack(name, s, samples, reference[name], shadow) for name, s in found.items()]


def evaluate_attack(
    name: str,
    score: NDArray[np.float64],
    samples: Samples,
    calibration_score: NDArray[np.float64],
    calibration: Samples,
) -> AttackResult:
    """Return what a score achieves on ``samples`` with thresholds set on ``calibration``; both scores are [N]."""
    common, own = thresholds(calibration_score, calibration.labels, calibration.member)
    taken = predict(score, samples.labels, common, {})
    tpr, fpr = float(taken[samples.member].mean()), float(taken[~samples.member].mean())
    order = np.argsort(-score, kind="stable")
    return AttackResult(
        attack=name,
        roc=roc_summary(score, samples.member),
        balanced_accuracy=0.5 * (tpr + 1 - fpr),
        balanced_accuracy_per_class=balanced_accuracy(predict(score, samples.labels, common, own), samples.member),
        tpr=tpr,
        fpr=fpr,
        predictive_value={prior: predictive_value(tpr, fpr, prior) for prior in PRIORS},
        epsilon=epsilon_lower_bound(taken, samples.member),
        auc_by_class=_by_class(score, samples),
        most_exposed=[int(i) for i in samples.ids[order][samples.member[order]][:EXPOSED]],
    )


def _by_class(score: NDArray[np.float64], samples: Samples) -> dict[int, float]:
    found: dict[int, float] = {}
    for label in np.unique(samples.labels):
        here = samples.labels == label
        member = samples.member[here]
        if min(int(member.sum()), int((~member).sum())) >= LEAST:
            found[int(label)] = roc_summary(score[here], member, levels=()).auc
    return found


def table(results: list[AttackResult]) -> list[Mapping[str, str]]:
    """Return one row an attack, for people: percentages with their intervals."""
    return [
        {
            "attack": one.attack,
            "AUC": _interval(one.roc.auc, one.roc.intervals["auc"]),
            "balanced accuracy": f"{one.balanced_accuracy:.3f}",
            "per class": f"{one.balanced_accuracy_per_class:.3f}",
            **{f"TPR at {level:.1%} FPR": _rate(one.roc, level) for level in one.roc.tpr_at_fpr},
            "PPV at 1%": f"{one.predictive_value[0.01]:.3f}",
            "epsilon at least": f"{one.epsilon:.2f}",
        }
        for one in results
    ]


def _rate(roc: RocSummary, level: float) -> str:
    rate = roc.tpr_at_fpr[level]
    return "withheld" if rate is None else _interval(rate, roc.intervals[f"tpr@{level:g}"])


def _interval(value: float, interval: tuple[float, float]) -> str:
    return f"{value:.3f} [{interval[0]:.3f}, {interval[1]:.3f}]"


KEYS = ("probs", "labels", "member")


def read_predictions(path: Path) -> tuple[Samples, Samples | None]:
    """Read an .npz file of predictions.

    The file holds ``probs`` [N, C], ``labels`` [N], ``member`` [N] (0 or 1) and optionally ``ids`` [N]; and, where the
    attacker has a shadow model, the same four with ``shadow_`` before their names.

    Returns:
        The audited model's samples, and the shadow's, or None.

    Raises:
        InputError: The file is missing or damaged, or an array is not as above.
    """
    known = [f"{prefix}{name}" for prefix in ("", "shadow_") for name in (*KEYS, "ids")]
    arrays = read_arrays(path, KEYS, optional=known[len(KEYS) :])
    target = _samples(path, arrays, "")
    has_shadow = any(name.startswith("shadow_") for name in arrays)
    return target, _samples(path, arrays, "shadow_") if has_shadow else None


def _samples(path: Path, arrays: dict[str, NDArray[Any]], prefix: str) -> Samples:
    missing = [prefix + key for key in KEYS if prefix + key not in arrays]
    if missing:
        raise InputError(
            f"{path} lacks {', '.join(missing)} (it has {', '.join(sorted(arrays)) or 'nothing'}); add them"
        )
    probs, labels = checked(arrays[f"{prefix}probs"], arrays[f"{prefix}labels"])
    member, ids = arrays[f"{prefix}member"], arrays.get(f"{prefix}ids", np.arange(len(labels)))
    flags = member.dtype.kind in "biuf" and member.shape == labels.shape and np.isin(member, (0, 1)).all()
    if not flags:
        raise InputError(f"{prefix}member in {path} is not 0 or 1 for each of the {len(labels)} samples; mend it")
    if ids.shape != labels.shape or ids.dtype.kind not in "iu":
        raise InputError(f"{prefix}ids in {path} is not a whole number for each of the {len(labels)} samples; mend it")
    return Samples(probs, labels, member.astype(bool), ids.astype(np.int64))
