"""The search that adaptive attacks share: climb, judge every iterate exactly, keep the best one."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from accupoison.attacks.noise import noisy
from accupoison.attacks.pixel import PixelAttack
from accupoison.data import quantise
from accupoison.errors import check_least
from accupoison.gradients import ROUND_SIGN, project_linf
from accupoison.types import Batch, Context, DefenseView, ModelView

Harm = Callable[[Tensor], Tensor]
"""Images [B, ...] to a scalar that can be differentiated: an attack's objective."""
Slope = Callable[[Tensor], Tensor]
"""Images [B, ...] to a direction of their shape."""


def ascending(harm: Harm) -> Slope:
    """Return the gradient of an objective; where it was asked before, as several searches do, it is remembered."""
    seen: list[tuple[Tensor, Tensor]] = []

    def slope(x: Tensor) -> Tensor:
        for there, found in seen:
            if torch.equal(there, x):
                return found
        leaf = x.detach().clone().requires_grad_()
        (found,) = torch.autograd.grad(harm(leaf), leaf)
        seen.append((x, found))
        return found

    return slope


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One batch's search.

    Attributes:
        harm: What is to be as large as can be.
        slopes: What is climbed, each in a search of its own; those of an attacker who knows less come first, so that
            what is found is never worse than what these find.
        settle: Images to those that are judged in their place, [B, ...] each.
        within: Images to the constraints that they keep, bool [N], which come before harm; None has none.
    """

    harm: Harm
    slopes: Sequence[Slope]
    settle: Callable[[Tensor], Sequence[Tensor]] = lambda x: [x]
    within: Callable[[Tensor], Tensor] | None = None

    def worth(self, x: Tensor) -> tuple[int, float]:
        """Return what images [B, ...] are ranked by: the constraints they keep, then the harm."""
        return 0 if self.within is None else int(self.within(x).sum()), float(self.harm(x).detach())


@dataclass(kw_only=True)
class Ascent(PixelAttack):
    """The base of attacks that climb an objective of their own and keep the best iterate by its exact value.

    The k-th step has the size eps / (2 (1 + floor(k / 4))), whatever ``steps`` is, and the r-th start depends on r
    alone, so a longer search goes where a shorter one goes and further: more steps and restarts never lower the
    objective. The clean batch is the first candidate. Where it lies on the 8-bit grid, as images of a stream do,
    iterates are rounded to it as the stream rounds, so that what is judged is what is sent.

    Attributes:
        restarts: Starts of the search: the clean batch, then random ones in the ball.
        trigger_steps: Steps that craft the trigger, apart from ``steps``: with another trigger, accumulative poison
            would prepare for something else.
    """

    threat: ClassVar[tuple[str, ...]] = ("availability",)

    restarts: int = 1
    trigger_steps: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least("attack.restarts", self.restarts, 1, "the number of starts")
        check_least("attack.trigger_steps", self.trigger_steps, 1, "the number of gradient steps of the trigger")

    @property
    def known(self) -> DefenseView | None:
        """The defence, as far as it still comes between: not after it, where the attacker owns the training code."""
        return None if self.in_code else self.access.defense

    @abstractmethod
    def problem(self, view: ModelView, batch: Batch, rows: Tensor, ctx: Context) -> Problem:
        """Return what is to be solved.

        Args:
            view: The model as it is now.
            batch: The whole batch, [B, ...].
            rows: Which rows may move, bool [B].
            ctx: Of this step.
        """

    def perturb(self, view: ModelView, batch: Batch, ctx: Context) -> Tensor:
        """Return the images [B, ...], all of them perturbed."""
        return self.moved(view, batch, torch.arange(len(batch), device=batch.x.device), ctx)

    def moved(self, view: ModelView, batch: Batch, rows: Tensor, ctx: Context) -> Tensor:
        """Return the best images that the search has found, [B, ...]; logs their objective.

        Args:
            view: The model as it is now.
            batch: The whole batch; the objective is of all its rows, poisoned or not.
            rows: Which rows may move, int64 [N].
            ctx: Of this step.
        """
        movable = torch.zeros(len(batch), dtype=torch.bool, device=batch.x.device)
        movable[rows] = True
        problem = self.problem(view, batch, movable, ctx)
        best, worth = batch.x, problem.worth(batch.x)
        for slope in problem.slopes:
            for number in range(self.restarts):
                x = batch.x if number == 0 else self._start(batch, movable, number, ctx)
                for k in range(self.steps):
                    x = self._step(x, slope(x), batch, movable, k)
                    for candidate in problem.settle(x):
                        found = problem.worth(candidate)
                        best, worth = (candidate, found) if found > worth else (best, worth)
        ctx.log("attack/objective", worth[1])
        if problem.within is not None:
            ctx.log("attack/feasible", float(problem.within(best).all()))
        return best

    def _start(self, batch: Batch, movable: Tensor, number: int, ctx: Context) -> Tensor:
        rng = ctx.rng(f"restart-{number}")
        return sendable(noisy(batch.x, "uniform", self.eps, rng, bounded=batch.bounded), batch, movable)

    def _step(self, x: Tensor, slope: Tensor, batch: Batch, movable: Tensor, k: int) -> Tensor:
        size = max(self.eps / (2 * (1 + k // 4)), 1 / 255 if on_grid(batch) else 0)  # less would be rounded away
        slope = torch.round(ROUND_SIGN * slope) if self.round_sign else slope
        moved = project_linf(x.detach() + size * slope.sign(), batch.x, self.eps, bounded=batch.bounded)
        return sendable(moved, batch, movable)


def on_grid(batch: Batch) -> bool:
    """Return whether all values of a batch are 8-bit pixels, multiples of 1/255."""
    return batch.bounded and torch.equal(quantise(batch.x, batch.x), batch.x)


def sendable(x: Tensor, clean: Batch, movable: Tensor) -> Tensor:
    """Return images as they would be sent: rounded where the clean ones are, and clean in rows that may not move.

    Args:
        x: Images [B, ...].
        clean: The clean batch.
        movable: Which rows may move, bool [B].
    """
    x = quantise(x, clean.x) if on_grid(clean) else x
    return torch.where(movable.view(-1, *(1 for _ in x.shape[1:])), x, clean.x)
