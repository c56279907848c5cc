"""Detectors of poison against values worked out another way."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from torch import Tensor, nn

from accupoison.attacks.noise import noisy
from accupoison.discrepancy import memorization_discrepancy
from accupoison.loop.detectors import (
    DETECTORS,
    Detectors,
    GaussianDiscriminant,
    GaussianMixture,
    IntrinsicDimension,
    KernelDensity,
    Rows,
)
from accupoison.models.view import view_of
from accupoison.records.tags import DETECTORS as TAGGED
from accupoison.rng import generator
from accupoison.types import Batch
from tests.messages import refuses
from tests.nets import random_batch, random_net

NAMES = tuple(DETECTORS)
OF_FEATURES = NAMES[:-1]


def rows(features: NDArray[np.float64], labels: NDArray[np.int64] | None = None) -> Rows:
    """Return rows that are taken for what they are."""
    labels = np.zeros(len(features), dtype=np.int64) if labels is None else labels
    return Rows(features, labels, labels, np.zeros(len(features)))


def gaussian(count: int, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return draws from a Gaussian with a mean of zero, and its covariance."""
    mix = np.array([[2.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.0, -0.5, 0.3]])
    return np.random.default_rng(seed).normal(size=(count, 3)) @ mix.T, mix @ mix.T


def test_the_names_are_those_of_the_tags() -> None:
    assert list(DETECTORS) == list(TAGGED)


def test_kernel_density_of_two_points() -> None:
    """One point of each of two classes, 3 apart and so the bandwidth: density of one Gaussian around its own class."""
    detector = KernelDensity(rows(np.array([[0.0, 0.0], [3.0, 0.0]]), np.array([0, 1])))
    assert detector.bandwidth == 3
    asked = np.array([[0.0, 0.0], [0.0, 4.0], [0.0, 4.0], [0.0, 4.0]])
    norm = 2 * math.log(3 * math.sqrt(2 * math.pi))
    both = -math.log((math.exp(-16 / 18) + math.exp(-25 / 18)) / 2)  # of a class that nobody has: all points
    found = detector.score(rows(asked, np.array([0, 0, 1, 7])))
    assert found == pytest.approx([norm, norm + 16 / 18, norm + 25 / 18, norm + both], rel=1e-12)


def test_kernel_density_of_many() -> None:
    points, asked = gaussian(50)[0], gaussian(9, 1)[0]
    detector = KernelDensity(rows(points))
    squares = ((asked[:, None] - points) ** 2).sum(axis=2)
    apart = np.sqrt(((points[:, None] - points) ** 2).sum(axis=2)) + 1e9 * np.eye(50)
    h = np.median(apart.min(axis=1))
    density = logsumexp(-squares / (2 * h * h), axis=1) - math.log(50) - 1.5 * math.log(2 * math.pi * h * h)
    assert detector.score(rows(asked)) == pytest.approx(-density, rel=1e-9)
    assert np.isfinite(detector.score(rows(asked + 1e3))).all()


def test_intrinsic_dimension_of_known_distances() -> None:
    """From 0, neighbours at 1, 2 and 4: -1 / mean(log 1/4, log 2/4, log 4/4) = 1 / log 2."""
    detector = IntrinsicDimension(rows(np.array([[1.0], [-2.0], [4.0]])))
    assert detector.score(rows(np.array([[0.0]]))) == pytest.approx([1 / math.log(2)])


def test_intrinsic_dimension_of_a_uniform_cloud() -> None:
    """In d dimensions the estimate from k neighbours has mean d k / (k - 2): its inverse is a sum of exponentials."""
    for dimension in (1, 2, 4):
        rng = np.random.default_rng(0)
        cloud, middle = rng.uniform(-1, 1, size=(8000, dimension)), rng.uniform(-0.3, 0.3, size=(500, dimension))
        found = IntrinsicDimension(rows(cloud)).score(rows(middle))
        assert found.mean() == pytest.approx(dimension * 20 / 18, rel=0.05)


