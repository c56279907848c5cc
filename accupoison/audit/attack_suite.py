"""What the shadows of the offline protocol achieve on each victim, all attacks side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accupoison.audit.lira import lira_scores
from accupoison.audit.metric import all_scores, thresholds
from accupoison.audit.neural import neural_scores
from accupoison.audit.offline.shadow_models import OfflineConfig, divide, world_path
from accupoison.audit.privacy_score import exposed
from accupoison.audit.rmia import rmia_scores
from accupoison.audit.roc import PRIORS, RocSummary, epsilon_lower_bound, predictive_value, roc_summary
from accupoison.data import DataSet
from accupoison.errors import InputError
from accupoison.records.arrays import read_arrays

LIRA = ("online", "online_fixed_variance", "offline", "offline_fixed_variance")
RMIA = {"rmia": None, "rmia_offline": 0.5}
"""Their offline slopes; the second is fixed in advance where its authors choose it by a sweep."""
Floats = NDArray[np.float64]
SIGNALS, ABOUT = ("phi", "probs", "population", "keep"), ("seconds", "images", "epsilon")
"""What a world's file holds: of each sample, and of the model."""


@dataclass(frozen=True, eq=False)
class World:
    """What one model says of the audited samples.

    Attributes:
        phi: Logit of the true class for each query, [N, Q].
        probs: Probabilities of the plain query, [N, C].
        keep: Which samples it was trained with, bool [N].
        population: Probability of the true class of the population, [Z].
        seconds: What training and asking took.
        images: Training images seen.
        share: What their matrix products came to, as a share of what the machine reaches.
        epsilon: Of its DP-SGD; infinity without.
        group: Models of one group are complementary and never attack each other: with one of them among the shadows, a
            member would have one IN shadow fewer than a non-member, which the ratio of two fits would give away.
    """

    phi: Floats
    probs: Floats
    keep: NDArray[np.bool_]
    population: Floats
    seconds: float
    images: float
    share: float
    epsilon: float
    group: int = -1

    def apart(self, others: Sequence["World"]) -> list["World"]:
        """Return those of ``others`` that may attack this one."""
        return [o for o in others if o is not self and (self.group < 0 or o.group != self.group)]


@dataclass(frozen=True)
class VictimResult:
    """What one attack achieves on one victim, at the threshold most accurate on the shadows where it needs one.

    Attributes:
        accuracy: Share of the samples told correctly.
        balanced_accuracy: Mean of the shares of members and of others told correctly.
        roc: The ROC curve in numbers, with intervals, and what is withheld.
        predictive_value: Share of members among those taken for members, by share of members in the population.
        epsilon: Lower bound on the epsilon of differential privacy (delta 0), 95% confidence.
    """

    accuracy: float
    balanced_accuracy: float
    roc: RocSummary
    predictive_value: dict[float, float]
    epsilon: float


@dataclass(frozen=True)
class Outcome:
    """What one attack achieves, over victims.

    Attributes:
        attack: Its name.
        accuracy: At the threshold most accurate on the shadows, one value a victim.
        auc: One value a victim.
        tpr: At a false positive rate of 1%, one value a victim.
        victims: All that is known of each victim.
    """

    attack: str
    accuracy: list[float]
    auc: list[float]
    tpr: list[float | None]
    victims: list[VictimResult]


def read_world(path: Path, samples: int, population_labels: NDArray[np.int64], group: int = -1) -> World:
    """Read what a model said of ``samples`` audited samples and of the population.

    Raises:
        InputError: The file is missing or damaged, or the model was asked something else.
    """
    if not path.exists():
        raise InputError(f"there is no {path}; the same command goes on with what is missing")
    fix = "delete it, and the same command makes it anew"
    found = {"share": np.array(np.nan)}  # worlds from before it was measured have none
    found |= read_arrays(path, (*SIGNALS, *ABOUT), optional=("share",), kind="world", fix=fix)
    if not _fits(found, samples, population_labels):
        raise InputError(f"{path} is not a world of these samples; {fix}")
    phi, probs, others = (found[name].astype(np.float64) for name in ("phi", "probs", "population"))
    probs /= probs.sum(axis=1, keepdims=True)  # kept in single precision
    told = np.clip(others[np.arange(len(others)), population_labels], 0, 1)
    about = {name: float(found[name]) for name in (*ABOUT, "share")}
    return World(phi, probs, found["keep"], told, group=group, **about)


