"""Realised rates, calibrated samples and exposed sets against counts by hand."""

import numpy as np
import pytest
from scipy import stats

from accupoison.audit.calibration import (
    Calibration,
    bar,
    best_rows,
    exposed_sets,
    per_sample_scores,
    realised_fpr,
    signal_gap,
    worst_decile,
)
from accupoison.audit.results import by_attack, evaluate_attack, spread_table
from accupoison.audit.roc import clopper_pearson, roc_summary
from accupoison.audit.samples import Samples

RNG = np.random.default_rng(0)


def test_the_realised_rate_is_a_count_with_its_exact_interval() -> None:
    """The shadows' threshold of 10% is 91: nine of hundred score above it, and 30 of the target's 200 do."""
    known = Calibration(np.arange(1.0, 201)[None], (np.arange(1, 201) > 100)[None])
    assert bar(np.arange(1.0, 101), 0.1) == 91
    score = np.concatenate([np.full(50, 1000.0), np.full(30, 95.0), np.full(170, 5.0)])
    found = realised_fpr(known, score, np.arange(250) < 50)
    exact = stats.binomtest(30, 200).proportion_ci(0.95, method="exact")
    assert found[0.1] == {
        "calibration": 0.09,
        "target": 0.15,
        "interval": (pytest.approx(exact.low), pytest.approx(exact.high)),
        "covers": False,
    }
    assert found[0.01] is None  # of hundred non-members one is 1%
    assert found[0.001] is None


@pytest.mark.parametrize("hits", [0, 1, 7, 399, 400])
def test_the_exact_interval_is_that_of_scipy(hits: int) -> None:
    for alternative in ("two-sided", "greater", "less"):
        exact = stats.binomtest(hits, 400, alternative=alternative).proportion_ci(0.95, method="exact")
        assert clopper_pearson(hits, 400, alternative=alternative) == pytest.approx((exact.low, exact.high), abs=1e-10)


def test_the_realised_rate_covers_the_nominal_one_where_models_are_alike() -> None:
    member = RNG.random((10, 4000)) < 0.5
    known = Calibration(RNG.normal(size=member.shape) + member, member)
    covered = 0
    for _ in range(50):
        mine = RNG.random(4000) < 0.5
        one = realised_fpr(known, RNG.normal(size=4000) + mine, mine)[0.01]
        assert one is not None
        covered += one["covers"]
    assert covered >= 43  # of 50 at 95%, less than one in a thousand below


def test_ties_are_not_counted_above_the_bar() -> None:
    others = np.repeat([0.0, 1.0], 500)
    assert (others > bar(others, 0.1)).mean() == 0
    assert (others > bar(others, 0.51)).mean() == 0.5


