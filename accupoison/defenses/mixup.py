"""Mixup, and what all defences share that learn from pairs of samples."""

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from accupoison.defenses.base import DEFENSES, Defense
from accupoison.errors import InputError
from accupoison.types import Batch, Context, Forward, ModelView


def balance(logits: Tensor) -> Tensor:
    """Return R = sum_c (1/C) log((1/C) / h_c), h the batch's mean probabilities: a scalar, at least 0.

    Arazo et al. (ICML 2019), Sec. 4.2: it keeps a model that learns from its own guesses from one class for all.

    Args:
        logits: Logits [B, C], B at least 1.
    """
    mean = F.log_softmax(logits, dim=1).logsumexp(0) - math.log(len(logits))
    return -mean.mean() - math.log(logits.shape[1])


def draw_lambda(alpha: float, ctx: Context) -> float:
    """Return lambda of this step, drawn from Beta(alpha, alpha); 1 for an alpha of 0."""
    seed = ctx.rng("lambda").initial_seed()
    return float(np.random.default_rng(seed).beta(alpha, alpha)) if alpha else 1.0


def blend(batch: Batch, partner: Tensor, weight: Tensor) -> Tensor:
    """Return weight x_p + (1 - weight) x_q, [B, ...].

    Args:
        batch: The samples p, [B, ...].
        partner: Row of each one's partner q, int64 [B].
        weight: Of the sample itself, [B] in [0, 1].
    """
    weight = weight.view(-1, *(1 for _ in batch.x.shape[1:]))
    x = weight * batch.x + (1 - weight) * batch.x[partner]
    return x.clamp(0, 1) if batch.bounded else x  # rounding may lead over an end of the range


def check_weight(name: str, value: float) -> None:
    """Raise InputError unless the setting ``defense.NAME`` is a finite number of 0 or more."""
    if not 0 <= value < math.inf:
        raise InputError(f"defense.{name} {value} is not a number of 0 or more; give one such as 1.0")


@dataclass(kw_only=True)
class Mixing(Defense):
    """Learn from mixed pairs. In a mixed batch the ids and labels of row i stay those of sample i.

    What the loss needs is in ``extra``: always ``noise``, B of the row's own sample (0 where nothing is estimated);
    ``lambda``, ``partner_y`` and ``partner_noise`` where there are partners; ``guess`` and ``partner_guess``, classes
    [B] or probabilities [B, C], where the model's own guess replaces part of the label.

    Attributes:
        alpha: Shape of lambda's distribution Beta(alpha, alpha); 0 mixes nothing.
    """

    couples: ClassVar[bool] = True

    alpha: float = 32.0

    def __post_init__(self) -> None:
        check_weight("alpha", self.alpha)

    def losses(self, forward: Forward, batch: Batch) -> Tensor:
        """Return the loss of each pair [B], whose mean is the method's loss."""
        return self._of_pairs(forward(batch.x), batch)

    def _of_pairs(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the loss of each pair [B], given the logits [B, C] of the mixed images."""
        extra = batch.extra
        losses = _bootstrapped(logits, batch.y, extra.get("noise"), extra.get("guess"))
        if "lambda" in extra:
            other = _bootstrapped(logits, extra["partner_y"], extra["partner_noise"], extra.get("partner_guess"))
            losses = extra["lambda"] * losses + (1 - extra["lambda"]) * other
        return losses

    def _paired(
        self,
        batch: Batch,
        ctx: Context,
        noise: Tensor,
        *,
        guess: Tensor | None = None,
        weight: Tensor | None = None,
        even: bool = False,
    ) -> Batch:
        """Return the mixed batch.

        Args:
            batch: What was received, [B, ...].
            ctx: Of this step.
            noise: B of each row, [B].
            guess: What the model itself makes of the rows, classes [B] or probabilities [B, C].
            weight: Unnormalised weight of each sample in its image, [B]; None mixes by lambda.
            even: Both labels count alike, in place of lambda.
        """
        extra = {**batch.extra, "noise": noise, **({} if guess is None else {"guess": guess})}
        if not (self.alpha and len(batch)):
            return replace(batch, extra=extra)
        partner = torch.randperm(len(batch), generator=ctx.rng("partner")).to(noise.device)
        share = torch.full_like(noise, 0.5 if even else draw_lambda(self.alpha, ctx))
        extra |= {"lambda": share, "partner_y": batch.y[partner], "partner_noise": noise[partner]}
        if guess is not None:
            extra["partner_guess"] = guess[partner]
        own = share if weight is None else weight / (weight + weight[partner])
        return replace(batch, x=blend(batch, partner, own), extra=extra)


def _bootstrapped(logits: Tensor, y: Tensor, noise: Tensor | None, guess: Tensor | None) -> Tensor:
    """Return (1 - B) CE(label) + B CE(guess) of each row, [B]; without a guess CE(label)."""
    losses = F.cross_entropy(logits, y, reduction="none")
    if guess is None or noise is None:
        return losses
    return (1 - noise) * losses + noise * F.cross_entropy(logits, guess, reduction="none")


@DEFENSES.register("MIXUP")
@dataclass(kw_only=True)
class Mixup(Mixing):
    """Learn from mixtures of two images and of their labels (Zhang et al., ICLR 2018, Sec. 2).

    x = lambda x_p + (1 - lambda) x_q, L = lambda CE(y_p) + (1 - lambda) CE(y_q).
    One lambda a batch, and each sample's partner from a shuffle of the batch.
    """

    couples: ClassVar[bool] = True
    neutral: ClassVar[dict[str, Any]] = {"alpha": 0.0}

    def intercept(self, view: ModelView, batch: Batch, ctx: Context) -> Batch:
        """Return the mixed batch."""
        return self._paired(batch, ctx, batch.x.new_zeros(len(batch)))
