"""Blend the images of other classes into the stream."""

from dataclasses import dataclass

import torch
from torch import Tensor

from accupoison.attacks import ATTACKS, PixelAttack
from accupoison.types import Batch, Context, ModelView


@ATTACKS.register("blend")
@dataclass(kw_only=True)
class Blend(PixelAttack):
    """Move every image as far as eps allows toward one of the attacker's own with another label."""

    def perturb(self, view: ModelView, batch: Batch, ctx: Context) -> Tensor:
        """Return the blended images [B, ...]."""
        val = self.val(ctx)
        wrong = (val.y[None, :] != batch.y[:, None]).float()  # [B, V]
        draw = torch.rand(wrong.shape, generator=ctx.rng("blend")).to(batch.x.device)
        partner = val.x[(wrong * draw).argmax(1)]
        return batch.x + (partner - batch.x).clamp(-self.eps, self.eps)
