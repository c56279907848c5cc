"""Serving an average of the weights that were learnt, not the last ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from accupoison.defenses.base import DEFENSES, Defense
from accupoison.errors import InputError
from accupoison.types import Batch, Context, ModelView, Verdict


@DEFENSES.register("EMA")
@dataclass(kw_only=True)
class ExponentialAverage(Defense):
    """Serve an exponential average of the weights that were learnt, while the model itself goes on learning.

    It is a_t = decay a_(t-1) + (1 - decay) w_t, of weights and running statistics.
    Averages of SGD's iterates are Polyak and Juditsky's (1992), exponential ones those of a mean teacher (Tarvainen and
    Valpola, NeurIPS 2017). a_0 is the model that the stream begins with. A trigger batch moves what is served by a
    share of 1 - decay, and the more the longer it is learnt on: it is delayed, not undone.

    Attributes:
        decay: Share of the average that stays at each step, in [0, 1): an average over about 1 / (1 - decay) steps; 0
            serves the model that learns.
    """

    couples: ClassVar[bool] = False
    neutral: ClassVar[dict[str, Any]] = {"decay": 0.0}

    decay: float = 0.9
    average: Tensor | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise InputError(f"defense.decay {self.decay} is outside [0, 1); give one such as 0.9, or 0 for no average")

    def setup(self, live: ModelView, reference: ModelView | None, trusted: Sequence[Batch], ctx: Context) -> None:
        """Begin with the model as it is."""
        if self.decay:
            self.average = _flat(live)

    def after(self, before: ModelView, view: ModelView, ctx: Context) -> Verdict:
        """Let the average follow the model."""
        if self.average is not None:
            self.average = self.average.lerp(_flat(view), 1 - self.decay)  # leaves what never changes bit for bit
        return Verdict.COMMIT

    def served(self, view: ModelView) -> Mapping[str, Tensor] | None:
        """Return the average by name; counters are those of the model that learns."""
        if self.average is None:
            return None
        held = _averaged(view)
        parts = torch.split(self.average, [tensor.numel() for tensor in held.values()])
        return {name: part.view_as(held[name]) for name, part in zip(held, parts, strict=True)}


def _averaged(view: ModelView) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in view.state().items() if tensor.is_floating_point()}


def _flat(view: ModelView) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in _averaged(view).values()])
