"""Membership attacks against closed forms and counts by hand."""

import math
import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from sklearn.metrics import roc_auc_score

from accupoison.audit.attack_suite import audit_samples
from accupoison.audit.calibration import Calibration
from accupoison.audit.lira import VARIANTS, lira_scores
from accupoison.audit.metric import logit_scores, predict, scores, thresholded_accuracy, thresholds
from accupoison.audit.neural import neural_scores
from accupoison.audit.results import evaluate_attack
from accupoison.audit.rmia import rmia_scores
from accupoison.audit.roc import epsilon_lower_bound, predictive_value, roc_summary
from accupoison.audit.samples import Samples, read_predictions
from tests.messages import refuses

LOCATION = Path(os.environ.get("ACCUPOISON_DATA", "data")) / "location_predictions.npz"


def simplex(rng: np.random.Generator, count: int, classes: int = 5) -> NDArray[np.float64]:
    return np.asarray(rng.dirichlet(np.ones(classes), count))


def test_metric_scores_by_hand() -> None:
    found = scores([[0.7, 0.2, 0.1], [0.5, 0.25, 0.25]], [0, 1])
    assert found["correctness"].tolist() == [1, 0]
    assert found["confidence"].tolist() == [0.7, 0.25]
    assert found["max_confidence"].tolist() == [0.7, 0.5]
    np.testing.assert_allclose(found["loss"], np.log([0.7, 0.25]))
    entropies = [
        0.7 * math.log(0.7) + 0.2 * math.log(0.2) + 0.1 * math.log(0.1),
        0.5 * math.log(0.5) + 0.5 * math.log(0.25),
    ]
    np.testing.assert_allclose(found["entropy"], entropies)
    first = 0.3 * math.log(0.7) + 0.2 * math.log(0.8) + 0.1 * math.log(0.9)
    second = 0.75 * math.log(0.25) + 0.5 * math.log(0.5) + 0.25 * math.log(0.75)
    np.testing.assert_allclose(found["modified_entropy"], [first, second])


def test_certain_answers_have_finite_scores_in_the_right_order() -> None:
    found = scores([[1.0, 0.0], [0.0, 1.0]], [0, 0])
    for name, values in found.items():
        assert np.isfinite(values).all(), name
    for name in ("correctness", "confidence", "loss", "modified_entropy"):
        assert found[name][0] > found[name][1]


def test_logit_scores_are_those_of_the_probabilities_and_do_not_cancel() -> None:
    z, y = np.random.default_rng(0).normal(size=(20, 4)), np.arange(20) % 4
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    true = p[np.arange(20), y]
    others = p.copy()
    others[np.arange(20), y] = 0
    found = logit_scores(z, y)
    np.testing.assert_allclose(found["logit"], np.log(true / (1 - true)))
    np.testing.assert_allclose(found["hinge"], np.log(true) - np.log(others.max(1)))
    np.testing.assert_allclose(found["gap"], true - others.max(1))
    assert logit_scores([[1000.0, 0.0]], [0])["logit"][0] == 1000


def test_a_threshold_is_the_largest_of_the_best_and_classes_have_their_own() -> None:
    score, labels = np.array([3.0, 2.0, 2.0, 1.0, 9.0, 8.0, 7.0]), np.array([0, 0, 0, 0, 1, 1, 2])
    member = np.array([True, True, False, False, False, True, True])
    common, own = thresholds(score, labels, member)
    assert own == {0: 3.0, 1: 8.0}  # of class 0, 3 and 2 are equally good; class 2 has no others
    assert common == 3
    assert predict(score, labels, common, own).tolist() == [True, False, False, False, True, True, True]
    assert thresholds(score, labels, member, per_class=False)[1] == {}


@pytest.mark.parametrize("per_class", [True, False])
def test_thresholds_agree_with_trying_them_all(per_class: bool) -> None:
    rng = np.random.default_rng(1)
    score, labels, member = rng.integers(0, 12, 80).astype(float), rng.integers(0, 3, 80), rng.random(80) < 0.5
    score += member * 2
    other, other_labels, other_member = rng.normal(6, 3, 50), rng.integers(0, 3, 50), rng.random(50) < 0.5

    def best(here: NDArray[np.bool_]) -> float:
        s, m = score[here], member[here]
        return float(max(((s[m] >= t).mean() + (s[~m] < t).mean(), t) for t in s)[1])

    bounds = np.array([best(labels == c if per_class else labels >= 0) for c in range(3)])[other_labels]
    taken = other >= bounds
    naive = 0.5 * (taken[other_member].mean() + (~taken[~other_member]).mean())
    assert thresholded_accuracy(
        other, other_labels, other_member, score, labels, member, per_class=per_class
    ) == pytest.approx(naive)


