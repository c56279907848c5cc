"""Per-sample privacy scores against its closed form."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from accupoison.audit.privacy_score import per_sample_auc, privacy_report, privacy_scores


def models(distance: np.ndarray, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return Gaussian signals that lie ``distance`` standard deviations higher in training, and who was in."""
    rng = np.random.default_rng(seed)
    keep = rng.permuted(np.tile(np.arange(count) % 2 == 0, (len(distance), 1)), axis=1).T
    return 2 * rng.normal(size=keep.shape) + 2 * distance * keep + 5, keep


def test_the_privacy_score_is_the_distance_of_the_two_gaussians() -> None:
    distance = np.linspace(-0.5, 4, 40)
    found = privacy_scores(*models(distance, 4000))
    assert np.abs(found - distance).max() < 0.15


def test_too_few_models_say_nothing() -> None:
    keep = np.array([[True] * 4 + [False] * 4, [True] * 3 + [False] * 5]).T
    phi = np.random.default_rng(0).normal(size=keep.shape)
    assert np.isfinite(privacy_scores(phi, keep)).tolist() == [True, False]


def test_the_most_vulnerable_samples_and_classes_are_named() -> None:
    distance = np.zeros(200)
    distance[[7, 150]] = 9, 6
    distance[100:] += 1
    labels = (np.arange(200) >= 100).astype(np.int64)
    found = privacy_report(*models(distance, 60), np.arange(200) + 1000, labels)
    assert [one["id"] for one in found["most_vulnerable"][:2]] == [1007, 1150]
    assert [one["class"] for one in found["most_vulnerable"][:2]] == [0, 1]
    quiet, loud = found["by_class"][0], found["by_class"][1]
    assert quiet["samples"] == loud["samples"] == 100
    assert loud["privacy_score"] - quiet["privacy_score"] == pytest.approx(1, abs=0.2)
    assert loud["auc"] == pytest.approx(0.76, abs=0.02)  # Phi(1 / sqrt 2)
    few = privacy_report(*models(distance[:6], 60), np.arange(6), np.zeros(6, dtype=np.int64))
    assert few["by_class"][0]["auc"] is None


def test_the_auc_per_sample_is_a_mean_over_samples_of_models() -> None:
    phi, keep = models(np.array([0.0] * 300), 24)
    assert per_sample_auc(phi, keep) == pytest.approx(0.5, abs=0.02)  # nothing leaks
    hard = np.random.default_rng(1).normal(0, 50, 300)  # hard and easy samples drown a pooled score, not this one
    phi, keep = models(np.array([2.0] * 300), 24)
    assert per_sample_auc(phi + hard, keep) == pytest.approx(0.921, abs=0.01)  # Phi(2 / sqrt 2)
    assert roc_auc_score(keep.ravel(), (phi + hard).ravel()) < 0.6
    assert per_sample_auc(np.round(0 * phi), keep) == 0.5  # ties
    assert per_sample_auc(phi[:7], keep[:7]) is None
