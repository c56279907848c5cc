"""Adversarial training, the textbook form and the released one that descends."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from accupoison.defenses.base import DEFENSES, Defense
from accupoison.errors import InputError, check_choice, check_least
from accupoison.gradients import project_linf
from accupoison.types import Batch, Context, ModelView

DIRECTIONS = ("ascend", "descend")


def perturb(
    view: ModelView, batch: Batch, *, eps: float, step_size: float, steps: int, direction: str = "ascend"
) -> Tensor:
    """Move the images along the sign of the input gradient, without a random start.

    "ascend" is PGD on the cross-entropy (Madry et al., ICLR 2018). "descend" is what the released code of Zhu et al.
    (ICML 2023) does under the name AT: it *lowers* the cross-entropy plus the mean over all elements of
    KLDiv(log_softmax f(x_adv), softmax f(x)).

    Args:
        view: The model, used in eval mode.
        batch: Images [B, ...] and labels.
        eps: Radius in pixels around the received images.
        step_size: Size of a step.
        steps: Number of steps.
        direction: "ascend" or "descend".

    Returns:
        Images [B, ...], detached.
    """
    answer = view.frozen()
    with torch.no_grad():
        start = F.log_softmax(answer(batch.x), dim=1)

    def objective(x: Tensor) -> Tensor:
        logits = answer(x)
        loss = F.cross_entropy(logits, batch.y)
        if direction == "ascend":
            return loss
        # by hand, since F.kl_div warns of this mean over elements, which is not a mean of divergences
        return -loss - (start.exp() * (start - F.log_softmax(logits, dim=1))).mean()

    x = batch.x.detach().clone()
    for _ in range(steps):
        x.requires_grad_()
        (slope,) = torch.autograd.grad(objective(x), x)
        x = project_linf(x.detach() + step_size * slope.sign(), batch.x, eps, bounded=batch.bounded)
    return x


def check_search(eps: float, step_size: float, steps: int) -> None:
    """Raise InputError unless the settings of an inner search make sense.

    Args:
        eps: Radius in pixels, in [0, 1].
        step_size: Size of a step in pixels, above 0.
        steps: Number of steps, at least 0.
    """
    if not 0 <= eps <= 1:
        raise InputError(f"defense.eps {eps} is outside [0, 1]; give a radius in pixels such as 0.2")
    if not step_size > 0:
        raise InputError(f"defense.step_size {step_size} is not above 0; give a step in pixels such as 0.02")
    check_least("defense.steps", steps, 0, "the number of inner steps")


@DEFENSES.register("AT")
@dataclass(kw_only=True)
class AdversarialTraining(Defense):
    """Learn from perturbed images in place of those received; see :func:`perturb`.

    Attributes:
        eps: Radius in pixels around the received images.
        step_size: Size of an inner step in pixels.
        steps: Inner steps.
        direction: "ascend" (adversarial training) or "descend" (the released code).
    """

    couples: ClassVar[bool] = False
    neutral: ClassVar[dict[str, Any]] = {"eps": 0.0}

    eps: float = 0.2
    step_size: float = 0.02
    steps: int = 10
    direction: str = "ascend"

    def __post_init__(self) -> None:
        check_search(self.eps, self.step_size, self.steps)
        check_choice("defense.direction", self.direction, DIRECTIONS)

    def intercept(self, view: ModelView, batch: Batch, ctx: Context) -> Batch:
        """Return the perturbed batch."""
        ctx.log("defense/inner_steps", self.steps)
        x = perturb(view, batch, eps=self.eps, step_size=self.step_size, steps=self.steps, direction=self.direction)
        return batch.with_x(x)
