"""All attacks side by side: those that one model's predictions allow, and those that need shadow models."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accupoison.audit.lira import VARIANTS, lira_scores
from accupoison.audit.metric import Floats, all_scores, thresholds
from accupoison.audit.neural import neural_scores
from accupoison.audit.privacy_score import privacy_report
from accupoison.audit.results import Results, evaluate_attack
from accupoison.audit.rmia import rmia_scores
from accupoison.audit.roc import auc_of
from accupoison.audit.samples import Samples
from accupoison.audit.signals import ModelSignals

LIRA = VARIANTS
RMIA = {"rmia": None, "rmia_offline": 0.5}
"""Their offline slopes; the second is fixed in advance where its authors choose it by a sweep."""


def audit_samples(samples: Samples, shadow: Samples | None, *, seed: int = 0) -> Results:
    """Run all attacks that one model's predictions allow.

    Args:
        samples: The audited model's.
        shadow: Those of a model that the attacker trained, on which thresholds are set and the neural attack trains.
            None sets the thresholds on a random half of ``samples`` and reports the other half: an attacker who knows
            the membership of some.
        seed: Of that half and of the neural attack.

    Returns:
        What each attack achieves, by name.

    Raises:
        InputError: Values are not as they should be, or a half lacks members or others.
    """
    if shadow is None:
        chosen = _half(samples, seed)
        shadow = samples.rows(chosen)
        samples = samples.rows(~chosen)
    return _calibrated(shadow, [samples], seed)[0]


def right(samples: Samples) -> dict[str, float]:
    """Return the model's accuracy on ``members`` and on ``others``, in [0, 1]."""
    hits = samples.probs.argmax(axis=1) == samples.labels
    return {"members": float(hits[samples.member].mean()), "others": float(hits[~samples.member].mean())}


def audit_released(
    released: Samples, undefended: Samples, shadows: tuple[Samples, Samples] | None = None, *, seed: int = 0
) -> dict[str, Results]:
    """Run the attacks on released answers for each of three attackers.

    All set direction and threshold of a score, and train the neural attack, on answers whose membership they know: for
    a release may turn a score around, so that members are the less sure ones.

    Args:
        released: What leaves the audited model.
        undefended: What the model itself says of the same samples.
        shadows: What leaves a model that the attacker trained, through the same release, and what that model itself
            says. None takes a random half of the samples and reports the other half.
        seed: Of that half and of the neural attack.

    Returns:
        What each attack achieves: "undefended" (on the model's own answers), "unaware" (on released ones, calibrated on
        the model's own), "adaptive" (calibrated on released ones) and "label-only" (whether the label is right, which
        no release that keeps labels hides).

    Raises:
        InputError: Values are not as they should be, or a half lacks members or others.
    """
    if shadows is None:
        chosen = _half(released, seed)
        shadows = released.rows(chosen), undefended.rows(chosen)
        released, undefended = released.rows(~chosen), undefended.rows(~chosen)
    own, unaware = _calibrated(shadows[1], [undefended, released], seed, turn=True)
    (adaptive,) = _calibrated(shadows[0], [released], seed, turn=True)
    label_only = {"correctness": adaptive["correctness"]}
    return {"undefended": own, "unaware": unaware, "adaptive": adaptive, "label-only": label_only}


def _half(samples: Samples, seed: int) -> NDArray[np.bool_]:
    return np.random.default_rng(seed).permutation(len(samples.labels)) < len(samples.labels) // 2


def _calibrated(shadow: Samples, targets: Sequence[Samples], seed: int, *, turn: bool = False) -> list[Results]:
    reference, *found = _single_model_scores([shadow, *targets], shadow, seed)
    return calibrated(shadow, reference, list(zip(targets, found, strict=True)), turn=turn)


def calibrated(
    shadow: Samples,
    reference: Mapping[str, Floats],
    targets: Sequence[tuple[Samples, Mapping[str, Floats]]],
    *,
    turn: bool = False,
) -> list[Results]:
    """Return what scores achieve on several models' samples, whose thresholds are set on the shadow's.

    Args:
        shadow: The samples on which thresholds are set.
        reference: Their scores, [S] by name.
        targets: Samples of each model, with their scores, [N] by the same names.
        turn: Set the direction of a score on the shadow's samples, too, since a release may turn it around.

    Raises:
        InputError: A score is NaN, or members or others are missing.
    """
    sign = {name: -1.0 if turn and auc_of(s, shadow.member)[0] < 0.5 else 1.0 for name, s in reference.items()}
    bounds = {name: thresholds(sign[name] * s, shadow.labels, shadow.member) for name, s in reference.items()}
    return [
        {name: evaluate_attack(name, sign[name] * score, samples, bounds[name]) for name, score in scores.items()}
        for samples, scores in targets
    ]


def _single_model_scores(asked: Sequence[Samples], shadow: Samples, seed: int = 0) -> list[dict[str, Floats]]:
    """Return the scores that need one model's predictions alone; the neural attack learns from those of ``shadow``."""
    probs, labels = (np.concatenate([getattr(samples, name) for samples in asked]) for name in ("probs", "labels"))
    neural = neural_scores(probs, labels, shadow.probs, shadow.labels, shadow.member, seed=seed)
    parts = np.split(neural, np.cumsum([len(samples.labels) for samples in asked])[:-1])
    return [
        {**all_scores(samples.probs, samples.labels), **samples.extra, "neural": part}
        for samples, part in zip(asked, parts, strict=True)
    ]


class ShadowAttacks:
    """All attacks by shadow models, with the thresholds that are most accurate on the shadows.

    For LiRA these are set on all shadows, each attacked by the others; for the rest on the first shadow, where the
    neural attack learns from a second one.

    Args:
        shadows: The models, which were asked about the same samples.

    Raises:
        InputError: A shadow has only members or only others, or they are too few.
    """

    def __init__(self, shadows: Sequence[ModelSignals]) -> None:
        first = shadows[0]
        self._shadows = shadows
        self._teacher = first.apart(shadows)[0].samples
        (reference,) = _single_model_scores([first.samples], self._teacher)
        reference |= {name: _rmia(first.apart(shadows), first, slope) for name, slope in RMIA.items()}
        labels = first.samples.labels
        member = np.concatenate([shadow.samples.member for shadow in shadows])
        self._thresholds = {name: thresholds(score, labels, first.samples.member) for name, score in reference.items()}
        for variant in LIRA:
            score = np.concatenate([_lira(shadow.apart(shadows), shadow, variant) for shadow in shadows])
            self._thresholds[f"lira_{variant}"] = thresholds(score, np.tile(labels, len(shadows)), member)

    def attack(self, target: ModelSignals) -> Results:
        """Return what each attack achieves on a target model, by name."""
        (scores,) = _single_model_scores([target.samples], self._teacher)
        scores |= {f"lira_{variant}": _lira(self._shadows, target, variant) for variant in LIRA}
        scores |= {name: _rmia(self._shadows, target, slope) for name, slope in RMIA.items()}
        return {
            name: evaluate_attack(name, score, target.samples, self._thresholds[name]) for name, score in scores.items()
        }


def _lira(shadows: Sequence[ModelSignals], target: ModelSignals, variant: str) -> Floats:
    phi = np.stack([shadow.phi for shadow in shadows])
    return _where_known(
        shadows, 2, lambda keep, rows: lira_scores(phi[:, rows], keep, target.phi[rows], variant=variant)
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
