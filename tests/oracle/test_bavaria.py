"""BaVarIA's variance between LiRA's two, against closed forms."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from accupoison.audit.bavaria import bavaria_scores, shrunken, student_log_density, variance_prior
from accupoison.audit.lira import lira_scores
from accupoison.audit.roc import auc_of
from tests.messages import refuses

Floats = NDArray[np.float64]


def spreads(nu0: float, count: int, n: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Return variances drawn from an inverse-gamma prior of scale 2, and sums of squares of n normals with each."""
    variance = 2.0 * nu0 / rng.chisquare(nu0, count) if np.isfinite(nu0) else np.full(count, 2.0)
    return variance, variance * rng.chisquare(n - 1, count)


def test_the_density_is_the_student_t_of_scipy() -> None:
    z, scale = np.linspace(-9, 9, 19), np.full(19, 1.7)
    for nu in (1.0, 3.5, 40.0):
        np.testing.assert_allclose(student_log_density(nu, z, scale), stats.t.logpdf(z * 1.7, nu, scale=1.7))
    np.testing.assert_allclose(student_log_density(np.inf, z, scale), stats.norm.logpdf(z * 1.7, scale=1.7))


def test_shrinkage_goes_from_the_own_variance_to_that_of_the_prior() -> None:
    assert shrunken(12.0, 4, 6.0, 2.0)[1] == pytest.approx((6 * 2 + 12) / (6 + 4))
    assert shrunken(12.0, 4, 6.0, 2.0)[0] == 10
    assert shrunken(3e6, 10**6, 6.0, 2.0)[1] == pytest.approx(3, rel=1e-4)  # many shadows: their own variance
    assert shrunken(12.0, 4, 1e9, 2.0)[1] == pytest.approx(2, rel=1e-6)  # a strong prior: its variance
    assert [float(x) for x in shrunken(12.0, 4, np.inf, 2.0)] == [np.inf, 2]
    assert [float(x) for x in shrunken(12.0, 4, 0.0, 2.0)] == [4, 3]  # none: LiRA's own variance
    assert [float(x) for x in shrunken(0.0, 0, 6.0, 2.0)] == [6, 2]  # one shadow


@pytest.mark.parametrize("nu0", [4.0, 20.0])
@pytest.mark.parametrize("n", [3, 12])
def test_the_prior_is_found_in_the_variances_that_it_made(nu0: float, n: int) -> None:
    _, squares = spreads(nu0, 40_000, n, np.random.default_rng(0))
    found, variance = variance_prior(squares, np.full(40_000, n - 1))
    assert 1 / found == pytest.approx(1 / nu0, abs=0.015)
    assert variance == pytest.approx(2, rel=0.05)


def test_equal_variances_are_pooled() -> None:
    """What they vary is what variances of n normals do, so the prior is as strong as it can be, or nearly."""
    _, squares = spreads(np.inf, 20_000, 4, np.random.default_rng(1))
    found, variance = variance_prior(squares, np.full(20_000, 3))
    assert found > 60
    assert variance == pytest.approx(2, rel=0.03)
    assert variance_prior(np.full(50, 6.0), np.full(50, 3))[0] == np.inf
    squares[:10] = 0  # shadows that agree to the last digit
    assert np.isfinite(variance_prior(squares, np.full(20_000, 3))).any()


def test_the_shrunken_variance_is_closer_to_the_truth_than_either() -> None:
    variance, squares = spreads(6.0, 20_000, 4, np.random.default_rng(2))
    shrunk = shrunken(squares, 3, *variance_prior(squares, np.full(20_000, 3)))[1]
    errors = [float(np.mean(np.log(v / variance) ** 2)) for v in (shrunk, squares / 3, squares.sum() / 60_000)]
    assert errors[0] < 0.8 * min(errors[1:])


def signals(shadows: int, count: int = 3000) -> tuple[Floats, NDArray[np.bool_]]:
    """Return signals of shadows and a target, members 1.5 higher, whose variances differ from sample to sample."""
    rng = np.random.default_rng(3)
    keep = rng.permuted(np.arange(shadows + 1)[:, None] % 2 == np.zeros((1, count)), axis=0)
    spread = np.sqrt(3.0 / rng.chisquare(3.0, (1, count, 1)))
    phi = rng.normal(0, 5, (1, count, 1)) + 1.5 * keep[:, :, None] + spread * rng.normal(size=(shadows + 1, count, 1))
    return phi, keep


def test_with_many_shadows_it_is_lira_and_with_few_it_is_better() -> None:
    phi, keep = signals(1500, 300)
    mine = bavaria_scores(phi[:-1], keep[:-1], phi[-1])
    theirs = lira_scores(phi[:-1], keep[:-1], phi[-1], variant="online")
    np.testing.assert_allclose(mine, theirs, rtol=0.05, atol=0.05)
    offline = bavaria_scores(phi[:-1], keep[:-1], phi[-1], offline=True)
    np.testing.assert_allclose(
        np.exp(offline), np.exp(lira_scores(phi[:-1], keep[:-1], phi[-1], variant="offline")), atol=0.01
    )
    phi, keep = signals(8)

    def auc(score: Floats) -> float:
        return auc_of(score, keep[-1])[0]

    few = bavaria_scores(phi[:-1], keep[:-1], phi[-1])
    for variant in ("online", "online_fixed_variance"):
        assert auc(few) > auc(lira_scores(phi[:-1], keep[:-1], phi[-1], variant=variant)) + 0.005


def test_one_shadow_on_a_side_is_enough_and_none_is_not() -> None:
    phi, keep = signals(8, 50)
    keep[:-1, 0] = np.arange(8) == 0
    assert np.isfinite(bavaria_scores(phi[:-1], keep[:-1], phi[-1])).all()
    keep[0, 0] = False
    with refuses("1 samples 1 shadow with"):
        bavaria_scores(phi[:-1], keep[:-1], phi[-1])
    with refuses("one shadow without residuals"):
        bavaria_scores(phi[:2], np.array([[True] * 50, [False] * 50]), phi[-1])