def test_intrinsic_dimension_is_finite_where_distances_say_nothing() -> None:
    same = IntrinsicDimension(rows(np.ones((5, 2))))
    assert np.isfinite(same.score(rows(np.array([[1.0, 1.0], [2.0, 2.0]])))).all()


def test_gaussian_discriminant_is_the_mahalanobis_distance() -> None:
    drawn, covariance = gaussian(20_000)
    labels = np.arange(20_000) % 2
    shift = np.array([4.0, -1.0, 2.0])
    detector = GaussianDiscriminant(rows(drawn + labels[:, None] * shift, labels))
    assert detector.means == pytest.approx(np.stack([np.zeros(3), shift]), abs=0.05)
    asked = np.random.default_rng(1).normal(size=(30, 3))
    near = np.linalg.inv(detector.covariance.covariance_)
    by_hand = [min((x - m) @ near @ (x - m) for m in detector.means) for x in asked]
    assert detector.score(rows(asked)) == pytest.approx(by_hand, rel=1e-9)
    truth = np.linalg.inv(covariance)
    exact = [min((x - m) @ truth @ (x - m) for m in (np.zeros(3), shift)) for x in asked]
    assert detector.score(rows(asked)) == pytest.approx(exact, rel=0.05, abs=0.05)


def test_a_mixture_of_one_is_a_gaussian() -> None:
    points, asked = gaussian(500)[0], gaussian(9, 1)[0]
    variance = points.var(axis=0)
    normal = multivariate_normal(points.mean(axis=0), np.diag(variance + 1e-3 * variance.mean()))
    assert GaussianMixture(rows(points)).score(rows(asked)) == pytest.approx(-normal.logpdf(asked), rel=1e-9)


@pytest.mark.parametrize("name", OF_FEATURES)
def test_rows_far_from_the_trusted_ones_are_told(name: str) -> None:
    """Two classes on a line in a plane; poison lies off it. LID tells by dimension alone."""
    rng, labels = np.random.default_rng(0), np.arange(400) % 2
    along = rng.normal(size=400) + 6 * labels
    flat = np.stack([along, 0.01 * rng.normal(size=400), 0.01 * rng.normal(size=400)], axis=1)
    detector = DETECTORS[name](rows(flat[:300], labels[:300]))
    clean = rows(flat[300:], labels[300:])
    poison = rows(flat[300:] + np.array([0, 3.0, 3.0]), labels[300:])
    higher = (detector.score(poison)[:, None] > detector.score(clean)).mean()
    assert higher > 0.9


def trusted() -> list[Batch]:
    return [random_batch(seed, 20) for seed in range(10, 14)]


def detectors(*names: str, early: nn.Module | None = None) -> Detectors:
    return Detectors(names or NAMES, view_of(early or random_net(1)), trusted())


LIVE = view_of(random_net(0))


def aucs(made: Detectors, clean: Batch, sent: Batch) -> dict[str, float]:
    metrics: dict[str, float] = {}
    made.examine(LIVE, clean, sent, generator(0, "probe"), metrics)
    return metrics


def test_nothing_is_told_where_nothing_is_poisoned() -> None:
    clean = random_batch(2)
    metrics: dict[str, float] = {}
    scores = detectors().examine(LIVE, clean, clean, generator(0, "probe"), metrics)
    assert not metrics
    assert scores.keys() == {"sent"}
    assert not bool(scores["sent"]["poisoned"].any())


def test_noise_from_the_same_generator_is_not_told_from_itself() -> None:
    clean = random_batch(2, 20)
    clean = clean.with_x((clean.x * 64).round() / 64)  # where adding 1/4 is exact: ties stay ties
    sent = clean.with_x(noisy(clean.x, "rademacher", 0.25, generator(0, "probe")))
    found = aucs(detectors(), clean, sent)
    assert found.keys() == {f"detectors/{name}_auc_{kind}" for name in NAMES for kind in ("clean", "noise")}
    for name in NAMES:
        assert found[f"detectors/{name}_auc_noise"] == pytest.approx(0.5, abs=1e-12)
        assert found[f"detectors/{name}_auc_clean"] != 0.5


