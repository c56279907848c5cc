"""Accumulative poisoning: each batch tilts the model so that the trigger will do more harm."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

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


def alignment_gradient(view: ModelView, trigger: Batch, val: Batch, *, train: bool = False) -> tuple[Grads, Tensor]:
    """Return the parameter gradient of :func:`alignment`, a second-order term, and the alignment itself, a scalar.

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
    return tuple(a + b for a, b in zip(by_trigger, by_val, strict=True)), inner(unit_trigger, unit_val)


def accumulative_goal(
    view: ModelView,
    trigger: Batch,
    batch: Batch,
    val: Batch,
    *,
    objective: str = "both",
    gamma: float = 1.0,
    train: bool = False,
) -> tuple[Grads, Tensor | None]:
    """Return the direction that the gradient of a poisoned batch is to have; see :func:`craft_accumulative`.

    Args:
        view: The model under attack.
        trigger: The trigger that the attack prepares for, [B, ...].
        batch: The clean batch, [B, ...].
        val: The attacker's own images, [V, ...].
        objective: One of :data:`OBJECTIVES`.
        gamma: Weight of the clean batch's term.
        train: Use batch statistics in place of the running ones.

    Returns:
        The direction, and the alignment that it works on, a scalar, or None with the objective "first_order".

    Raises:
        ValueError: There is no such objective.
    """
    if objective not in OBJECTIVES:
        raise ValueError(f"unknown objective {objective!r}; choose from {', '.join(OBJECTIVES)}")

    def aim(x: Tensor, y: Tensor, trigger_x: Tensor, trigger_y: Tensor, val_x: Tensor, val_y: Tensor) -> Grads:
        parts: list[Grads] = []
        aligned: Grads = ()
        if objective != "second_order":
            parts.append(tuple(gamma * g for g in normalize_each(gradient(view, x, y, train=train))))
        if objective != "first_order":
            coming, own = (
                replace(given, x=images, y=labels, checked=images)
                for given, images, labels in ((trigger, trigger_x, trigger_y), (val, val_x, val_y))
            )
            second, value = alignment_gradient(view, coming, own, train=train)
            parts.append(normalize_each(second))
            aligned = (value,)
        return (*(torch.stack(tensors).sum(0) for tensors in zip(*parts, strict=True)), *aligned)

    key, given = ("goal", objective, gamma, train), (batch.x, batch.y, trigger.x, trigger.y, val.x, val.y)
    found, count = view.recorded(key, aim, *given), len(view.params())
    return found[:count], found[count] if len(found) > count else None


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


def follow(
    view: ModelView, batch: Batch, goal: Grads, *, eps: float, steps: int, train: bool = False, round_sign: bool = False
) -> Tensor:
    """Return images [B, ...] with the largest :func:`agreement` that signed steps find, detached.

    Args:
        view: The model under attack.
        batch: The clean batch [B, ...], centre of the l_inf ball.
        goal: What :func:`accumulative_goal` returned.
        eps: Radius in pixels.
        steps: Signed gradient steps, of size ``2 * eps / steps``.
        train: Use batch statistics in place of the running ones.
        round_sign: Leave a pixel where it is if the objective's slope there is below 0.0005.
    """

    def search(clean: Tensor, y: Tensor, *goal: Tensor) -> tuple[Tensor]:
        def agreeing(x: Tensor) -> Tensor:
            return agreement(view, x, y, goal, train=train)

        return (pgd_linf(clean, agreeing, eps=eps, steps=steps, round_sign=round_sign, bounded=batch.bounded),)

    key = "follow", eps, steps, train, round_sign, batch.bounded
    return view.recorded(key, search, batch.x, batch.y, *goal)[0]


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

    Returns:
        The poisoned images [B, ...], detached.

    Raises:
        ValueError: There is no such objective.
    """
    goal, _ = accumulative_goal(view, trigger, batch, val, objective=objective, gamma=gamma, train=train)
    return follow(view, batch, goal, eps=eps, steps=steps, train=train, round_sign=round_sign)


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

    def goal(self, view: ModelView, batch: Batch, ctx: Context) -> Grads:
        """Return the direction that the batch's gradient is to have; logs the alignment that it works on.

        Args:
            view: The model as it is now.
            batch: The clean batch, [B, ...].
            ctx: Of this step.
        """
        trigger = self.access.trigger if self.aim == "clean" else self.crafted_trigger(view, ctx)
        settings: Any = {"objective": self.objective, "gamma": self.gamma, "train": self.bn_mode == "train"}
        goal, aligned = accumulative_goal(view, trigger, batch, self.val(ctx), **settings)
        if aligned is not None:
            ctx.log("attack/alignment", float(aligned))
        return goal

    def agreeing(self, view: ModelView, batch: Batch, ctx: Context) -> Callable[[Tensor, Tensor], Tensor]:
        """Return the objective J as a function of images [B, ...] and their labels [B].

        Args:
            view: The model as it is now.
            batch: The clean batch, [B, ...].
            ctx: Of this step; see :meth:`goal`.
        """
        goal = self.goal(view, batch, ctx)
        return lambda x, y: agreement(view, x, y, goal, train=self.bn_mode == "train")

    def perturb(self, view: ModelView, batch: Batch, ctx: Context) -> Tensor:
        """Return the images moved toward the trigger's purpose."""
        settings: Any = {"eps": self.eps, "steps": self.steps, "round_sign": self.round_sign}
        return follow(view, batch, self.goal(view, batch, ctx), train=self.bn_mode == "train", **settings)
