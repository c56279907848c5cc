"""Poison that is made for what a defence turns it into."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from accupoison.attacks.accumulative import Accumulative
from accupoison.attacks.ascent import Ascent, Problem, ascending
from accupoison.attacks.base import ATTACKS, DEFENCE
from accupoison.discrepancy import frozen_discrepancy
from accupoison.errors import InputError, check_choice
from accupoison.types import Batch, Context, DefenseView, ModelView

BACKWARDS = ("identity", "smooth")


@ATTACKS.register("through-dsc")
@dataclass(kw_only=True)
class ThroughDSC(Ascent, Accumulative):
    """Accumulative poisoning of what the defence passes on (A1): max J(C(x)), with C its corrector.

    J is <g, s> with the accumulative goal s and the gradient g normalised tensor by tensor. C is whatever the defence
    does to a batch, asked of a copy of it; its derivative is that of something simpler (BPDA: Athalye et al., ICML
    2018, Section 4.1.2). Rows that the defence drops do not count.

    Attributes:
        backward: What the corrector is in the backward pass: "identity", or "smooth": the correction held fixed and
            switched by a sigmoid of (mean MD - tau_t) / ``temperature``, so that the climb knows what turns it off.
        temperature: Of the sigmoid, in nats.
    """

    knows: ClassVar[frozenset[str]] = frozenset({DEFENCE})
    rung: ClassVar[str] = "A1"

    backward: str = "identity"
    temperature: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("attack.backward", self.backward, BACKWARDS)
        if not 0 < self.temperature < float("inf"):
            raise InputError(f"attack.temperature {self.temperature} is not above 0; give nats such as 0.1")

    def problem(self, view: ModelView, batch: Batch, rows: Tensor, ctx: Context) -> Problem:
        """Return the accumulative objective of the corrected batch; the first search climbs that of the sent one."""
        agreeing, known = self.agreeing(view, batch, ctx), self.known
        unaware = ascending(lambda x: agreeing(x, batch.y))
        if known is None:
            return Problem(harm=lambda x: agreeing(x, batch.y), slopes=[unaware])
        gate = self._gate(view, known, ctx.t)

        def harm(x: Tensor) -> Tensor:
            passed = known.correct(batch.with_x(x.detach()), ctx)
            return agreeing(corrected(x, batch, passed, gate(x)), passed.y) if len(passed) else 0 * x.sum()

        return Problem(harm=harm, slopes=[unaware, ascending(harm)])

    def _gate(self, view: ModelView, known: DefenseView, t: int) -> Callable[[Tensor], Tensor]:
        """Return a switch of value 1 whose slope is that of the sigmoid, scalar."""
        reference, threshold = known.reference, known.threshold(t)
        if self.backward == "identity" or reference is None or threshold == float("inf"):
            return lambda x: x.new_ones(())
        discrepancy = frozen_discrepancy(view, reference)

        def gate(x: Tensor) -> Tensor:
            over = discrepancy(x).mean() - threshold
            soft = torch.sigmoid(over / self.temperature)
            return 1 + soft - soft.detach()

        return gate


def corrected(x: Tensor, sent: Batch, passed: Batch, gate: Tensor) -> Tensor:
    """Return what a defence passed on, [P, ...], as a function of what was sent, with slope 1 but for the gate's.

    Args:
        x: The images sent, [B, ...].
        sent: The batch they belong to.
        passed: What became of it; rows are known by their ids, and others are constants.
        gate: Factor of the correction, scalar.
    """
    same = passed.ids[:, None] == sent.ids
    source = x[same.float().argmax(1)]
    mine = same.any(1).view(-1, *(1 for _ in x.shape[1:]))
    return torch.where(mine, source + (passed.x - source).detach() * gate, passed.x)
