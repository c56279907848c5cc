"""What an attacker is given of the run: what its attack says that it knows, and no more."""

from dataclasses import dataclass
from typing import Any

from accupoison.attacks import Attack
from accupoison.attacks.base import DEFENCE, OPTIMISER
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
    """

    learner: Learner
    defense: Defense
    reference: ModelView | None
    seed: int
    steps: int

    def threshold(self, t: int) -> float:
        """Return the mean discrepancy above which the defence acts at step ``t``."""
        return self.defense.discrepancy_limit(t)

    def correct(self, batch: Batch, ctx: Context) -> Batch:
        """Return what the defence would pass on of ``batch``, [B, ...]."""
        copy = self.defense.fresh()
        copy.restore(self.defense.state(), self.reference)
        share = min(1.0, ctx.t / max(1, self.steps))
        return copy.intercept(self.learner.view(), batch, StepContext(self.seed, "known", ctx.t, {}, share=share))


def access_for(attack: Attack, update: SGD, known: KnownDefense, **given: Any) -> Access:  # noqa: ANN401
    """Return what the attacker holds besides the model.

    Args:
        attack: Says what its attacker knows.
        update: The victim's, which clips.
        known: The defence, and the model that learns.
        **given: The other fields of :class:`~accupoison.types.Access`.
    """
    learner = known.learner

    def step(grads: Grads, start: tuple[Grads, Grads] | None = None) -> tuple[Grads, Grads]:
        weights, momentum = start or (tuple(p.detach() for p in learner.parameters), learner.momentum())
        return learner.optimizer.stepped(update.clipped(grads), weights, momentum)

    return Access(
        preview=lambda grads: learner.preview(update.clipped(grads)),
        trains=learner.bn_mode == "train",
        defense=known if DEFENCE in attack.knows else None,
        step=step if OPTIMISER in attack.knows else None,
        **given,
    )