def _fits(found: dict[str, NDArray[Any]], samples: int, population_labels: NDArray[np.int64]) -> bool:
    """Return whether the arrays of a world are numbers of the shapes that they are written with."""
    phi, probs, population, keep = (found[name] for name in SIGNALS)
    classes = probs.shape[1] if probs.ndim == 2 else 0
    return bool(
        phi.ndim == 2
        and phi.shape[1]
        and probs.shape == (samples, classes)
        and population.shape == (len(population_labels), classes)
        and (population_labels < classes).all()
        and keep.shape == phi.shape[:1] == (samples,)
        and keep.dtype == np.bool_
        and all(x.dtype.kind == "f" and np.isfinite(x).all() for x in (phi, probs, population))
        and (probs.sum(axis=1) > 0).all()
        and all(found[name].shape == () and found[name].dtype.kind == "f" for name in (*ABOUT, "share"))
    )


def attack_victims(config: OfflineConfig, out: Path, data: DataSet) -> tuple[list[Outcome], dict[str, Any]]:
    """Attack every victim with all shadows; return the outcomes by attack, and facts about the models."""
    division = divide(data, config.shadows, config.run.seed)
    labels, others = (data.labels(ids).cpu().numpy() for ids in (division.audited, division.population))
    shadows = [read_world(world_path(out, "shadows", i), len(labels), others) for i in range(config.shadows.shadows)]
    victims = [read_world(world_path(out, "victims", i), len(labels), others) for i in range(config.shadows.victims)]
    attacker = Attacker(shadows, labels)
    return collect([attacker.attack(victim) for victim in victims]), {
        **facts(victims, shadows, labels),
        **exposure_of([*victims, *shadows], division.audited.numpy(), labels),
        "dropped_twins": division.dropped,
    }


class Attacker:
    """Shadow models, and the thresholds that are most accurate on them.

    Args:
        shadows: The models.
        labels: Of the audited samples [N].
    """

    def __init__(self, shadows: Sequence[World], labels: NDArray[np.int64]) -> None:
        self._shadows, self._labels, self._teacher = shadows, labels, shadows[0].apart(shadows)[0]
        keep = shadows[0].keep
        self._bounds = {
            name: thresholds(score, labels, keep, per_class=False)[0]
            for name, score in _single(shadows[0], self._teacher, labels).items()
        }
        self._bounds |= {f"lira_{name}": _calibrated(shadows, name) for name in LIRA}
        self._bounds |= {name: _rmia_bound(shadows, slope) for name, slope in RMIA.items()}

    def attack(self, victim: World) -> dict[str, VictimResult]:
        """Return what each attack achieves, by its name."""
        scores = _single(victim, self._teacher, self._labels)
        scores |= {f"lira_{name}": _lira(self._shadows, victim, name) for name in LIRA}
        scores |= {name: _rmia(self._shadows, victim, slope) for name, slope in RMIA.items()}
        return {name: _result(score, score >= self._bounds[name], victim.keep) for name, score in scores.items()}


def _result(score: Floats, taken: NDArray[np.bool_], member: NDArray[np.bool_]) -> VictimResult:
    tpr, fpr = float(taken[member].mean()), float(taken[~member].mean())
    return VictimResult(
        accuracy=float((taken == member).mean()),
        balanced_accuracy=0.5 * (tpr + 1 - fpr),
        roc=roc_summary(score, member),
        predictive_value={prior: predictive_value(tpr, fpr, prior) for prior in PRIORS},
        epsilon=epsilon_lower_bound(taken, member),
    )


