"""All attacks side by side on models that shadow models stand beside: those by one model's answers, and by all."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accupoison.audit.attack_suite import right, single_model_scores
from accupoison.audit.bavaria import bavaria_scores
from accupoison.audit.calibration import Calibration, signal_gap
from accupoison.audit.controls import BLIND_MODELS, Inputs, blind_baseline, compared_ratios, loss_ratio, permuted_null
from accupoison.audit.lira import VARIANTS, lira_scores
from accupoison.audit.metric import Floats, thresholds
from accupoison.audit.privacy_score import privacy_report
from accupoison.audit.results import FITTED, Results, evaluate_attack
from accupoison.audit.rmia import rmia_scores
from accupoison.audit.roc import auc_of
from accupoison.audit.signals import ModelSignals

LIRA = VARIANTS
BAVARIA = {"bavaria": False, "bavaria_offline": True}
"""Whether they take OUT alone."""
RMIA = {"rmia": None, "rmia_offline": 0.5}
"""Their offline slopes; the second is fixed in advance where its authors choose it by a sweep."""
VARIANCE = {
    "per sample": ["lira_online", "lira_offline"],
    "fixed": ["lira_online_fixed_variance", "lira_offline_fixed_variance"],
    "shrunken": list(BAVARIA),
}
"""The attacks that fit normal distributions, by whose variance these have."""
NULL_SAMPLES = 2000
"""Attacks are carried out with permuted membership on at most so many samples."""


class ShadowAttacks:
    """All attacks by shadow models, with the thresholds that are most accurate on the shadows.

    For LiRA and BaVarIA these are set on all shadows, each attacked by the others; for the rest on the first shadow,
    where the neural attack learns from a second one. Thresholds of a false positive rate are set on all shadows, for
    the neural attack without that second one.

    Args:
        shadows: The models, which were asked about the same samples.
        crossed: The target is one of the models that are shadows of each other; see
            :func:`accupoison.audit.results.by_attack`.

    Raises:
        InputError: A shadow has only members or only others, or they are too few.
    """

    def __init__(self, shadows: Sequence[ModelSignals], *, crossed: bool = False) -> None:
        first = shadows[0]
        self._shadows = shadows
        teacher = first.apart(shadows)[0]
        self._teacher = teacher.samples
        alone = single_model_scores([shadow.samples for shadow in shadows], self._teacher)
        fits = [fitted_scores(shadow.apart(shadows), shadow) for shadow in shadows]
        member = np.stack([shadow.samples.member for shadow in shadows])
        gap = signal_gap(np.stack([shadow.phi[:, 0] for shadow in shadows]), member)
        labels = first.samples.labels
        self._thresholds = {}
        self._known = {}
        for name in (*alone[0], *fits[0]):
            score = np.stack([own[name] for own in (alone if name in alone[0] else fits)])
            asked = np.array([name != "neural" or shadow is not teacher for shadow in shadows])
            aligned = not (crossed and name.startswith(FITTED))
            self._known[name] = Calibration(score[asked], member[asked], gap, per_sample=aligned)
            if name.startswith(("lira", "bavaria")):
                self._thresholds[name] = thresholds(score.ravel(), np.tile(labels, len(shadows)), member.ravel())
            else:
                self._thresholds[name] = thresholds(score[0], labels, member[0])

    def attack(self, target: ModelSignals) -> Results:
        """Return what each attack achieves on a target model, by name."""
        (scores,) = single_model_scores([target.samples], self._teacher)
        scores |= fitted_scores(self._shadows, target)
        return {
            name: evaluate_attack(name, score, target.samples, self._thresholds[name], self._known[name])
            for name, score in scores.items()
        }


def fitted_scores(shadows: Sequence[ModelSignals], target: ModelSignals) -> dict[str, Floats]:
    """Return the scores [N] of the attacks by shadow models that learn nothing but each sample's signals, by name."""
    return {
        **{f"lira_{variant}": _lira(shadows, target, variant) for variant in LIRA},
        **{name: _bavaria(shadows, target, offline) for name, offline in BAVARIA.items()},
        **{name: _rmia(shadows, target, slope) for name, slope in RMIA.items()},
    }


