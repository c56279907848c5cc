"""Ordinary SGD on the mean of the defence's losses."""

import math
from dataclasses import dataclass

import torch

from accupoison.defenses.base import Defense
from accupoison.defenses.clip import check_clipping, clip
from accupoison.learner import Learner
from accupoison.registry import Component, Registry
from accupoison.types import Batch, Context, Grads, Verdict

UPDATES: "Registry[SGD]"


@dataclass(kw_only=True)
class SGD(Component):
    """One optimiser step on the mean of the defence's per-row losses.

    Attributes:
        clip_norm: Bound on the norm of the whole gradient, beside whatever the defence does.
        clip_kind: Which norm: "l2" or "linf".
    """

    clip_norm: float = math.inf
    clip_kind: str = "l2"

    def __post_init__(self) -> None:
        check_clipping(self.clip_norm, self.clip_kind, "update.clip_norm")

    def step(self, learner: Learner, defense: Defense, batch: Batch, ctx: Context) -> Verdict:
        """Update the learner on a batch as the defence left it; an empty one changes nothing at all.

        Args:
            learner: The model.
            defense: Gives the losses, and has its say on the gradients.
            batch: B rows.
            ctx: Of this update.
        """
        if len(batch) == 0:
            return Verdict.SKIP
        grads = self.gradients(learner, defense, batch, ctx)
        ctx.log("optim/grad_norm", float(torch.linalg.vector_norm(torch.stack([g.norm() for g in grads]))))
        passed = self.clipped(defense.gradients(grads, learner.momentum(), ctx))
        learner.apply(passed, defense.directing(learner.view(), ctx))
        return Verdict.COMMIT

    def clipped(self, grads: Grads) -> Grads:
        """Return the gradients under the bound on their norm."""
        return clip(grads, self.clip_norm, self.clip_kind) if self.clip_norm < math.inf else grads

    def gradients(self, learner: Learner, defense: Defense, batch: Batch, ctx: Context) -> Grads:
        """Return the gradients of the mean of the defence's losses, in parameter order.

        Args:
            learner: The model; it is not changed but for its running statistics.
            defense: Gives the losses.
            batch: B rows.
            ctx: Of this update.
        """
        if type(defense).losses is Defense.losses:
            return learner.loss_and_gradients(batch.x, batch.y)[2]
        with learner.forward() as forward:
            loss = defense.losses(forward, batch).mean()
        return torch.autograd.grad(loss, learner.parameters)


UPDATES = Registry("update", base=SGD)
UPDATES.register("sgd")(SGD)
