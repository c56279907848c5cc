"""DefenMI: MemGuard's search from a noised query toward the typical answer of its class."""

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from accupoison.errors import InputError
from accupoison.release.base import RELEASES, ask
from accupoison.release.memguard import MemGuard
from accupoison.rng import generator
from accupoison.types import ModelView


@RELEASES.register("defenmi")
@dataclass(kw_only=True)
class DefenMI(MemGuard):
    """MemGuard's search from a noised query toward the mean answer of its class (DefenMI, IP&M 2025).

    The search begins at the logits of x + Laplace(0, delta / epsilon) and stays close to the softmax of the mean logits
    of all samples that the model takes for the query's class. What is kept, and what the change is measured against,
    are label and answer of the query itself. The noise of the published settings changes about half of the labels of
    Location-30; there the label's logit and the largest change places before the search.

    Attributes:
        delta: Sensitivity of a feature; 0 adds no noise.
        epsilon: Privacy parameter of the noise on each feature, whose scale is ``delta / epsilon``.
        mean_logits: Of the samples taken for each class [C, C], once fitted; zeros where there are none, whose queries
            stay close to themselves.
    """

    delta: float = 1.0
    epsilon: float = 3.0
    cap: float = 1e4
    mean_logits: Tensor | None = field(init=False, default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.delta < math.inf:
            raise InputError(f"release.delta {self.delta} is not a number of 0 or more; 1 is usual")
        if not 0 < self.epsilon < math.inf:
            raise InputError(f"release.epsilon {self.epsilon} is not a number above 0; 3 is usual")

    def learn(self, logits: Tensor) -> None:
        """Keep the mean logits by predicted class of ``logits`` [M + N, C]."""
        taken_for = F.one_hot(logits.argmax(dim=1), logits.shape[1]).to(logits.dtype)
        self.mean_logits = taken_for.T @ logits / taken_for.sum(dim=0).clamp_min(1)[:, None]

    def start(self, view: ModelView, x: Tensor, ids: Tensor, logits: Tensor) -> Tensor:
        """Return the logits of the noised queries, float64 [B, C].

        Args:
            view: The model that answers.
            x: The queries [B, ...].
            ids: Who they are, int64 [B]; the noise is a function of key and id.
            logits: What the model says of the queries themselves.
        """
        if self.delta == 0 or not len(x):
            return logits
        draws = [torch.rand(x.shape[1:], generator=generator(self.key, "noise", i)) for i in ids.tolist()]
        centred = torch.stack(draws).to(x) - 0.5
        noise = -centred.sign() * torch.log1p(-2 * centred.abs().clamp(max=0.5 - 1e-7))
        return ask(view, x + self.delta / self.epsilon * noise)

    def target(self, probs: Tensor) -> Tensor:
        """Return the mean answer of each query's class, [B, C], of ``probs`` [B, C]."""
        assert self.mean_logits is not None
        means = self.mean_logits[probs.argmax(dim=1)]
        return torch.where((means == 0).all(dim=1, keepdim=True), probs, means.softmax(dim=1))
