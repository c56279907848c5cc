"""What an attack achieves on the samples of one model: the one result type of all audits, and its tables."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accupoison.audit.calibration import (
    Calibration,
    exposed_sets,
    per_sample_scores,
    realised_fpr,
    realised_text,
    worst_decile,
)
from accupoison.audit.metric import balanced_accuracy, predict
from accupoison.audit.privacy_score import CLASS_MINIMUM, MOST_VULNERABLE, per_sample_auc
from accupoison.audit.roc import PRIORS, RocSummary, auc_of, epsilon_lower_bound, predictive_value, roc_summary
from accupoison.audit.samples import Samples


@dataclass(frozen=True, eq=False)
class AttackResult:
    """What one attack achieves on the samples of one model.

    Rates, accuracies and AUCs are in [0, 1]. The thresholds were set on other samples than these.

    Attributes:
        attack: Its name.
        score: Its scores, float64 [N], higher for likelier members.
        samples: What it scored, with the true membership [N].
        roc: The ROC curve in numbers, with intervals, and what is withheld.
        accuracy: Share of the samples classified correctly at one threshold.
        balanced_accuracy: Mean of the true positive and the true negative rate there.
        balanced_accuracy_per_class: The same with a threshold for each class.
        tpr: True positive rate at the one threshold.
        fpr: False positive rate there.
        predictive_value: Share of members among those taken for members, by share of members in the population.
        epsilon: Lower bound on the epsilon of differential privacy (delta 0), 95% confidence; holds where the samples
            entered training independently of one another.
        auc_by_class: AUC by class, for classes with enough members and others.
        most_vulnerable: Ids of the members with the highest scores, highest first.
        realised_fpr: By level, of a threshold set on the calibration samples; see
            :func:`accupoison.audit.calibration.realised_fpr`.
        calibrated: The ROC curve in numbers of scores that are calibrated sample by sample; None where there are too
            few shadows. See :func:`accupoison.audit.calibration.per_sample_scores`.
        worst_decile: See :func:`accupoison.audit.calibration.worst_decile`.
    """

    attack: str
    score: NDArray[np.float64]
    samples: Samples
    roc: RocSummary
    accuracy: float
    balanced_accuracy: float
    balanced_accuracy_per_class: float
    tpr: float
    fpr: float
    predictive_value: dict[float, float]
    epsilon: float
    auc_by_class: dict[int, float]
    most_vulnerable: list[int]
    realised_fpr: dict[float, dict[str, Any] | None]
    calibrated: RocSummary | None
    worst_decile: dict[str, Any] | None

    def as_dict(self) -> dict[str, Any]:
        """Return everything but scores and samples in plain containers, for JSON."""
        plain = {k: v for k, v in vars(self).items() if k not in ("score", "samples")}
        return {**plain, "roc": asdict(self.roc), "calibrated": self.calibrated and asdict(self.calibrated)}


FITTED = ("lira_online", "lira_offline", "bavaria", "rmia")
"""How the names of attacks begin that fit to the signals of each sample."""
LEVEL = 0.01
"""The false positive rate of which tables have columns."""
Results = dict[str, AttackResult]
"""What the attacks achieve on one model, by name."""


def evaluate_attack(
    name: str,
    score: NDArray[np.float64],
    samples: Samples,
    thresholds: tuple[float, Mapping[int, float]],
    calibration: Calibration,
) -> AttackResult:
    """Return what a score achieves.

    Args:
        name: Of the attack.
        score: Scores of ``samples`` [N], higher for likelier members.
        samples: The samples.
        thresholds: For all samples and by class, set on other samples; see :func:`accupoison.audit.metric.thresholds`.
        calibration: What the attack says of other samples, or of other models.

    Raises:
        InputError: A score is NaN.
    """
    common, by_class = thresholds
    member = samples.member
    predicted = predict(score, samples.labels, common, {})
    tpr = float(predicted[member].mean())
    fpr = float(predicted[~member].mean())
    order = np.argsort(-score, kind="stable")
    return AttackResult(
        attack=name,
        score=score,
        samples=samples,
        roc=roc_summary(score, member),
        accuracy=float((predicted == member).mean()),
        balanced_accuracy=0.5 * (tpr + 1 - fpr),
        balanced_accuracy_per_class=balanced_accuracy(predict(score, samples.labels, common, by_class), member),
        tpr=tpr,
        fpr=fpr,
        predictive_value={prior: predictive_value(tpr, fpr, prior) for prior in PRIORS},
        epsilon=epsilon_lower_bound(predicted, member),
        auc_by_class=_auc_by_class(score, samples),
        most_vulnerable=[int(i) for i in samples.ids[order][member[order]][:MOST_VULNERABLE]],
        realised_fpr=realised_fpr(calibration, score, member),
        calibrated=_calibrated(calibration, score, member),
        worst_decile=worst_decile(score, member, calibration.gap),
    )


def _calibrated(calibration: Calibration, score: NDArray[np.float64], member: NDArray[np.bool_]) -> RocSummary | None:
    own = per_sample_scores(calibration, score)
    known = np.zeros(len(score), dtype=bool) if own is None else ~np.isnan(own)
    if own is None or member[known].all() or not member[known].any():
        return None
    return roc_summary(own[known], member[known])


def _auc_by_class(score: NDArray[np.float64], samples: Samples) -> dict[int, float]:
    aucs: dict[int, float] = {}
    for label in np.unique(samples.labels):
        rows = samples.labels == label
        member = samples.member[rows]
        if min(int(member.sum()), int((~member).sum())) >= CLASS_MINIMUM:
            aucs[int(label)] = auc_of(score[rows], member)[0]
    return aucs


def by_attack(models: Sequence[Results], *, crossed: bool = False) -> list[dict[str, Any]]:
    """Return, for each attack, its name, its main figures as lists over models, and all that is known of each model.

    Args:
        models: What the attacks achieve on each model, on the same samples.
        crossed: The models attack each other. An attack that fits to a sample's signals then has no AUC per sample: the
            fit to the models with the sample lacks that of the model attacked, if it has the sample, and not otherwise.

    The lists are ``accuracy``, ``auc`` and ``tpr_pooled`` (at a false positive rate of 1%; None where withheld), pooled
    over samples; ``tpr_per_sample``, of scores that are calibrated sample by sample, and ``realised_fpr``, of a
    threshold of 1% on the shadows. ``auc_per_sample`` is a mean over samples, None where there are too few models.
    ``exposed`` is what :func:`accupoison.audit.calibration.exposed_sets` returns.
    """
    rows = []
    for name in models[0]:
        results = [model[name] for model in models]
        rows.append(
            {
                "attack": name,
                "accuracy": [result.accuracy for result in results],
                "auc": [result.roc.auc for result in results],
                "tpr_pooled": [result.roc.tpr_at_fpr[LEVEL] for result in results],
                "tpr_per_sample": [result.calibrated and result.calibrated.tpr_at_fpr[LEVEL] for result in results],
                "realised_fpr": [(result.realised_fpr[LEVEL] or {}).get("target") for result in results],
                "auc_per_sample": None
                if crossed and name.startswith(FITTED)
                else per_sample_auc(
                    np.stack([result.score for result in results]),
                    np.stack([result.samples.member for result in results]),
                ),
                "exposed": exposed_sets(
                    [result.score for result in results], [result.samples.member for result in results]
                ),
                "target_models": [result.as_dict() for result in results],
            }
        )
    return rows


def table(results: Results) -> list[dict[str, str]]:
    """Return one row an attack, for people: rates with their intervals."""
    return [
        {
            "attack": name,
            "AUC": interval_text(result.roc.auc, result.roc.intervals["auc"]),
            "balanced accuracy": f"{result.balanced_accuracy:.3f}",
            "per class": f"{result.balanced_accuracy_per_class:.3f}",
            **{f"TPR at {level:.1%} FPR": _rate(result.roc, level) for level in result.roc.tpr_at_fpr},
            f"FPR of a threshold of {LEVEL:.1%}": realised_text(result.realised_fpr, LEVEL),
            "members in the worst decile": _decile(result),
            "PPV at 1%": f"{result.predictive_value[0.01]:.3f}",
            "epsilon at least": f"{result.epsilon:.2f}",
        }
        for name, result in results.items()
    ]


def released_table(attackers: Mapping[str, Results]) -> list[dict[str, str]]:
    """Return one row an attack, for people: AUC and balanced accuracy of each attacker who can carry it out.

    Args:
        attackers: Of :func:`accupoison.audit.attack_suite.audit_released`.
    """
    columns = {name: results for name, results in attackers.items() if name != "label-only"}
    return [
        {
            "attack": f"{attack} (label-only)" if attack in attackers["label-only"] else attack,
            **{
                f"{name} {what}": f"{value:.3f}"
                for what, value_of in (("AUC", _auc), ("accuracy", _balanced))
                for name, results in columns.items()
                for value in [value_of(results[attack])]
            },
        }
        for attack in columns["adaptive"]
    ]


def _auc(result: AttackResult) -> float:
    return result.roc.auc


def _balanced(result: AttackResult) -> float:
    return result.balanced_accuracy


def _rate(roc: RocSummary, level: float) -> str:
    rate = roc.tpr_at_fpr[level]
    return "withheld" if rate is None else interval_text(rate, roc.intervals[f"tpr@{level:g}"])


def _decile(result: AttackResult) -> str:
    decile = result.worst_decile
    if decile is None:
        return "withheld"
    return f"{interval_text(decile['members'], decile['interval'])}, of all {decile['of_all']:.3f}"


def interval_text(value: float, interval: tuple[float, float]) -> str:
    """Return a value with its interval, for people."""
    return f"{value:.3f} [{interval[0]:.3f}, {interval[1]:.3f}]"


def spread_table(attacks: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Return one row an attack, the best first: means and standard deviations over the models of :func:`by_attack`."""
    return [
        {
            "attack": row["attack"],
            "accuracy": _spread(row["accuracy"]),
            "AUC (pooled)": _spread(row["auc"]),
            f"TPR at {LEVEL:.1%} FPR (pooled)": _known_spread(row["tpr_pooled"]),
            f"TPR at {LEVEL:.1%} FPR (per-sample calibrated)": _known_spread(row["tpr_per_sample"]),
            f"FPR of the shadows' {LEVEL:.1%}": _known_spread(row["realised_fpr"], 4),
            "AUC (per sample)": _few(row["auc_per_sample"]),
            "AUC (worst decile)": _known_spread(
                [(one["worst_decile"] or {}).get("auc") for one in row["target_models"]]
            ),
            f"Jaccard at {LEVEL:.1%} FPR": _few((row["exposed"][LEVEL] or {}).get("jaccard")),
        }
        for row in sorted(attacks, key=lambda row: -float(np.mean(row["auc"])))
    ]


def _few(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def run_columns(result: AttackResult) -> dict[str, str]:
    """Return the cells, for people, of what an attack by replays achieves on the run that they replay."""
    return {
        "AUC of the run": interval_text(result.roc.auc, result.roc.intervals["auc"]),
        f"FPR of the replays' {LEVEL:.1%} on the run": realised_text(result.realised_fpr, LEVEL),
    }


def _known_spread(values: Sequence[float | None], digits: int = 3) -> str:
    known = [value for value in values if value is not None]
    return _spread(known, digits) if len(known) == len(values) else "withheld"


def _spread(values: Sequence[float], digits: int = 3) -> str:
    return f"{np.mean(values):.{digits}f}" + (f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else "")
