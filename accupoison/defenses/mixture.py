"""The beta mixture of losses, which tells how likely it is that a sample's label is wrong."""

import math
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

EM_STEPS = 10
FLOOR = math.log(1e-12)
"""Logarithm of the least unnormalised responsibility of a component, and of what is added to a posterior's divisor."""
GRID = 100
"""Points of the table of the beta mixture's posterior."""
EDGE = 1e-3
"""Scaled losses stay this far from 0 and 1, where a beta density may be infinite."""


@dataclass(frozen=True, kw_only=True, eq=False)
class BetaMixture:
    """Two beta components of scaled losses, 0 of correct labels and 1 of wrong ones (Arazo et al., ICML 2019, Sec. 3).

    Attributes:
        alphas: First shape parameter of each component, float64 [2].
        betas: Second shape parameter, float64 [2].
        weights: Share of each component, float64 [2]; (1, 0) where the losses gave no two components.
        low: Loss that is scaled to 0, in nats.
        span: Nats that are scaled to 1.
    """

    alphas: Tensor
    betas: Tensor
    weights: Tensor
    low: float
    span: float

    def scaled(self, loss: Any) -> Tensor:  # noqa: ANN401
        """Return losses [N] in units of the range of the fit, float64 [N] in [0.001, 0.999]; NaN stays."""
        return ((_float64(loss) - self.low) / self.span).clamp(EDGE, 1 - EDGE)

    def posterior(self, loss: Any) -> Tensor:  # noqa: ANN401
        """Return the probability that the label is wrong, by Bayes' rule, for losses [N]: float64 [N]; 0 for NaN."""
        return self._posterior(self.scaled(loss)).nan_to_num(0.0)

    def lookup(self, loss: Any) -> Tensor:  # noqa: ANN401
        """Return the same from a table of 100 points that never falls as the loss grows, for losses [N]: float64 [N].

        By Bayes' rule alone the largest losses may look correct, where the other component has the heavier right tail;
        from its maximum on the table is therefore held, as in the code released by Arazo et al. (ICML 2019). It may
        also rise toward a loss of 0, where component 1 has the smaller alpha, which happens with few wrong labels; up
        to its minimum it is then held, too. The released code is without that, and calls the smallest losses wrong.
        """
        table = self._posterior(torch.linspace(1e-12, 1 - 1e-12, GRID, dtype=torch.float64))
        if self.alphas[1] < self.alphas[0]:
            table[: int(table.argmin())] = table.min()
        table[int(table.argmax()) :] = table.max()
        scaled = self.scaled(loss)
        return torch.where(scaled.isnan(), 0.0, table[(GRID * scaled.nan_to_num(0.0)).long()])

    def noise(self, losses: Tensor, features: Tensor) -> Tensor:
        """Return :meth:`lookup` of losses [N]; features [N, D] do not matter."""
        return self.lookup(losses)

    def pack(self) -> Tensor:
        """Return the parameters as one tensor, float64 [8]."""
        ends = torch.tensor([self.low, self.span], dtype=torch.float64)
        return torch.cat([self.alphas, self.betas, self.weights, ends])

    @classmethod
    def unpack(cls, packed: Tensor) -> Self:
        """Return the mixture of which :meth:`pack` gave ``packed`` [8]."""
        alphas, betas, weights, ends = packed.cpu().view(4, 2)
        return cls(alphas=alphas, betas=betas, weights=weights, low=float(ends[0]), span=float(ends[1]))

    def _posterior(self, x: Tensor) -> Tensor:
        joint = _joint(x, self.alphas, self.betas, self.weights)
        divisor = torch.logaddexp(joint.logsumexp(0), torch.tensor(FLOOR, dtype=torch.float64))
        return (joint[1] - divisor).exp()


def fit_beta_mixture(loss: Any) -> BetaMixture:  # noqa: ANN401
    """Fit two beta components to losses by ten steps of EM with matched moments (Arazo et al., ICML 2019, Sec. 3).

    Losses are scaled so that their 5th and 95th percentile come to 0 and 1; those outside are not fitted. Densities
    are never taken out of the logarithm, so none can underflow or overflow; responsibilities have a floor of 1e-12
    before they are normalised. Losses that are not finite are left out. Where no two components can be fitted (fewer
    than two losses, all alike, or a component that shrinks to a point) the weights are (1, 0), so every posterior is 0.

    Args:
        loss: Losses [N], a tensor or an array.

    Returns:
        The mixture; component 1 began as the one of the larger losses.
    """
    losses = _float64(loss)
    losses = losses[losses.isfinite()]
    if not len(losses):
        return _one_component(0.0, 1.0)
    p5, p95 = (float(losses.quantile(q)) for q in (0.05, 0.95))
    low = p5 + 1e-5
    span = p95 - low + 1e-6
    if not span > 0:
        return _one_component(p5, 1.0)
    inner = losses[(losses >= p5) & (losses <= p95)]
    x = ((inner - low) / span).clamp(EDGE, 1 - EDGE)
    alphas, betas, weights = (torch.tensor(pair, dtype=torch.float64) for pair in ((1, 2), (2, 1), (0.5, 0.5)))
    for _ in range(EM_STEPS):
        share = _joint(x, alphas, betas, weights).clamp(min=FLOOR).softmax(0)
        mass = share.sum(1)
        mean = (share * x).sum(1) / mass
        variance = (share * (x - mean[:, None]).square()).sum(1) / mass
        alphas = mean * (mean * (1 - mean) / variance - 1)
        betas = alphas * (1 - mean) / mean
        weights = mass / mass.sum()
    parameters = torch.cat([alphas, betas])
    if not (parameters.isfinite().all() and (parameters > 0).all()):
        return _one_component(low, span)
    return BetaMixture(alphas=alphas, betas=betas, weights=weights, low=low, span=span)


def _one_component(low: float, span: float) -> BetaMixture:
    alphas, betas, weights = (torch.tensor(pair, dtype=torch.float64) for pair in ((1, 2), (2, 1), (1, 0)))
    return BetaMixture(alphas=alphas, betas=betas, weights=weights, low=low, span=span)


def _joint(x: Tensor, alphas: Tensor, betas: Tensor, weights: Tensor) -> Tensor:
    """Return the logarithm of weight times density of each component, [2, N]."""
    scale = alphas.lgamma() + betas.lgamma() - (alphas + betas).lgamma()
    density = (alphas - 1)[:, None] * x.log() + (betas - 1)[:, None] * (-x).log1p() - scale[:, None]
    return weights.log()[:, None] + density


def _float64(values: Any) -> Tensor:  # noqa: ANN401
    return torch.as_tensor(values).detach().cpu().double()