@pytest.mark.data
@pytest.mark.skipif(not LOCATION.exists(), reason="the predictions are not in the directory that ACCUPOISON_DATA names")
def test_location30_as_published() -> None:
    """Balanced accuracies that the released code of Song and Mittal (USENIX Security 2021) prints for Location-30."""
    target, shadow = read_predictions(LOCATION)
    assert shadow is not None
    mine, its = (scores(s.probs, s.labels) for s in (target, shadow))
    found = {
        name: thresholded_accuracy(mine[name], target.labels, target.member, its[name], shadow.labels, shadow.member)
        for name in ("correctness", "confidence", "entropy", "modified_entropy")
    }
    published = {"correctness": 0.687, "confidence": 0.763, "entropy": 0.616, "modified_entropy": 0.781}
    assert found == pytest.approx(published, abs=6e-4)


def test_roc_agrees_with_scikit_learn_and_counts() -> None:
    rng = np.random.default_rng(2)
    member = np.arange(4000) % 2 == 0
    score = np.round(rng.normal(size=4000) + member, 1)  # with ties
    found = roc_summary(score, member)
    assert found.auc == pytest.approx(roc_auc_score(member, score))
    low, high = found.intervals["auc"]
    assert low < stats.norm.cdf(1 / math.sqrt(2)) < high
    assert 0.02 < high - low < 0.04
    for level in (0.1, 0.01):
        reached = max(
            (score[member] >= t).mean() for t in [*np.unique(score), np.inf] if (score[~member] >= t).mean() < level
        )
        assert found.tpr_at_fpr[level] == pytest.approx(reached)
    assert found.tpr_at_fpr[0.001] is None
    assert found.withheld == {0.001: "2000 non-members are fewer than 10000"}
    assert roc_summary(score, member, withhold=False).tpr_at_fpr[0.001] is not None


def test_infinite_scores_are_scores_and_nan_is_refused() -> None:
    assert roc_summary([np.inf, 1.0, -np.inf, 0.0], [True, True, False, False]).auc == 1
    with refuses("1 2 NaN"):
        roc_summary([np.nan, 1.0], [True, False])
    with refuses("0 2 samples members"):
        roc_summary([0.0, 1.0], [False, False])


@pytest.mark.parametrize("form", ["default", "released"])
@pytest.mark.parametrize("variant", VARIANTS[:4])
def test_lira_reaches_the_bayes_optimal_auc_on_gaussians(variant: str, form: str) -> None:
    """IN ~ N(d, 1), OUT ~ N(0, 1) around a centre of each sample's own: the best AUC is Phi(d / sqrt 2)."""
    rng, shadows, count, d = np.random.default_rng(3), 256, 3000, 1.5
    centre = rng.normal(0, 5, (1, count, 1))
    keep = rng.permuted(np.arange(shadows + 1)[:, None] % 2 == np.zeros((1, count)), axis=0)
    phi = centre + d * keep[:, :, None] + rng.normal(size=(shadows + 1, count, 1))
    found = roc_summary(lira_scores(phi[:-1], keep[:-1], phi[-1], variant=variant, form=form), keep[-1])
    low, high = found.intervals["auc"]
    best = stats.norm.cdf(d / math.sqrt(2))
    if variant.startswith("offline") and form == "released":
        assert high < best  # two-sided: a signal far below OUT counts as a member's
    else:
        assert low < best < high + 0.01  # 256 shadows cost a little


def test_membership_at_random_cannot_be_told() -> None:
    rng = np.random.default_rng(4)
    keep = rng.random((33, 2000)) < 0.5
    phi = rng.normal(size=(33, 2000, 2))
    for variant in VARIANTS:
        low, high = roc_summary(lira_scores(phi[:-1], keep[:-1], phi[-1], variant=variant), keep[-1]).intervals["auc"]
        assert low < 0.5 < high


def test_samples_are_scored_one_by_one() -> None:
    rng = np.random.default_rng(5)
    phi, keep, order = rng.normal(size=(9, 30, 2)), np.arange(9)[:, None] % 2 == np.arange(30) % 2, rng.permutation(30)
    for variant in VARIANTS:
        whole = lira_scores(phi[:-1], keep[:-1], phi[-1], variant=variant)
        mixed = lira_scores(phi[:-1, order], keep[:-1, order], phi[-1, order], variant=variant)
        np.testing.assert_allclose(mixed, whole[order], rtol=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"variant": "on-line"}, "LiRA 'on-line' online"),
        ({"form": "releasd"}, "LiRA 'releasd' released"),
        ({"target": np.zeros((4, 1))}, "do not fit"),
        ({"keep": np.ones((6, 5), bool)}, "5 samples 2 shadow without"),
        ({"phi": np.full((6, 5, 1), np.inf)}, "not finite"),
    ],
)
def test_lira_says_what_is_wrong(change: dict[str, object], message: str) -> None:
    given = {
        "phi": np.zeros((6, 5, 1)),
        "keep": np.arange(6)[:, None] % 2 == np.zeros((1, 5)),
        "target": np.zeros((5, 1)),
        "variant": "online",
        "form": "default",
    }
    with refuses(message):
        lira_scores(**{**given, **change})