def shadow_controls(
    shadows: Sequence[ModelSignals], targets: Sequence[ModelSignals], kind: str, inputs: Inputs
) -> dict[str, Any]:
    """Return the controls of an audit with shadow models; see :mod:`accupoison.audit.controls`.

    Args:
        shadows: The models.
        targets: Those that they attack; none, where they attack each other.
        kind: What the shadows are, in words.
        inputs: Of the audited samples, for the blind baseline.
    """
    attacked = targets[0] if targets else shadows[0]
    attackers = attacked.apart(shadows)
    keep = np.stack([shadow.samples.member for shadow in attackers])
    ratios = [[loss_ratio(model.samples) for model in models] for models in (targets, shadows)]
    return {
        "blind": [blind_baseline(inputs, model.samples.member) for model in (targets or shadows)[:BLIND_MODELS]],
        "null": _shadow_null(attackers, attacked),
        "loss_ratio": compared_ratios(*ratios),
        "shadows": {
            "count": len(attackers),
            "kind": kind,
            "with": float(np.median(keep.sum(axis=0))),
            "without": float(np.median((~keep).sum(axis=0))),
            "variance": VARIANCE,
        },
    }


def _shadow_null(shadows: Sequence[ModelSignals], target: ModelSignals) -> dict[str, dict[str, Any]]:
    """Return what the attacks by fits achieve where samples have exchanged their memberships in all models alike.

    So the numbers of shadows with a sample and without, and which models are complementary, are those of the audit.
    """
    count = min(len(target.phi), NULL_SAMPLES)
    drawn = np.sort(np.random.default_rng(0).permutation(len(target.phi))[:count])
    models = [model.rows(drawn) for model in (target, *shadows)]

    def aucs(order: NDArray[np.int64]) -> dict[str, float]:
        one, *rest = [replace(m, samples=replace(m.samples, member=m.samples.member[order])) for m in models]
        return {name: auc_of(score, one.samples.member)[0] for name, score in fitted_scores(rest, one).items()}

    return permuted_null(aucs, count, shared=True)


def _lira(shadows: Sequence[ModelSignals], target: ModelSignals, variant: str) -> Floats:
    phi = np.stack([shadow.phi for shadow in shadows])
    return _where_known(
        shadows, 2, lambda keep, rows: lira_scores(phi[:, rows], keep, target.phi[rows], variant=variant)
    )


def _bavaria(shadows: Sequence[ModelSignals], target: ModelSignals, offline: bool) -> Floats:
    phi = np.stack([shadow.phi for shadow in shadows])
    return _where_known(
        shadows, 1, lambda keep, rows: bavaria_scores(phi[:, rows], keep, target.phi[rows], offline=offline)
    )


def _rmia(shadows: Sequence[ModelSignals], target: ModelSignals, slope: float | None) -> Floats:
    true = [np.exp(-np.logaddexp(0, -model.phi[:, 0])) for model in (target, *shadows)]  # sigmoid of the logit is p_y
    population = np.stack([shadow.population for shadow in shadows])
    return _where_known(
        shadows,
        1,
        lambda keep, rows: rmia_scores(
            true[0][rows], np.stack(true[1:])[:, rows], keep, target.population, population, offline_slope=slope
        ),
    )


def _where_known(
    shadows: Sequence[ModelSignals], least: int, attack: Callable[[NDArray[np.bool_], NDArray[np.bool_]], Floats]
) -> Floats:
    """Return scores of all samples; those that too few shadows say anything of get the median, which says nothing.

    Args:
        shadows: The models; with few of them some sample is always in, or out.
        least: Shadows that a sample needs with it in training, and without.
        attack: Returns scores [n] from membership [M, n] and the samples that have enough shadows, bool [N].
    """
    keep = np.stack([shadow.samples.member for shadow in shadows])
    known = (keep.sum(axis=0) >= least) & ((~keep).sum(axis=0) >= least)
    known_scores = attack(keep[:, known], known)
    scores = np.full(len(known), np.median(known_scores))
    scores[known] = known_scores
    return scores


def accuracies(targets: Sequence[ModelSignals]) -> dict[str, list[float]]:
    """Return ``test_accuracy`` on others and ``train_accuracy`` on members, in [0, 1], of each target model."""
    shares = [right(target.samples) for target in targets]
    return {
        "test_accuracy": [share["others"] for share in shares],
        "train_accuracy": [share["members"] for share in shares],
    }


def model_facts(targets: Sequence[ModelSignals], models: Sequence[ModelSignals]) -> dict[str, Any]:
    """Return what is to be known of the models beside the attacks.

    Args:
        targets: Whose accuracies are reported.
        models: All of them, whose speed and privacy scores are.
    """
    shares = [model.share for model in models if not np.isnan(model.share)]
    samples = models[0].samples
    return {
        "audited": len(samples.labels),
        **accuracies(targets),
        "images_per_second": float(np.median([model.images / model.seconds for model in models])),
        "share_of_ceiling": float(np.median(shares or [np.nan])),
        "seconds": float(sum(model.seconds for model in models)),
        **privacy_report(
            np.stack([model.phi[:, 0] for model in models]),
            np.stack([model.samples.member for model in models]),
            samples.ids,
            samples.labels,
        ),
    }
