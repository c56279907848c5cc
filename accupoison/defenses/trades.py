"""TRADES: cross-entropy on the received images plus consistency on perturbed ones."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from accupoison.defenses.at import check_search
from accupoison.defenses.base import DEFENSES, Defense
from accupoison.discrepancy import divergence
from accupoison.errors import InputError
from accupoison.gradients import project_linf
from accupoison.types import Batch, Context, Forward, ModelView


@DEFENSES.register("TRADES")
@dataclass(kw_only=True)
class Trades(Defense):
    """Keep answers to perturbed images close to those to the images received (Zhang et al., ICML 2019, Algorithm 1).

    The loss is L(f(x)) + beta KL(f(x) || f(x_adv)), their Eq. 5.

    Attributes:
        beta: Weight of the consistency term.
        eps: Radius in pixels around the received images.
        step_size: Size of an inner step in pixels.
        steps: Inner steps, from a start of normal noise with standard deviation 0.001 (at the image itself the
            divergence has no gradient).
    """

    couples: ClassVar[bool] = False
    neutral: ClassVar[dict[str, Any]] = {"beta": 0.0}

    beta: float = 6.0
    eps: float = 0.2
    step_size: float = 0.02
    steps: int = 10

    def __post_init__(self) -> None:
        check_search(self.eps, self.step_size, self.steps)
        if not self.beta >= 0:
            raise InputError(f"defense.beta {self.beta} is negative; give a weight such as 6")

    def intercept(self, view: ModelView, batch: Batch, ctx: Context) -> Batch:
        """Return the batch with the adversarial images beside it, in ``extra["x_adv"]``."""
        ctx.log("defense/inner_steps", self.steps)
        answer = view.frozen()
        with torch.no_grad():
            reference = answer(batch.x)
        start = 0.001 * torch.randn(batch.x.shape, generator=ctx.rng("trades"), dtype=batch.x.dtype)
        x = project_linf(batch.x.detach() + start.to(batch.x.device), batch.x, self.eps, bounded=batch.bounded)
        for _ in range(self.steps):
            x.requires_grad_()
            (slope,) = torch.autograd.grad(divergence(reference, answer(x)).sum(), x)
            x = project_linf(x.detach() + self.step_size * slope.sign(), batch.x, self.eps, bounded=batch.bounded)
        return replace(batch, extra={**batch.extra, "x_adv": x})

    def losses(self, forward: Forward, batch: Batch) -> Tensor:
        """Return the TRADES loss of each row; the received images are the ones that move the running statistics."""
        logits = forward(batch.x, track=True)
        adversarial = forward(batch.extra["x_adv"], track=False)
        return F.cross_entropy(logits, batch.y, reduction="none") + self.beta * divergence(logits, adversarial)
