"""Poison that keeps the model's loss where it was until the trigger arrives."""

import torch
import torch.nn.functional as F
from torch import Tensor

from accupoison.gradients import gradient
from accupoison.types import Access, Batch, Context, Grads, ModelView

SCALES = (1.0, 0.5, 0.25, 0.125, 0.0)
"""Shares of the perturbation that are tried, from the whole down to none."""


@torch.no_grad()
def loss_on(view: ModelView, batch: Batch, params: Grads | None = None) -> float:
    """Return the mean cross-entropy of a batch, in nats.

    Args:
        view: The model.
        batch: Images [B, ...] and labels.
        params: Weights in place of the model's own, in parameter order.
    """
    return float(F.cross_entropy(view.logits(batch.x, params=params), batch.y))


def hide(view: ModelView, clean: Batch, x: Tensor, access: Access, limit: float, ctx: Context) -> Tensor:
    """Shrink a perturbation until the next update is predicted to leave the attacker's loss at most ``limit``.

    The stealth constraint of Pang et al. (2021, Eq. 7) at every step, right after the update and where its momentum
    runs out, as later batches cannot take that back. The prediction is the victim's own optimiser step on the batch
    with its clipping (:attr:`~accupoison.types.Access.preview`), without what a defence, a crop, rounding, the noise of
    DP-SGD or the batch-norm statistics that the update moves would change, so the bound can still be missed: the curve
    of ``attack/feasible`` says when the attacker saw no way to keep it.

    Args:
        view: The model under attack.
        clean: The clean batch [B, ...].
        x: Poisoned images [B, ...].
        access: The attacker's images, and the prediction.
        limit: Bound on the mean cross-entropy of those images, in nats.
        ctx: Gets ``attack/feasible``, and the share of the perturbation that is left as ``attack/scale``.

    Returns:
        Images on the line from the clean to the poisoned ones; the clean ones if even they break the bound.

    Raises:
        ValueError: ``access`` has no prediction.
    """
    if access.preview is None:
        raise ValueError("a stealthy attack predicts updates, so it needs Access.preview")
    feasible, sent, scale = False, clean.x, 0.0
    for scale in SCALES:
        sent = clean.x + scale * (x - clean.x)
        predicted = access.preview(gradient(view, sent, clean.y, train=access.trains))
        if feasible := all(loss_on(view, access.val, weights) <= limit for weights in predicted):
            break
    ctx.log("attack/feasible", float(feasible))
    ctx.log("attack/scale", scale)
    return sent
