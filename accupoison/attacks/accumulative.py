"""Accumulative poisoning: each batch tilts the model so that the trigger will do more harm."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from accupoison.attacks.base import ATTACKS
from accupoison.attacks.pixel import PixelAttack
from accupoison.errors import check_choice
from accupoison.gradients import (
    gradient,
    gradient_and_hvp,
    inner,
    normalize_each,
    normalize_each_vjp,
    pgd_linf,
)
from accupoison.types import Batch, Context, Grads, ModelView

OBJECTIVES = ("both", "second_order", "first_order")
AIMS = ("crafted", "clean")


def alignment(view: ModelView, trigger: Batch, val: Batch, *, train: bool = False) -> Tensor:
    """Return the sum over parameter tensors of the cosine between the gradients at the trigger and at ``val``.

    The scalar can be differentiated with respect to the parameters; low values mean that a step on the trigger raises
    the loss on ``val`` (Pang et al. 2021, Eq. 6).

    Args:
        view: The model.
        trigger: The trigger batch, [B, ...].
        val: The attacker's own images, [V, ...].
        train: Use batch statistics in place of the running ones.
    """
    at_trigger = normalize_each(gradient(view, trigger.x, trigger.y, train=train, graph=True))
    at_val = normalize_each(gradient(view, val.x, val.y, train=train, graph=True))
    return inner(at_trigger, at_val)


def alignment_gradient(view: ModelView, trigger: Batch, val: Batch, *, train: bool = False) -> tuple[Grads, float]:
    """Return the parameter gradient of :func:`alignment`, a second-order term, and the alignment itself.

    By the chain rule it is a Hessian-vector product at the trigger plus one at ``val``, so both can be taken a few rows
    at a time, in less memory than the graph of the whole; one graph of each waits for the other's gradient.

    Args:
        view: The model.
        trigger: The trigger batch, [B, ...].
        val: The attacker's own images, [V, ...].
        train: Use batch statistics in place of the running ones.
    """
    at_trigger, hvp_trigger = gradient_and_hvp(view, trigger, train=train)
    at_val, hvp_val = gradient_and_hvp(view, val, train=train)
    unit_trigger, unit_val = normalize_each(at_trigger), normalize_each(at_val)
    by_trigger = hvp_trigger(normalize_each_vjp(at_trigger, unit_val))
    by_val = hvp_val(normalize_each_vjp(at_val, unit_trigger))
    return tuple(a + b for a, b in zip(by_trigger, by_val, strict=True)), float(inner(unit_trigger, unit_val))


def accumulative_goal(
    view: ModelView,
    trigger: Batch,
    batch: Batch,
    val: Batch,
    *,
    objective: str = "both",
    gamma: float = 1.0,
    train: bool = False,
    on_alignment: Callable[[float], None] | None = None,
) -> Grads:
    """Return the direction that the gradient of a poisoned batch is to have; see :func:`craft_accumulative`.

    Args:
        view: The model under attack.
        trigger: The trigger that the attack prepares for, [B, ...].
        batch: The clean batch, [B, ...].
        val: The attacker's own images, [V, ...].
        objective: One of :data:`OBJECTIVES`.
        gamma: Weight of the clean batch's term.
        train: Use batch statistics in place of the running ones.
        on_alignment: Told the alignment.

    Raises:
        ValueError: There is no such objective.
    """
    if objective not in OBJECTIVES:
        raise ValueError(f"unknown objective {objective!r}; choose from {', '.join(OBJECTIVES)}")
    parts: list[Grads] = []
    if objective != "second_order":
        parts.append(tuple(gamma * g for g in normalize_each(gradient(view, batch.x, batch.y, train=train))))
    if objective != "first_order":
        second, value = alignment_gradient(view, trigger, val, train=train)
        parts.append(normalize_each(second))
        if on_alignment is not None:
            on_alignment(value)
    return tuple(torch.stack(tensors).sum(0) for tensors in zip(*parts, strict=True))


def agreement(view: ModelView, x: Tensor, y: Tensor, goal: Grads, *, train: bool = False) -> Tensor:
    """Return the accumulative objective J: the inner product, tensor by tensor normalised, of gradient and goal.

    Args:
        view: The model under attack.
        x: Images [B, ...].
        y: Their labels [B].
        goal: What :func:`accumulative_goal` returned.
        train: Use batch statistics in place of the running ones.

    Returns:
        A scalar, differentiable in ``x``.
    """
    return inner(normalize_each(gradient(view, x, y, train=train, graph=True)), goal)


def craft_accumulative(
    view: ModelView,
    trigger: Batch,
    batch: Batch,
    val: Batch,
    *,
    eps: float,
    steps: int,
    objective: str = "both",
    gamma: float = 1.0,
    train: bool = False,
    round_sign: bool = False,
    on_alignment: Callable[[float], None] | None = None,
) -> Tensor:
    """Poison a batch so that a step on it prepares the model for the trigger (Pang et al. 2021, Eq. 9).

    Maximises the sum over parameter tensors of the inner product of the normalised gradient at the poisoned batch with
    ``gamma`` times the normalised gradient at the clean batch plus the normalised gradient of :func:`alignment`.

    Args:
        view: The model under attack.
        trigger: The trigger that the attack prepares for, usually crafted by
            :func:`~accupoison.attacks.trigger.craft_trigger`.
        batch: The clean batch [B, ...], centre of the l_inf ball.
        val: The attacker's own images.
        eps: Radius in pixels.
        steps: Signed gradient steps, of size ``2 * eps / steps``.
        objective: "both" (terms), "second_order" (the alignment's alone) or "first_order" (the clean batch's alone).
        gamma: Weight of the clean batch's term, which keeps the poisoned step close to an ordinary one.
        train: Use batch statistics in place of the running ones.
        round_sign: Leave a pixel where it is if the objective's slope there is below 0.0005.
        on_alignment: Told the alignment that the attack works on; not with the objective "first_order".

    Returns:
        The poisoned images [B, ...], detached.

    Raises:
        ValueError: There is no such objective.
    """
    goal = accumulative_goal(
        view,
        trigger,
        batch,
        val,
        objective=objective,
        gamma=gamma,
        train=train,
        on_alignment=on_alignment,
    )

    def agreeing(x: Tensor) -> Tensor:
        return agreement(view, x, batch.y, goal, train=train)

    return pgd_linf(batch.x, agreeing, eps=eps, steps=steps, round_sign=round_sign, bounded=batch.bounded)


@ATTACKS.register("accumulative")
@dataclass(kw_only=True)
class Accumulative(PixelAttack):
    """Accumulative poisoning of every batch before the trigger (Pang et al., NeurIPS 2021, Algorithm 1).

    Attributes:
        objective: "both" (default), "second_order" or "first_order"; see :func:`craft_accumulative`.
        gamma: Weight of the term that keeps the poisoned step close to the clean one.
        aim: The trigger that the poison prepares for: "crafted", whatever is delivered in the end, or "clean".
    """

    threat: ClassVar[tuple[str, ...]] = ("availability",)
    rung: ClassVar[str] = "A-unaware"

    objective: str = "both"
    gamma: float = 1.0
    aim: str = "crafted"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("attack.objective", self.objective, OBJECTIVES)
        check_choice("attack.aim", self.aim, AIMS)

    @property
    def needs_trigger(self) -> bool:
        """Unless it aims at the clean trigger, it needs the crafted one while it poisons."""
        return self.aim == "crafted"

    def agreeing(self, view: ModelView, batch: Batch, ctx: Context) -> Callable[[Tensor, Tensor], Tensor]:
        """Return the objective J as a function of images [B, ...] and their labels [B]; logs the alignment it works on.

        Args:
            view: The model as it is now.
            batch: The clean batch, [B, ...].
            ctx: Of this step.
        """
        train = self.bn_mode == "train"
        goal = accumulative_goal(
            view,
            self.access.trigger if self.aim == "clean" else self.crafted_trigger(view, ctx),
            batch,
            self.val(ctx),
            objective=self.objective,
            gamma=self.gamma,
            train=train,
            on_alignment=lambda value: ctx.log("attack/alignment", value),
        )
        return lambda x, y: agreement(view, x, y, goal, train=train)

    def perturb(self, view: ModelView, batch: Batch, ctx: Context) -> Tensor:
        """Return the images moved toward the trigger's purpose."""
        agreeing = self.agreeing(view, batch, ctx)
        return pgd_linf(
            batch.x,
            lambda x: agreeing(x, batch.y),
            eps=self.eps,
            steps=self.steps,
            round_sign=self.round_sign,
            bounded=batch.bounded,
        )
