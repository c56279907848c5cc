"""What an attacker is given of the run: what its attack says that it knows, and no more."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from accupoison.attacks import Attack
from accupoison.attacks.base import DEFENCE, OPTIMISER
from accupoison.data.corruptions import Shift
from accupoison.defenses import Defense
from accupoison.learner import Learner
from accupoison.loop.context import StepContext
from accupoison.types import Access, Batch, Context, Grads, ModelView
from accupoison.updates import SGD


@dataclass(frozen=True)
class KnownDefense:
    """A :class:`~accupoison.types.DefenseView` of the defence of a run.

    Attributes:
        learner: The model.
        defense: The defence; what it would do is asked of a copy.
        reference: The early model.
        seed: Of the run.
        steps: Before the trigger.
        shift: How images change as the stream goes on; None if they do not.
        now: Says at which step the stream is.
    """

    learner: Learner
    defense: Defense
    reference: ModelView | None
    seed: int
    steps: int
    shift: Shift | None = None
    now: Callable[[], int] = lambda: 0
    _held: dict[object, Callable[[Grads], Grads] | None] = field(default_factory=dict, init=False, repr=False)

    def threshold(self, t: int) -> float:
        """Return the mean discrepancy above which the defence acts at step ``t``."""
        return self.defense.discrepancy_limit(t)

    def rise_limit(self, rises: Tensor) -> Tensor:
        """Return the mean rise of known images' loss beyond which it takes a step back, where theirs rise like [N]."""
        return self.defense.rise_limit(rises)

    def correct(self, batch: Batch, ctx: Context) -> Batch:
        """Return what the defence would pass on of ``batch``, [B, ...]."""
        return self._copy().intercept(self.learner.view(), batch, self._context(ctx.t))

    def direct(self, direction: Grads) -> Grads:
        """Return what the defence would leave of a direction, one tensor [*] a parameter, at the weights of now.

        Differentiable; where the defence's own way is not, its slope is that of a defence that leaves all (BPDA).
        """
        context = self._context(self.now())
        key = (context.t, *(p._version for p in self.learner.parameters))
        if key not in self._held:  # what it rests on stays the same while a batch is searched
            self._held.clear()
            self._held[key] = self._copy().directing(self.learner.view(), context)
        if (direct := self._held[key]) is None:
            return direction
        left = direct(direction)
        if any(x.requires_grad for x in left):
            return left
        return tuple(x.detach() + y - y.detach() for x, y in zip(left, direction, strict=True))

    def has_own_statistics(self) -> bool:
        """Return whether the defence would put running statistics of its own in place of the stream's."""
        amended = self._copy().amend(self.learner.view(), self._context(self.now())) or {}
        return any(name.endswith("running_mean") for name in amended)

    def _context(self, t: int) -> StepContext:
        share = min(1.0, t / max(1, self.steps))
        return StepContext(self.seed, "known", t, {}, share=share, shift=self.shift)

    def _copy(self) -> Defense:
        copy = self.defense.fresh()
        copy.restore(self.defense.state(), self.reference)
        return copy


def access_for(attack: Attack, update: SGD, known: KnownDefense, **given: Any) -> Access:  # noqa: ANN401
    """Return what the attacker holds besides the model.

    Args:
        attack: Says what its attacker knows.
        update: The victim's, which clips.
        known: The defence, and the model that learns.
        **given: The other fields of :class:`~accupoison.types.Access`.
    """
    learner = known.learner
    direct = known.direct if DEFENCE in attack.knows else None

    def step(grads: Grads, start: tuple[Grads, Grads] | None = None) -> tuple[Grads, Grads]:
        weights, momentum = start or (tuple(p.detach() for p in learner.parameters), learner.momentum())
        return learner.optimizer.stepped(update.clipped(grads), weights, momentum, direct)

    return Access(
        preview=lambda grads: learner.preview(update.clipped(grads)),
        trains=learner.bn_mode == "train",
        defense=known if DEFENCE in attack.knows else None,
        step=step if OPTIMISER in attack.knows else None,
        **given,
    )
