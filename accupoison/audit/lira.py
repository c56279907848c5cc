"""The likelihood-ratio attack on arrays of signals (LiRA; Carlini et al., S&P 2022)."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import log_ndtr

from accupoison.errors import InputError, check_choice

Floats = NDArray[np.float64]
VARIANTS = ("online", "online_fixed_variance", "offline", "offline_fixed_variance", "global_threshold")
FORMS = ("default", "released")


def lira_scores(phi: ArrayLike, keep: ArrayLike, target: ArrayLike, *, variant: str, form: str = "default") -> Floats:
    """Return how much likelier the target's signals are of a member, per sample.

    Two Gaussians are fitted to each sample's signals: to those of the shadow models trained with it (IN) and of those
    trained without (OUT). Log densities are averaged over queries.

    Args:
        phi: Signals of the shadow models [M, N, Q], such as the logit of the true class for Q augmented queries.
        keep: Shadow m was trained with sample n, bool [M, N].
        target: Signals of the audited model [N, Q].
        variant: "online" (IN against OUT; Algorithm 1), "offline" (OUT alone; Equation 4), each also as
            "..._fixed_variance" (one variance for all samples, better with few shadows), or "global_threshold"
            (the target's mean signal, no shadows).
        form: "default": all shadows, means, unbiased variances, fixed variances from residuals around each sample's own
            mean, and offline the one-sided log P(OUT signal < target's). "released": as the authors' code has it: the
            same number of shadows for all samples, in order; medians; plain variances, the fixed one of all signals
            taken together (online that of the IN signals for both sides); and offline a two-sided minus log density.

    Returns:
        Scores float64 [N], higher for likelier members.

    Raises:
        InputError: Shapes do not fit, a name is unknown, or a sample has too few shadows on a side that is needed.
    """
    for kind, word, known in (("variant", variant, VARIANTS), ("form", form, FORMS)):
        check_choice(f"LiRA {kind}", word, known)
    signals, member, observed = checked_signals(phi, keep, target)
    if variant == "global_threshold":
        return np.asarray(observed.mean(axis=1))
    online, fixed = variant.startswith("online"), variant.endswith("fixed_variance")
    fit = _released if form == "released" else _fitted
    out_mean, out_std = fit(signals, ~member, fixed, "without")
    if online:
        in_mean, in_std = fit(signals, member, fixed, "with")
        out_std = in_std if fixed and form == "released" else out_std
        ratio = _log_density(observed, in_mean, in_std) - _log_density(observed, out_mean, out_std)
    elif form == "released":
        ratio = -_log_density(observed, out_mean, out_std)
    else:
        ratio = log_ndtr((observed - out_mean) / out_std)
    return np.asarray(ratio.mean(axis=1), dtype=np.float64)


def _log_density(x: Floats, mean: Floats, std: Floats) -> Floats:
    """Return the log density of normal distributions at ``x``."""
    density: Floats = -(((x - mean) / std) ** 2) / 2 - 0.5 * np.log(2 * np.pi) - np.log(std)
    return density


def checked_signals(phi: ArrayLike, keep: ArrayLike, target: ArrayLike) -> tuple[Floats, NDArray[np.bool_], Floats]:
    """Return signals, membership and the target's signals of an attack as float64, bool and float64.

    Args:
        phi: Signals of the shadow models [M, N, Q].
        keep: Shadow m was trained with sample n, bool [M, N].
        target: Signals of the audited model [N, Q].

    Raises:
        InputError: Shapes do not fit, or a value is not finite.
    """
    signals = np.asarray(phi, dtype=np.float64)
    member = np.asarray(keep, dtype=bool)
    observed = np.asarray(target, dtype=np.float64)
    if signals.ndim != 3 or member.shape != signals.shape[:2] or observed.shape != signals.shape[1:]:
        raise InputError(
            f"phi {list(signals.shape)}, keep {list(member.shape)} and target {list(observed.shape)} do not fit; "
            "give [M, N, Q], [M, N] and [N, Q]"
        )
    if not (np.isfinite(signals).all() and np.isfinite(observed).all()):
        raise InputError("phi or target holds values that are not finite; clip the signals, or leave the samples out")
    return signals, member, observed


def _fitted(phi: Floats, chosen: NDArray[np.bool_], fixed: bool, side: str) -> tuple[Floats, Floats]:
    """Return means [N, Q] and standard deviations ([Q] if ``fixed``) over the chosen shadows of each sample."""
    count = chosen.sum(axis=0)
    enough(count, 1 if fixed else 2, side)
    weight = chosen[:, :, None]
    mean = (phi * weight).sum(axis=0) / count[:, None]
    squares = (np.square(phi - mean) * weight).sum(axis=0)
    if fixed:
        if int((count - 1).sum()) < 1:
            raise InputError(f"one shadow {side} each sample leaves no residuals; train more shadow models")
        return mean, np.sqrt(squares.sum(axis=0) / (count - 1).sum()) + 1e-30
    return mean, np.sqrt(squares / (count - 1)[:, None]) + 1e-30


def _released(phi: Floats, chosen: NDArray[np.bool_], fixed: bool, side: str) -> tuple[Floats, Floats]:
    """Return medians [N, Q] and standard deviations (a scalar if ``fixed``), the same number of shadows for all."""
    count = int(chosen.sum(axis=0).min())
    enough(np.array([count]), 1, side)
    first = np.argsort(~chosen, axis=0, kind="stable")[:count]  # the chosen shadows of each sample, in order
    taken = np.take_along_axis(phi, first[:, :, None], axis=0)
    spread = np.asarray(taken.std() if fixed else taken.std(axis=0))
    return np.median(taken, axis=0), spread + 1e-30


def enough(count: NDArray[np.int64], least: int, side: str) -> None:
    """Raise InputError unless each sample has enough shadows on a side.

    Args:
        count: Its shadows there [N].
        least: So many are needed.
        side: "with" or "without".
    """
    if (count < least).any():
        raise InputError(
            f"{int((count < least).sum())} samples have fewer than {least} shadow models trained {side} them; "
            "train more shadow models, or leave those samples out"
        )