def test_a_calibrated_sample_has_the_same_false_positive_rate_as_any_other() -> None:
    """Samples of unlike means and spreads: a pooled threshold spends all on those that vary; calibrated they share."""
    shadows, count = 10, 40_000
    centre, spread = np.repeat([0.0, 3.0], count // 2), np.repeat([1.0, 4.0], count // 2)
    member = np.zeros((shadows, count), dtype=bool)
    known = Calibration(centre + spread * RNG.normal(size=member.shape), member, per_sample=True)
    score = centre + spread * RNG.normal(size=count)
    own = per_sample_scores(known, score)
    assert own is not None
    p = -own
    for half in (slice(0, count // 2), slice(count // 2, count)):
        assert (p[half] < 0.01).mean() == pytest.approx(0.01, abs=0.003)
    pooled = score > bar(score, 0.01)
    assert pooled[: count // 2].sum() == 0
    by_hand = stats.t.sf(
        (score[0] - known.score[:, 0].mean()) / (known.score[:, 0].std(ddof=1) * np.sqrt(1.1)), shadows - 1
    )
    assert p[0] == pytest.approx(by_hand)


def test_calibration_shows_what_easy_and_hard_samples_drown() -> None:
    hard = RNG.normal(0, 50, 3000)
    member = RNG.random((21, 3000)) < 0.5
    score = hard + RNG.normal(size=member.shape) + 4 * member
    own = per_sample_scores(Calibration(score[1:], member[1:], per_sample=True), score[0])
    assert own is not None
    known = ~np.isnan(own)
    assert roc_summary(own[known], member[0][known]).auc > 0.97
    assert roc_summary(score[0], member[0]).auc < 0.6


def test_too_few_shadows_and_equal_scores() -> None:
    member = np.zeros((4, 2), dtype=bool)
    member[0, 0] = True
    own = per_sample_scores(Calibration(np.ones((4, 2)), member, per_sample=True), np.ones(2))
    assert own is not None
    assert np.isnan(own[0])
    assert own[1] == -0.5
    assert per_sample_scores(Calibration(np.ones((3, 2)), member[:3], per_sample=True), np.ones(2)) is None
    assert per_sample_scores(Calibration(np.ones((4, 2)), member), np.ones(2)) is None  # fits that are crossed


def test_exposed_sets_by_hand() -> None:
    """Three models of 200 samples; the first 100 are members of all, of which each exposes some."""
    member = np.arange(200) < 100
    scores = [np.where(member, -1.0, 0.0) for _ in range(3)]
    for score, exposed in zip(scores, ([0, 1, 2, 3], [2, 3, 4, 5], []), strict=True):
        score[exposed] = 9
    found = exposed_sets(scores, [member] * 3)
    ten = found[0.1]
    assert ten is not None
    assert ten["jaccard"] == pytest.approx((2 / 6 + 0 + 0) / 3)
    assert ten["pairs"] == 3
    assert ten["support"] == [6, 2, 0]
    assert ten["learnt"] == [100, 100, 100]
    assert ten["chance"] == pytest.approx(0.04 * 0.04 / (0.08 - 0.0016) / 3)
    assert found[0.01] is None
    assert exposed_sets(scores[:1], [member])[0.1] is None
    split = exposed_sets(scores[:2], [np.arange(200) < 3, (np.arange(200) > 1) & (np.arange(200) < 100)])[0.1]
    assert split is not None
    assert split["jaccard"] == 1  # of the two samples that both have learnt, 2 alone is exposed by both


def test_the_worst_decile_is_chosen_without_the_target() -> None:
    count = 4000
    told = np.where(np.arange(count) < 400, 3.0, 0.0)
    keep = RNG.random((9, count)) < 0.5
    phi = RNG.normal(size=keep.shape) + told * keep
    gap = signal_gap(phi[:-1], keep[:-1])
    found = worst_decile(phi[-1], keep[-1], gap)
    assert found is not None
    assert found["samples"] == np.isfinite(gap).sum() // 10
    assert found["auc"] > 0.85
    noise = worst_decile(RNG.normal(size=count), keep[-1], gap)
    assert noise is not None
    assert noise["interval"][0] < 0.5 < noise["interval"][1]
    gap[:] = np.nan
    assert worst_decile(phi[-1], keep[-1], gap) is None
    by_score = worst_decile(phi[-1], keep[-1], None)
    assert by_score is not None
    assert by_score["members"] > 0.7
    tied = worst_decile(np.repeat([1.0, 0.0], 200), np.arange(400) < 50, None)  # correctness, members first
    assert tied is not None
    assert (tied["samples"], tied["members"], tied["of_all"]) == (200, 0.25, 0.125)
    assert worst_decile(np.arange(99.0), np.arange(99) < 50, None) is None
    assert signal_gap(np.array([[3.0], [1.0], [0.0], [2.0]]), np.array([[True], [True], [False], [False]]))[0] == 1
    assert np.isnan(signal_gap(np.ones((3, 1)), np.array([[True], [False], [False]]))[0])


def test_tables_have_both_rates_by_name() -> None:
    """A signal with a spread of hard and easy samples: calibrated it tells members, pooled it does not."""
    rng, count = np.random.default_rng(5), 3000
    keep = rng.random((12, count)) < 0.5
    score = rng.normal(0, 20, count) + rng.normal(size=keep.shape) + 5 * keep
    half = np.full((count, 2), 0.5)
    models = []
    for target in range(2):
        samples = Samples(half, np.zeros(count, dtype=np.int64), keep[target], np.arange(count))
        known = Calibration(score[2:], keep[2:], signal_gap(score[2:], keep[2:]), per_sample=True)
        models.append({"signal": evaluate_attack("signal", score[target], samples, (0.0, {}), known)})
    attacks = by_attack(models)
    (row,) = spread_table(attacks)
    assert float(row["TPR at 1.0% FPR (pooled)"].split()[0]) < 0.1
    assert float(row["TPR at 1.0% FPR (per-sample calibrated)"].split()[0]) > 0.7
    assert float(row["FPR of the shadows' 1.0%"].split()[0]) == pytest.approx(0.01, abs=0.005)
    assert row["Jaccard at 1.0% FPR"]
    said = best_rows(attacks)
    assert [one["control"] for one in said] == [
        "FPR of the shadows' 1.0%, signal",
        "FPR of the shadows' 0.1%, signal",
        "exposed at 10.0% FPR, signal",
        "exposed at 1.0% FPR, signal",
    ]
    assert "of 2 cover" in said[0]["found"]
