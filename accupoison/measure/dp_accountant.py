"""What DP-SGD has spent: epsilon of those who were in the stream, from exact visits."""

import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field

from accupoison.records.ledger import PHASES, Ledger
from accupoison.types import Phase, Step, Verdict


def gaussian_delta(epsilon: float, mu: float) -> float:
    """Return the least delta at which a Gaussian mechanism of sensitivity over noise ``mu`` is (epsilon, delta)-DP.

    Balle and Wang (ICML 2018), Theorem 8; exact, so no other accounting of the same mechanism gives less.
    """
    from scipy.special import log_ndtr, ndtr  # here and below, because few runs are private and all would wait for it

    return float(ndtr(mu / 2 - epsilon / mu) - math.exp(epsilon + log_ndtr(-mu / 2 - epsilon / mu)))


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Return the least epsilon of :func:`gaussian_delta` for ``delta`` in (0, 1); infinity without noise."""
    if mu == 0 or gaussian_delta(0.0, mu) <= delta:
        return 0.0
    if not math.isfinite(mu):
        return math.inf
    from scipy.optimize import brentq

    top = 1.0
    while gaussian_delta(top, mu) > delta:
        top *= 2
    return float(brentq(lambda epsilon: gaussian_delta(epsilon, mu) - delta, 0.0, top, xtol=1e-10))


def epsilon_of(visits: float, noise_multiplier: float, delta: float) -> float:
    """Return the epsilon of a sample that ``visits`` updates have used, when noise hides each of them.

    Gaussian mechanisms compose exactly: ``visits`` of them with noise sigma are one with noise sigma / sqrt(visits). No
    amplification by sampling is claimed, since a stream does not sample. A sample that is in one batch r times counts
    as r * r visits. Neighbours are the stream and the same one with the sample's gradients set to zero; the sample is
    what was sent, so a poisoner who mixes rows beforehand is outside.

    Args:
        visits: Updates that used the sample, 0 or more.
        noise_multiplier: Noise over clipping norm, 0 or more.
        delta: In (0, 1).

    Returns:
        Epsilon, 0 or more; infinity without noise.
    """
    if visits == 0:
        return 0.0
    return math.inf if noise_multiplier == 0 else gaussian_epsilon(math.sqrt(visits) / noise_multiplier, delta)


@dataclass(eq=False)
class Accountant:
    """Follows the epsilon of the sample that was used most, along the path of a run with several triggers.

    Attributes:
        noise_multiplier: Of the updates.
        delta: In (0, 1).
        updates: Updates on the trigger batch.
    """

    noise_multiplier: float
    delta: float
    updates: int
    _branch: str | None = field(default=None, init=False)
    _visits: defaultdict[int, int] = field(default_factory=lambda: defaultdict(int), init=False)

    def add(self, step: Step, ledger: Ledger) -> float:
        """Return the epsilon after ``step``, which ``ledger`` has recorded already."""
        if step.branch != self._branch:  # at the start, and where a branch begins
            self.follow(step.branch, ledger)
        elif step.verdict is Verdict.COMMIT:
            times = self.updates if step.phase is Phase.TRIGGER else 1
            for key, copies in Counter(step.seen.ids.tolist()).items():
                if key >= 0:  # others are nobody's
                    self._visits[key] += times * copies**2
        return self.epsilon

    def follow(self, branch: str, ledger: Ledger) -> None:
        """Go on from what ``ledger`` has on the path to ``branch``."""
        self._branch, self._visits = branch, visits(ledger, branch, self.updates)

    @property
    def epsilon(self) -> float:
        """The epsilon of the sample that was used most so far."""
        return epsilon_of(max(self._visits.values(), default=0), self.noise_multiplier, self.delta)

    def spent(self) -> dict[str, float]:
        """Return epsilon and delta by name, for the summary."""
        return {"epsilon": self.epsilon, "delta": self.delta}


def visits(ledger: Ledger, branch: str, updates: int) -> defaultdict[int, int]:
    """Return how often updates have used each true sample on the path to ``branch``; r copies in one batch count r * r.

    Args:
        ledger: Of the run.
        branch: The trigger, or "" for the steps before the paths part.
        updates: Updates on the trigger batch.
    """
    rows = ledger.path(branch)
    copies: Counter[tuple[int, int, int]] = Counter()
    for row in rows[rows["used"] & (rows["id"] >= 0)]:
        copies[int(row["step"]), int(row["phase"]), int(row["id"])] += 1
    squares: defaultdict[int, int] = defaultdict(int)
    for (_, phase, key), count in copies.items():
        squares[key] += count**2 * (updates if PHASES[phase] is Phase.TRIGGER else 1)
    return squares
