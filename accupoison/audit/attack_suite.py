"""All attacks side by side that one model's predictions allow."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accupoison.audit.calibration import Calibration
from accupoison.audit.controls import compared_ratios, loss_ratio, permuted_null
from accupoison.audit.metric import Floats, thresholds
from accupoison.audit.neural import neural_scores
from accupoison.audit.results import Results, evaluate_attack
from accupoison.audit.roc import auc_of
from accupoison.audit.samples import Samples


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
    reference, *found = single_model_scores([shadow, *targets], shadow, seed)
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
    reference = {name: sign[name] * score for name, score in reference.items()}
    bounds = {name: thresholds(score, shadow.labels, shadow.member) for name, score in reference.items()}
    known = {name: Calibration(score[None], shadow.member[None]) for name, score in reference.items()}
    return [
        {
            name: evaluate_attack(name, sign[name] * score, samples, bounds[name], known[name])
            for name, score in scores.items()
        }
        for samples, scores in targets
    ]


def single_model_scores(asked: Sequence[Samples], shadow: Samples, seed: int = 0) -> list[dict[str, Floats]]:
    """Return the scores that need one model's predictions alone, [N] by name, for each model.

    Args:
        asked: The samples of each.
        shadow: Those of the model that the neural attack learns from.
        seed: Of the neural attack.
    """
    probs, labels = (np.concatenate([getattr(samples, name) for samples in asked]) for name in ("probs", "labels"))
    neural = neural_scores(probs, labels, shadow.probs, shadow.labels, shadow.member, seed=seed)
    parts = np.split(neural, np.cumsum([len(samples.labels) for samples in asked])[:-1])
    return [
        {**samples.metric_scores, **samples.extra, "neural": part} for samples, part in zip(asked, parts, strict=True)
    ]


def single_controls(results: Results, shadow: Samples | None = None) -> dict[str, Any]:
    """Return the controls of an audit of one model without shadow models of the same samples.

    Args:
        results: What the attacks achieve on it.
        shadow: Those of a model that the attacker trained.
    """
    samples = next(iter(results.values())).samples

    def aucs(order: NDArray[np.int64]) -> dict[str, float]:
        return {name: auc_of(result.score, samples.member[order])[0] for name, result in results.items()}

    return {
        "null": permuted_null(aucs, len(samples.labels)),
        "loss_ratio": compared_ratios([loss_ratio(samples)], [] if shadow is None else [loss_ratio(shadow)]),
    }