def test_black_images_are_told_from_coloured_ones() -> None:
    clean = random_batch(2, 20)
    found = aucs(detectors(*OF_FEATURES), clean, clean.with_x(torch.zeros_like(clean.x)))
    for name in ("kd", "gda", "gmm"):
        assert found[f"detectors/{name}_auc_clean"] > 0.9, name


def test_features_say_nothing_of_labels() -> None:
    clean = random_batch(2, 20)
    found = aucs(detectors(), clean, replace(clean, y=(clean.y + 1) % 10))
    assert found.keys() == {f"detectors/{name}_auc_clean" for name in NAMES}  # pixels have not moved: no noise
    told = [found[f"detectors/{name}_auc_clean"] for name in OF_FEATURES]
    assert told == pytest.approx([0.5] * 4, abs=1e-12)
    assert found["detectors/loss_auc_clean"] != 0.5


def test_scores_of_rows() -> None:
    clean = random_batch(2)
    own = random_batch(3, 2)
    sent = Batch.concat([clean.with_x(torch.cat([1 - clean.x[:2], clean.x[2:]])), own])
    made = detectors()
    scores = made.examine(LIVE, clean, sent, generator(0, "probe"), {})
    early, kinds = view_of(random_net(1)), {"sent": sent, "clean": clean}
    for kind, batch in kinds.items():
        found = scores[kind]
        assert list(found) == ["id", "poisoned", "discrepancy", *NAMES]
        assert torch.equal(found["id"], batch.ids)
        torch.testing.assert_close(found["discrepancy"], memorization_discrepancy(LIVE, early, batch.x).detach())
        drift = [F.cross_entropy(view.logits(batch.x), batch.y, reduction="none") for view in (LIVE, early)]
        torch.testing.assert_close(found["loss"], (drift[0] - drift[1]).detach())
    assert scores["sent"]["poisoned"].tolist() == [True] * 2 + [False] * 4 + [True] * 2
    assert scores["clean"]["poisoned"].tolist() == scores["noise"]["poisoned"].tolist() == [True] * 2 + [False] * 4
    for name in OF_FEATURES:  # rows that were left alone have the scores of the clean ones
        torch.testing.assert_close(scores["sent"][name][2:6], scores["clean"][name][2:])
    features = early.features(torch.cat([b.x for b in trusted()])).numpy(force=True)
    labels = torch.cat([b.y for b in trusted()]).numpy()
    by_hand = GaussianDiscriminant(rows(features, labels)).score(rows(early.features(sent.x).numpy(force=True)))
    assert scores["sent"]["gda"].numpy() == pytest.approx(by_hand, rel=1e-9)


def test_images_that_go_round_count_once() -> None:
    clean, early = random_batch(2), view_of(random_net(1))
    once, twice = (Detectors(NAMES, early, trusted() * times).scores(LIVE, clean) for times in (1, 2))
    for name in NAMES:
        torch.testing.assert_close(once[name], twice[name], rtol=0, atol=0)


class Headless(nn.Module):
    """A network whose last layer is no linear one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 10, 8, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.conv(x)
        return logits.flatten(1)


def test_what_cannot_be_fitted_is_refused() -> None:
    early = view_of(random_net(1))
    with refuses("kd,loss early snapshot start.reference"):
        Detectors(("kd", "loss"), None, trusted())
    with refuses("trusted images data.trusted"):
        Detectors(("kd",), early, [])
    with refuses("data.trusted"):
        Detectors(("kd",), early, [random_batch(0, 1)])
    with refuses("Headless no linear layer loss"):
        detectors("gda", "loss", early=Headless())
    assert detectors("loss", early=Headless()).scores(LIVE, random_batch(2)).keys() == {"discrepancy", "loss"}