def collect(found: Sequence[dict[str, VictimResult]]) -> list[Outcome]:
    """Return outcomes by attack from what :meth:`Attacker.attack` returned for each victim."""
    outcomes = []
    for name in found[0]:
        victims = [one[name] for one in found]
        rocs = [one.roc for one in victims]
        tpr = [roc.tpr_at_fpr[0.01] for roc in rocs]
        outcomes.append(Outcome(name, [one.accuracy for one in victims], [roc.auc for roc in rocs], tpr, victims))
    return outcomes


def _single(world: World, trained_on: World, labels: NDArray[np.int64]) -> dict[str, Floats]:
    """Return the scores that need one model's answers alone; the neural attack learns from another shadow."""
    known = (trained_on.probs, labels, trained_on.keep)
    return {**all_scores(world.probs, labels), "neural": neural_scores(world.probs, labels, *known)}


def _lira(shadows: Sequence[World], target: World, variant: str) -> Floats:
    phi, keep = np.stack([s.phi for s in shadows]), np.stack([s.keep for s in shadows])
    usable = (keep.sum(axis=0) >= 2) & ((~keep).sum(axis=0) >= 2)  # with few shadows some sample is always in, or out
    return _spread(lira_scores(phi[:, usable], keep[:, usable], target.phi[usable], variant=variant), usable)


def _spread(found: Floats, usable: NDArray[np.bool_]) -> Floats:
    """Return scores for all samples; those that no shadow tells anything of get the median, which says nothing."""
    scores = np.full(len(usable), np.median(found))
    scores[usable] = found
    return scores


def _calibrated(shadows: Sequence[World], variant: str) -> float:
    """Return the threshold most accurate on the shadows, each attacked by all others."""
    scores, keeps = [], []
    for one in shadows:
        scores.append(_lira(one.apart(shadows), one, variant))
        keeps.append(one.keep)
    score, keep = np.concatenate(scores), np.concatenate(keeps)
    return thresholds(score, np.zeros(len(score), dtype=np.int64), keep, per_class=False)[0]


def _rmia(shadows: Sequence[World], target: World, slope: float | None) -> Floats:
    labels_p = [np.exp(-np.logaddexp(0, -s.phi[:, 0])) for s in (target, *shadows)]  # sigmoid of the logit is p_y
    keep = np.stack([s.keep for s in shadows])
    usable = (keep.sum(axis=0) >= 1) & ((~keep).sum(axis=0) >= 1)
    found = rmia_scores(
        labels_p[0][usable],
        np.stack(labels_p[1:])[:, usable],
        keep[:, usable],
        target.population,
        np.stack([s.population for s in shadows]),
        offline_slope=slope,
    )
    return _spread(found, usable)


def _rmia_bound(shadows: Sequence[World], slope: float | None) -> float:
    score = _rmia(shadows[0].apart(shadows), shadows[0], slope)
    return thresholds(score, np.zeros(len(score), dtype=np.int64), shadows[0].keep, per_class=False)[0]


def exposure_of(worlds: Sequence[World], ids: NDArray[np.int64], labels: NDArray[np.int64]) -> dict[str, Any]:
    """Return what :func:`~accupoison.audit.privacy_score.exposed` makes of the plain query."""
    return exposed(np.stack([w.phi[:, 0] for w in worlds]), np.stack([w.keep for w in worlds]), ids, labels)


def facts(victims: Sequence[World], shadows: Sequence[World], labels: NDArray[np.int64]) -> dict[str, Any]:
    """Return what is to be known of the models beside the attacks."""
    everyone = [*victims, *shadows]
    hits = [w.probs.argmax(axis=1) == labels for w in victims]
    return {
        "audited": len(labels),
        "test_accuracy": [float(hit[~w.keep].mean()) for hit, w in zip(hits, victims, strict=True)],
        "train_accuracy": [float(hit[w.keep].mean()) for hit, w in zip(hits, victims, strict=True)],
        "epsilon": max(w.epsilon for w in everyone),
        "images_per_second": float(np.median([w.images / w.seconds for w in everyone])),
        "share_of_ceiling": float(np.median([w.share for w in everyone if not np.isnan(w.share)] or [np.nan])),
        "seconds": float(sum(w.seconds for w in everyone)),
    }
