"""The likelihood-ratio attack with shrunken variances (BaVarIA; arXiv 2603.11799) on arrays of signals."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaln, log_ndtr, polygamma, psi, stdtr

from accupoison.audit.lira import Floats, checked_signals, enough
from accupoison.audit.metric import TINY
from accupoison.errors import InputError

POOLED_FROM = 1e6
"""Degrees of freedom of a prior from which on all samples have one variance and the densities are normal."""


def bavaria_scores(phi: ArrayLike, keep: ArrayLike, target: ArrayLike, *, offline: bool = False) -> Floats:
    """Return how much likelier the target's signals are of a member, per sample, by Student-t predictive densities.

    The signals x_1..x_n of a sample on a side (IN or OUT) are normal with a flat prior on the mean and an inverse-gamma
    prior, of ``nu0`` degrees of freedom and scale ``s0``, on the variance. The posterior variance has nu = nu0 + n - 1
    degrees of freedom and the scale

        s^2 = (nu0 s0^2 + sum (x_i - mean)^2) / (nu0 + n - 1),

    and the target's signal is a Student-t variable with nu degrees of freedom around the mean, of scale
    s sqrt(1 + 1/n) (the conjugate normal-inverse-gamma update). nu0 and s0 are those of :func:`variance_prior`, fitted
    to the variances of all samples of a side; the paper's own choice of them may differ. Between LiRA's variance for
    each sample (nu0 = 0) and its fixed one (nu0 infinite), as the signals decide.

    Args:
        phi: Signals of the shadow models [M, N, Q].
        keep: Shadow m was trained with sample n, bool [M, N].
        target: Signals of the audited model [N, Q].
        offline: Take OUT alone: log P(OUT signal < target's); else the log ratio of IN against OUT.

    Returns:
        Scores float64 [N], higher for likelier members; a mean over queries, as LiRA's.

    Raises:
        InputError: Shapes do not fit, or a sample has no shadow on a side that is needed.
    """
    signals, member, observed = checked_signals(phi, keep, target)
    nu, distance, scale = _predictive(signals, ~member, observed, "without")
    if offline:
        below = np.where(np.isinf(nu), log_ndtr(distance), np.log(np.maximum(stdtr(nu, distance), TINY)))
        return np.asarray(below.mean(axis=1))
    ratio = student_log_density(*_predictive(signals, member, observed, "with"))
    return np.asarray((ratio - student_log_density(nu, distance, scale)).mean(axis=1))


def _predictive(phi: Floats, chosen: NDArray[np.bool_], observed: Floats, side: str) -> tuple[Floats, Floats, Floats]:
    """Return degrees of freedom, distances from the mean in scales, and scales of a side's predictive, [N, Q] each."""
    count = chosen.sum(axis=0)
    enough(count, 1, side)
    weight, n = chosen[:, :, None], count[:, None]
    mean = (phi * weight).sum(axis=0) / n
    squares = (np.square(phi - mean) * weight).sum(axis=0)
    fitted = [variance_prior(squares[count > 1, q], count[count > 1] - 1, side) for q in range(phi.shape[2])]
    nu0, variance0 = np.array(fitted).T
    nu, variance = shrunken(squares, n - 1, nu0, variance0)
    scale = np.sqrt(variance * (1 + 1 / n))
    return nu, (observed - mean) / scale, scale


def shrunken(squares: ArrayLike, dof: ArrayLike, nu0: ArrayLike, variance0: ArrayLike) -> tuple[Floats, Floats]:
    """Return degrees of freedom and value of variances that a prior has drawn toward its own.

    Args:
        squares: Sums of squares around the means.
        dof: Their degrees of freedom, n - 1.
        nu0: Degrees of freedom of the prior; infinite takes its variance for all.
        variance0: Variance of the prior, above 0.
    """
    squares, dof, nu0, variance0 = (np.asarray(x, dtype=np.float64) for x in (squares, dof, nu0, variance0))
    pooled = np.isinf(nu0)
    nu = nu0 + dof
    finite = np.where(pooled, 0.0, nu0)
    own = (finite * variance0 + squares) / np.where(pooled, 1.0, np.maximum(nu, TINY))
    return nu, np.maximum(np.where(pooled, variance0, own), 1e-60)


def variance_prior(squares: Floats, dof: NDArray[np.int64], side: str = "on") -> tuple[float, float]:
    """Return the prior under which sample variances vary as they do: empirical Bayes by moments of their logarithms.

    The variances s^2 = squares / dof are s0^2 times F(dof, nu0) under it, whose logarithm has a known mean and the
    variance trigamma(dof/2) + trigamma(nu0/2) (Smyth 2004, Section 6.2).

    Args:
        squares: Sums of squares of samples around their means [n].
        dof: Their degrees of freedom, above 0 [n].
        side: Of the shadows, for the message.

    Returns:
        Degrees of freedom, infinite where the variances vary no more than those of equal distributions do; and the
        variance.

    Raises:
        InputError: No sample has a degree of freedom.
    """
    if not len(dof):
        raise InputError(f"one shadow {side} each sample leaves no residuals; train more shadow models")
    variance = squares / dof
    variance = np.maximum(variance, max(1e-5 * float(np.median(variance)), 1e-60))  # a logarithm of 0 would be all
    logs = np.log(variance) - psi(dof / 2) + np.log(dof / 2)
    mean = float(logs.mean())
    excess = float(logs.var(ddof=1) - polygamma(1, dof / 2).mean()) if len(dof) > 1 else 0.0
    half = _inverse_trigamma(excess) if excess > 0 else np.inf
    if 2 * half > POOLED_FROM:
        return np.inf, float(np.exp(mean))
    return 2 * half, float(np.exp(mean + psi(half) - np.log(half)))


def _inverse_trigamma(value: float) -> float:
    """Return the x above 0 with trigamma(x) = ``value``, by Newton's method on 1 / trigamma, which is convex."""
    x = 0.5 + 1 / value
    for _ in range(50):
        trigamma = float(polygamma(1, x))
        step = trigamma * (1 - trigamma / value) / float(polygamma(2, x))
        x += step
        if abs(step) < 1e-10 * x:
            break
    return x


def student_log_density(nu: ArrayLike, distance: ArrayLike, scale: ArrayLike) -> Floats:
    """Return the log density of Student-t variables.

    Args:
        nu: Degrees of freedom; infinite for normal variables.
        distance: From the mean, in scales.
        scale: Above 0.
    """
    nu, z, s = np.broadcast_arrays(*(np.asarray(x, dtype=np.float64) for x in (nu, distance, scale)))
    finite = np.where(np.isinf(nu), 1.0, nu)
    student = gammaln((finite + 1) / 2) - gammaln(finite / 2) - 0.5 * np.log(finite * np.pi)
    student = student - (finite + 1) / 2 * np.log1p(z**2 / finite)
    normal = -0.5 * np.log(2 * np.pi) - z**2 / 2
    return np.asarray(np.where(np.isinf(nu), normal, student) - np.log(s))