def test_rmia_by_hand() -> None:
    """Ratios: 0.9 / 0.6 = 1.5 and 0.2 / 0.3 = 2/3; of the population 1, 0.5 and 2."""
    shadows, keep = np.array([[0.8, 0.3], [0.4, 0.3]]), np.array([[True, False], [False, True]])
    population, theirs = np.array([0.4, 0.1, 0.8]), np.array([[0.4, 0.2, 0.4], [0.4, 0.2, 0.4]])
    found = rmia_scores([0.9, 0.2], shadows, keep, population, theirs, gamma=1)
    np.testing.assert_allclose(found, [2 / 3, 1 / 3])
    strict = rmia_scores([0.9, 0.2], shadows, keep, population, theirs, gamma=2)
    np.testing.assert_allclose(strict, [1 / 3, 0])
    offline = rmia_scores([0.9, 0.2], shadows, keep, population, theirs, gamma=1, offline_slope=1)
    np.testing.assert_allclose(offline, [1, 1 / 3])  # 0.9 / 0.4 = 2.25 beats all


def test_rmia_refuses_what_is_no_probability() -> None:
    ones = np.ones((2, 1))
    with refuses("outside [0, 1]"):
        rmia_scores([1.5], ones, [[True], [False]], [0.5], ones)
    with refuses("1 samples no shadow"):
        rmia_scores([0.5], ones, [[False], [False]], [0.5], ones)


def overfit(rng: np.random.Generator, count: int) -> Samples:
    """Return samples of a model that is surer of its members."""
    labels, member = rng.integers(0, 5, count), np.arange(count) % 2 == 0
    sharp = np.where(member, 4.0, 1.0)[:, None] * np.eye(5)[labels] + rng.normal(size=(count, 5))
    probs = np.exp(sharp) / np.exp(sharp).sum(1, keepdims=True)
    return Samples(probs, labels, member, np.arange(count) + 100)


def test_the_neural_attack_learns_and_does_not_depend_on_the_order_of_classes() -> None:
    rng = np.random.default_rng(6)
    shadow, target = overfit(rng, 1500), overfit(rng, 600)
    against = (shadow.probs, shadow.labels, shadow.member)
    found = neural_scores(target.probs, target.labels, *against)
    assert roc_summary(found, target.member).auc > 0.7
    np.testing.assert_array_equal(found, neural_scores(target.probs[:, ::-1], 4 - target.labels, *against))


def test_results_name_the_most_vulnerable_and_use_the_calibration_alone() -> None:
    rng = np.random.default_rng(7)
    target, shadow = overfit(rng, 400), overfit(rng, 400)
    score = np.where(target.member, 1.0, 0.0)
    misled = thresholds(np.where(shadow.member, 0.0, 1.0), shadow.labels, shadow.member)
    useless = evaluate_attack("x", score, target, misled, Calibration(score[None], target.member[None]))
    assert useless.roc.auc == 1
    assert useless.balanced_accuracy == 0.5  # the calibration was misled, and the samples cannot mend it
    assert set(useless.most_vulnerable) <= set(target.ids[target.member].tolist())


def test_without_a_shadow_a_half_is_reported() -> None:
    by_name = audit_samples(overfit(np.random.default_rng(8), 500), None)
    assert {len(result.score) for result in by_name.values()} == {250}
    assert {len(result.samples.labels) for result in by_name.values()} == {250}
    assert by_name["confidence"].roc.auc > 0.7
    assert by_name["confidence"].predictive_value[0.5] > by_name["confidence"].predictive_value[0.01]


def test_predictive_value_is_bayes_rule() -> None:
    assert predictive_value(0.5, 0.1, 0.1) == pytest.approx(0.05 / (0.05 + 0.09))
    assert math.isnan(predictive_value(0, 0, 0.5))


def test_epsilon_is_bounded_from_below_by_what_was_seen() -> None:
    """Randomised response with epsilon 1: the bound approaches it from below."""
    rng, member = np.random.default_rng(9), np.arange(200_000) % 2 == 0
    truthful = rng.random(200_000) < math.e / (1 + math.e)
    bound = epsilon_lower_bound(member == truthful, member)
    assert 0.95 < bound < 1
    assert epsilon_lower_bound(rng.random(1000) < 0.5, np.arange(1000) % 2 == 0) < 0.3
    assert epsilon_lower_bound([False, False], [True, False]) == 0
