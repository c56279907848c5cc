"""What holds of membership scores and ROC curves, whatever the numbers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accupoison.audit.lira import VARIANTS, Floats, lira_scores
from accupoison.audit.roc import RocSummary, clopper_pearson, roc_summary

LEVELS = (0.01, 0.1, 0.5, 0.9)
SHADOWS, SAMPLES, QUERIES = 8, 3, 2
few = settings(max_examples=30)
scores = st.lists(st.integers(-8, 8), min_size=2, max_size=30).map(lambda values: np.array(values) / 4)  # with ties


def summary(members: Floats, others: Floats) -> RocSummary:
    member = np.arange(len(members) + len(others)) < len(members)
    return roc_summary(np.concatenate([members, others]), member, levels=LEVELS, withhold=False)


@given(scores, scores)
@few
def test_auc_is_the_share_of_pairs_in_order(members: Floats, others: Floats) -> None:
    above, level = members[:, None] > others, members[:, None] == others
    assert summary(members, others).auc == pytest.approx((above + level / 2).mean())
    assert summary(-members, -others).auc == pytest.approx(1 - summary(members, others).auc)


@given(scores, scores)
@few
def test_a_curve_forgets_the_scale_and_its_rates_rise(members: Floats, others: Floats) -> None:
    found = summary(members, others)
    assert found == summary(np.exp(3 * members) - 5, np.exp(3 * others) - 5)
    rates = [found.tpr_at_fpr[level] for level in LEVELS]
    assert rates == sorted(rates, key=float)  # type: ignore[arg-type]
    assert found.oracle_balanced_accuracy >= 0.5
    for name, value in zip(("auc", *(f"tpr@{level:g}" for level in LEVELS)), (found.auc, *rates), strict=True):
        low, high = found.intervals[name]
        assert 0 <= low <= float(value or 0) <= high <= 1


@given(st.integers(1, 500), st.data())
@few
def test_an_interval_of_a_proportion_mirrors_and_narrows(trials: int, data: st.DataObject) -> None:
    hits = data.draw(st.integers(0, trials))
    low, high = clopper_pearson(hits, trials)
    assert low <= hits / trials <= high
    assert clopper_pearson(trials - hits, trials) == pytest.approx((1 - high, 1 - low))
    more = clopper_pearson(10 * hits, 10 * trials)
    assert low - 1e-9 <= more[0] <= more[1] <= high + 1e-9


def signals(seed: int) -> tuple[Floats, "np.typing.NDArray[np.bool_]", Floats]:
    """Return signals of shadows, a half of which were trained with each sample, and of a target."""
    rng = np.random.default_rng(seed)
    keep = rng.permuted(np.arange(SHADOWS)[:, None] % 2 == np.zeros((1, SAMPLES)), axis=0)
    return rng.normal(size=(SHADOWS, SAMPLES, QUERIES)), keep, rng.normal(size=(SAMPLES, QUERIES))


@given(st.integers(0, 2**31), st.sampled_from(VARIANTS[:4]), st.floats(0.1, 10), st.floats(-9, 9))
@few
def test_a_likelihood_ratio_forgets_the_scale_and_the_order(seed: int, variant: str, scale: float, at: float) -> None:
    phi, keep, target = signals(seed)
    expected = lira_scores(phi, keep, target, variant=variant)
    scaled = lira_scores(scale * phi + at, keep, scale * target + at, variant=variant)
    np.testing.assert_allclose(scaled, expected, rtol=1e-6, atol=1e-9)
    order = np.random.default_rng(seed).permutation(SHADOWS)
    np.testing.assert_allclose(lira_scores(phi[order], keep[order], target, variant=variant), expected, rtol=1e-9)


@given(st.integers(0, 2**31), st.booleans(), st.floats(0.01, 3))
@few
def test_sides_change_the_sign_and_offline_scores_rise(seed: int, fixed: bool, more: float) -> None:
    phi, keep, target = signals(seed)
    online, offline = (f"{name}{'_fixed_variance' if fixed else ''}" for name in ("online", "offline"))
    there = lira_scores(phi, keep, target, variant=online)
    np.testing.assert_allclose(lira_scores(phi, ~keep, target, variant=online), -there, rtol=1e-9)
    low, high = (lira_scores(phi, keep, x, variant=offline) for x in (target, target + more))
    assert (low <= high).all()
    assert (low < high)[low < -1e-6].all()
