"""Poison that follows the victim's updates through to the loss after the trigger."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from accupoison.attacks.ascent import Harm, Problem
from accupoison.attacks.base import ATTACKS, DEFENCE, OPTIMISER
from accupoison.attacks.running_norm import Statistics, followed
from accupoison.attacks.under_radar import Hidden, Over
from accupoison.errors import InputError
from accupoison.types import Access, Batch, Context, Grads, ModelView

Now = tuple[tuple[Grads, Grads] | None, Statistics | None]
"""Weights with momentum, and running statistics; None is the victim's own."""
Then = tuple[tuple[Grads, Grads], Statistics]


def updated(view: ModelView, access: Access, x: Tensor, y: Tensor, now: Now = (None, None)) -> Then:
    """Return weights, momentum and running statistics after one full update U, differentiable; nothing changes.

    Args:
        view: The model.
        access: Has the victim's optimiser step.
        x: The batch, [B, ...].
        y: Its labels [B].
        now: Where the update begins.

    Raises:
        ValueError: ``access`` has no step.
    """
    if access.step is None:
        raise ValueError("an unrolled attack predicts updates, so it needs Access.step")
    start, given = now
    weights = view.params() if start is None else start[0]
    logits, after = followed(view, x, train=access.trains, weights=weights, given=given)
    grads = torch.autograd.grad(F.cross_entropy(logits, y), weights, create_graph=True)
    return access.step(grads, start), after


def loss_at(view: ModelView, batch: Batch, now: Now, *, train: bool = False, reduction: str = "mean") -> Tensor:
    """Return the cross-entropy of a batch, a scalar in nats, at other weights and statistics.

    Args:
        view: The model.
        batch: Images [B, ...] and labels.
        now: The weights and statistics.
        train: By the statistics of the batch itself.
        reduction: "none" returns that of each row, [B].
    """
    weights = None if now[0] is None else now[0][0]
    logits, _ = followed(view, batch.x, train=train, weights=weights, given=now[1])
    return F.cross_entropy(logits, batch.y, reduction=reduction)


@ATTACKS.register("unrolled")
@dataclass(kw_only=True)
class Unrolled(Hidden):
    """Maximise the loss after the trigger, and keep it before, below the threshold (A2).

    max L_val(U(trigger) after U(x_t)) - mu max(0, L_val(after U(x_t)) - L_val(at the start) - delta) with mean
    MD <= kappa tau_t and, where a defence takes steps back by which images that it knows lose (``Defense.rise_limit``),
    L_val(after U(x_t)) - L_val(now) at most the share kappa of what it lets pass; likewise at the trigger. U is the
    victim's update with its momentum, weight decay, clipping and running statistics, and with what a defence leaves of
    the direction (``Defense.direct`` at the weights of now), on the batch as it is sent; what else a defence changes, a
    crop or the noise of DP-SGD is not in it. Where a defence has running statistics of its own, and with ``bn_mode``
    "train", L_val is taken by those of the attacker's images. The trigger is the crafted one.

    Attributes:
        mu: Weight of the loss before the trigger beyond delta.
        delta: What that may rise by from the start of the stream, in nats.
    """

    knows: ClassVar[frozenset[str]] = frozenset({DEFENCE, OPTIMISER})
    rung: ClassVar[str] = "A2"

    mu: float = 1.0
    delta: float = 0.1
    calm_loss: float | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("mu", "delta"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise InputError(f"attack.{name} {getattr(self, name)} is not 0 or more; give a number such as 1")

    @property
    def needs_trigger(self) -> bool:
        """It does, to know what it prepares for."""
        return True

    def setup(self, view: ModelView, access: Access, ctx: Context) -> None:
        """Start a run: craft the trigger.

        Raises:
            InputError: There is no stream whose updates could be predicted.
        """
        if access.step is None:
            raise InputError("the attack unrolled predicts the updates of a stream; use online")
        super().setup(view, access, ctx)
        self.calm_loss = None

    def problem(self, view: ModelView, batch: Batch, rows: Tensor, ctx: Context) -> Problem:
        """Return the predicted harm within the budget."""
        return self.hidden(self._predicted(view, batch, ctx), view, batch, rows, ctx)

    def over(self, view: ModelView, batch: Batch, ctx: Context) -> tuple[Over, Over] | None:
        """Return by how much the discrepancy, or the predicted rise of the loss, exceeds its budget, and each row's."""
        limits, known, val = super().over(view, batch, ctx), self.known, self.val(ctx)
        if known is None or known.rise_limit(torch.zeros(len(val), device=val.x.device)) == float("inf"):
            return limits
        train = self._by_own_statistics()
        with torch.no_grad():
            before = loss_at(view, val, (None, None), train=train, reduction="none")

        def risen(x: Tensor) -> Tensor:
            with torch.enable_grad():  # to be judged, too, an update is predicted
                then = updated(view, self.access, x, batch.y)
            rises = loss_at(view, val, then, train=train, reduction="none") - before
            return (rises.mean() - self.kappa * known.rise_limit(rises)).view(1)

        if limits is None:
            return risen, lambda x: risen(x).expand(len(x))
        return lambda x: torch.maximum(limits[0](x), risen(x)), limits[1]

    def _by_own_statistics(self) -> bool:
        """Return whether losses are taken by the statistics of the attacker's images."""
        known = self.access.defense
        return self.bn_mode == "train" or (known is not None and known.has_own_statistics())

    def _predicted(self, view: ModelView, batch: Batch, ctx: Context) -> Harm:
        trigger, val, train = self.crafted_trigger(view, ctx), self.val(ctx), self._by_own_statistics()
        if self.calm_loss is None:  # at the first step the defence is there to be asked
            self.calm_loss = float(loss_at(view, self.access.val, (None, None), train=train).detach())
        limit = self.calm_loss + self.delta

        def harm(x: Tensor) -> Tensor:
            prepared = updated(view, self.access, x, batch.y)
            fired = updated(view, self.access, trigger.x, trigger.y, prepared)
            risen = loss_at(view, val, prepared, train=train) - limit
            return loss_at(view, val, fired, train=train) - self.mu * risen.clamp_min(0)

        return harm
