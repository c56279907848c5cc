"""Gaussian mixtures: of features, another way to find wrong labels, and of margins, to tell if there are any."""

import math
import warnings
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

LEAST_WEIGHT = 0.01
"""Share of the samples below which a component does not count."""


@dataclass(frozen=True, kw_only=True, eq=False)
class GaussianMixture:
    """Two Gaussian components of features with diagonal covariance (PMIANLL, Knowledge-Based Systems 2025).

    Attributes:
        means: Mean of each component in scaled features, float64 [2, D]; component 1 is that of wrong labels.
        variances: Variances, float64 [2, D].
        weights: Share of each component, float64 [2].
        low: Feature that is scaled to 0, the smallest of all.
        span: Largest minus smallest feature.
    """

    means: Tensor
    variances: Tensor
    weights: Tensor
    low: float
    span: float

    def noise(self, losses: Tensor, features: Tensor) -> Tensor:
        """Return the probability that the label is wrong from features [N, D]: float64 [N]; losses [N] do not matter.

        It is 0 where a feature is not finite.
        """
        x = (features.detach().cpu().double() - self.low) / self.span
        distance = (x[None] - self.means[:, None]).square() / self.variances[:, None]
        joint = self.weights.log()[:, None] - 0.5 * (distance + self.variances.log()[:, None]).sum(2)
        return joint.softmax(0)[1].nan_to_num(0.0)

    def pack(self) -> Tensor:
        """Return the parameters as one tensor, float64 [4 D + 4]."""
        ends = torch.tensor([self.low, self.span], dtype=torch.float64)
        return torch.cat([self.means.flatten(), self.variances.flatten(), self.weights, ends])

    @classmethod
    def unpack(cls, packed: Tensor) -> Self:
        """Return the mixture of which :meth:`pack` gave ``packed`` [4 D + 4]."""
        packed = packed.cpu()
        means, variances = packed[:-4].view(2, 2, -1)
        low, span = packed[-2:].tolist()
        return cls(means=means, variances=variances, weights=packed[-4:-2], low=low, span=span)


def fit_gaussian_mixture(losses: Tensor, features: Tensor, seed: int) -> GaussianMixture:
    """Fit two components to features, scaled by the smallest and largest of all; the noisy one has the larger losses.

    Args:
        losses: Losses [N], finite, in nats; the medians of those who belong to each component are compared.
        features: Features [N, D], finite, N at least 2.
        seed: Of the initialisation.

    Returns:
        The mixture.
    """
    features = features.double()
    low = float(features.min())
    span = max(float(features.max()) - low, 1e-12)
    scaled = (features - low) / span
    fitted, members = _fit(scaled, seed)
    medians = [float(losses[members == k].median()) if (members == k).any() else -math.inf for k in (0, 1)]
    order = [0, 1] if medians[1] >= medians[0] else [1, 0]
    means, variances, weights = (
        torch.as_tensor(values)[order] for values in (fitted.means_, fitted.covariances_, fitted.weights_)
    )
    return GaussianMixture(means=means, variances=variances, weights=weights, low=low, span=span)


@dataclass(frozen=True, kw_only=True, eq=False)
class MarginMixture:
    """Two Gaussian components of margins log((1 - p) / p), where p = exp(-loss) is the label's probability.

    The margins of a clean set are about normal, well fitted or not (Carlini et al., S&P 2022, Sec. IV, of the same
    quantity), so that two components find no two groups in them, while wrong labels are a group of their own.

    Attributes:
        means: Mean margin of each component, float64 [2], the larger one last.
        variances: Variances, float64 [2].
        weights: Share of each component, float64 [2].
    """

    means: Tensor
    variances: Tensor
    weights: Tensor

    @property
    def separation(self) -> float:
        """Ashman's D = |m1 - m0| sqrt(2 / (s0^2 + s1^2)), above 2 where the groups part cleanly (Ashman et al., 1994).

        It is 0 if a group has less than a hundredth of the samples, or if the model prefers the label (p above 1/2)
        even at the mean of the larger margins.
        """
        if float(self.weights.min()) < LEAST_WEIGHT or float(self.means[1]) <= 0:
            return 0.0
        return float((self.means[1] - self.means[0]) * (2 / self.variances.sum()).sqrt())

    def noise(self, losses: Tensor, features: Tensor) -> Tensor:
        """Return the probability that the label is wrong, for losses [N]: float64 [N]; features [N, D] do not matter.

        Beyond either mean it stays what it is there, so that it never falls as the loss grows. It is 0 for NaN.
        """
        x = margins(losses).cpu().clamp(self.means[0], self.means[1])
        spread = (x - self.means[:, None]).square() / self.variances[:, None] + self.variances.log()[:, None]
        return (self.weights.log()[:, None] - 0.5 * spread).softmax(0)[1].nan_to_num(0.0)

    def pack(self) -> Tensor:
        """Return the parameters as one tensor, float64 [6]."""
        return torch.cat([self.means, self.variances, self.weights])

    @classmethod
    def unpack(cls, packed: Tensor) -> Self:
        """Return the mixture of which :meth:`pack` gave ``packed`` [6]."""
        means, variances, weights = packed.cpu().view(3, 2)
        return cls(means=means, variances=variances, weights=weights)


def fit_margin_mixture(losses: Tensor, seed: int) -> MarginMixture:
    """Fit two components to the margins of losses [N] in nats, finite, N at least 2, initialised by ``seed``."""
    fitted, _ = _fit(margins(losses)[:, None], seed)
    order = fitted.means_.ravel().argsort()
    means, variances, weights = (
        torch.from_numpy(values.ravel()[order]) for values in (fitted.means_, fitted.covariances_, fitted.weights_)
    )
    return MarginMixture(means=means, variances=variances, weights=weights)


def group_separation(losses: Tensor, noise: Tensor) -> float:
    """Return Ashman's D of the margins of those with a correct label and with a wrong one, as ``noise`` has it.

    Args:
        losses: Losses [N] in nats, finite.
        noise: Probability that the label is wrong [N].

    Returns:
        D, negative where those called wrong have the smaller margins; 0 where one group has nobody.
    """
    values = margins(losses)
    shares = torch.stack([1 - noise, noise])
    mass = shares.sum(1)
    if float(mass.min()) < LEAST_WEIGHT * len(losses):
        return 0.0
    means = (shares * values).sum(1) / mass
    variances = (shares * (values - means[:, None]).square()).sum(1) / mass
    return float((means[1] - means[0]) * (2 / variances.sum().clamp(min=1e-12)).sqrt())


def margins(losses: Tensor) -> Tensor:
    """Return log((1 - p) / p) of p = exp(-loss), for losses [N] in nats: float64 [N]; NaN stays."""
    losses = losses.double().clamp(min=1e-12)
    return losses + (-torch.expm1(-losses)).log()


def _fit(rows: Tensor, seed: int) -> tuple[Any, Tensor]:
    """Return scikit-learn's mixture of rows [N, D], and the component [N] that each row belongs to."""
    from sklearn.mixture import GaussianMixture as Fitted  # here, since it takes a second to load

    values = rows.cpu().numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of equal rows, and of EM that has not converged; what comes out is judged
        fitted = Fitted(2, covariance_type="diag", random_state=seed).fit(values)
        return fitted, torch.as_tensor(fitted.predict(values))
