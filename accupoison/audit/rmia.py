"""The robust membership inference attack on arrays of probabilities (RMIA; Zarifzadeh et al., ICML 2024)."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from accupoison.audit.metric import TINY, Floats
from accupoison.errors import InputError


def rmia_scores(
    target: ArrayLike,
    shadows: ArrayLike,
    keep: ArrayLike,
    population_target: ArrayLike,
    population_shadows: ArrayLike,
    *,
    gamma: float = 2.0,
    offline_slope: float | None = None,
) -> Floats:
    """Return the share of the population that each sample's likelihood ratio beats by ``gamma`` (Equations 2 to 4).

    The ratio of a sample is its probability under the audited model over its average under the shadow models.

    Args:
        target: Probability of the true class under the audited model [N].
        shadows: The same under the shadow models [M, N].
        keep: Shadow m was trained with sample n, bool [M, N].
        population_target: Probability of the true class of samples that no model was trained with [Z].
        population_shadows: The same under the shadow models [M, Z].
        gamma: How many times larger a sample's ratio must be, above 0.
        offline_slope: None averages IN and OUT shadows alike (online). A number a in [0, 1] uses OUT shadows alone,
            p(x) = ((1 + a) p_OUT(x) + 1 - a) / 2 (offline; Appendix B.2.2).

    Returns:
        Scores float64 [N] in [0, 1], higher for likelier members. Costs O((N + Z) log Z).

    Raises:
        InputError: Shapes do not fit, a value is no probability, or a sample lacks shadows on a side that is needed.
    """
    p, s, k = np.asarray(target, float), np.asarray(shadows, float), np.asarray(keep, dtype=bool)
    q, r = np.asarray(population_target, float), np.asarray(population_shadows, float)
    fits = p.ndim == q.ndim == 1 and k.shape == s.shape and s.shape[1:] == p.shape and r.shape == (len(s), len(q))
    if not fits or len(q) == 0:
        raise InputError(
            f"target {list(p.shape)}, shadows {list(s.shape)}, keep {list(k.shape)}, population {list(q.shape)} and "
            f"{list(r.shape)} do not fit; give [N], [M, N], [M, N], [Z] and [M, Z]"
        )
    for values in (p, s, q, r):
        if not ((values >= 0) & (values <= 1)).all():
            raise InputError("a probability is outside [0, 1]; give the probability of the true class, after softmax")
    if gamma <= 0:
        raise InputError(f"gamma {gamma} is not above 0; 2 is usual")
    if offline_slope is not None and not 0 <= offline_slope <= 1:
        raise InputError(f"the offline slope {offline_slope} is outside [0, 1]; 0.3 is usual")
    out = _mean(s, ~k, "without")
    if offline_slope is None:
        average, population = 0.5 * (out + _mean(s, k, "with")), r.mean(axis=0)
    else:
        average, population = (0.5 * ((1 + offline_slope) * m + 1 - offline_slope) for m in (out, r.mean(axis=0)))
    ratio = p / np.maximum(average, TINY)
    beaten = np.sort(gamma * q / np.maximum(population, TINY))
    return np.searchsorted(beaten, ratio, side="right") / len(q)


def _mean(values: Floats, chosen: NDArray[np.bool_], side: str) -> Floats:
    count = chosen.sum(axis=0)
    if (count == 0).any():
        raise InputError(
            f"{int((count == 0).sum())} samples have no shadow model trained {side} them; train more shadow models"
        )
    return np.asarray((values * chosen).sum(axis=0) / count)
