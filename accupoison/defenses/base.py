"""What a defence is; the base class is standard training."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from accupoison.registry import Component, Registry
from accupoison.types import Batch, Context, Forward, Grads, ModelView, State, Verdict

DEFENSES: "Registry[Defense]"

ROWWISE = frozenset({"setup", "intercept", "losses", "after", "state", "restore"})
"""What decides whether rows depend on each other."""


@dataclass(kw_only=True)
class Defense(Component):
    """Standard training (ST): learn from whatever arrives.

    A subclass is a dataclass; what its fields are is said at :class:`~accupoison.registry.Component`. A defence is
    never told which rows are poisoned and never sees their clean form; the ids it sees are pseudonyms.

    Attributes:
        requires: What it needs: "snapshot" (the early model), "trusted-unlabelled" (images without labels),
            "trusted-labelled" (images whose labels are known to be right), "trusted-current" (such as the world has
            them at each step, by ``ctx.present``).
        couples: Row i's fate depends on other rows: its image, label or loss, whether it is kept, a row that is made up
            (negative id), what :meth:`gradients` returns beyond its arguments, or any of these at a later step, through
            state. Then no epsilon holds, as DP-SGD bounds a row's gradient and not what the row does to others'. What
            :meth:`gradients` and :meth:`direct` make of the gradients themselves, :meth:`amend` of the model that has
            learnt, and state that comes from these, couples nothing; a verdict of :meth:`after` other than COMMIT does,
            as the whole batch goes with it. A class that overrides :data:`ROWWISE` methods must say it anew, True or
            False; one that does not has None.
        neutral: The settings at which it equals standard training; None exempts it, with the reason in its docstring.
    """

    requires: ClassVar[frozenset[str]] = frozenset()
    couples: ClassVar[bool | None] = False
    neutral: ClassVar[dict[str, Any] | None] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:  # noqa: ANN401
        """Take back an inherited ``couples`` that was said of other methods than the class now has."""
        super().__init_subclass__(**kwargs)
        for kind in cls.__mro__:
            if "couples" in vars(kind):
                return
            if not ROWWISE.isdisjoint(vars(kind)):
                cls.couples = None
                return

    def setup(self, live: ModelView, reference: ModelView | None, trusted: Sequence[Batch], ctx: Context) -> None:
        """Start a run: calibrate on what is trusted. A resumed run does not come here again.

        Args:
            live: The model that the stream begins with.
            reference: The early model; None if there is none.
            trusted: Batches of images known to be clean; their labels are for who requires "trusted-labelled" alone.
            ctx: Of the set-up, at step 0.
        """

    def intercept(self, view: ModelView, batch: Batch, ctx: Context) -> Batch:
        """Return what the update sees of a batch; every inner loop and all randomness belong here.

        Args:
            view: The model before the update.
            batch: What was received, [B, ...]; its ids are pseudonyms.
            ctx: Of this step.
        """
        return batch

    def losses(self, forward: Forward, batch: Batch) -> Tensor:
        """Return the loss of each row [B]: a pure function, without randomness, state or inner loop."""
        return F.cross_entropy(forward(batch.x), batch.y, reduction="none")

    def gradients(self, grads: Grads, momentum: Grads, ctx: Context) -> Grads:
        """Return the gradients that the optimiser gets.

        Args:
            grads: Of the mean of the losses, one tensor a parameter.
            momentum: The optimiser's momentum buffers, likewise.
            ctx: Of this step.
        """
        return grads

    def direct(self, direction: Grads, view: ModelView, ctx: Context) -> Grads:
        """Return what becomes of the momentum, and so what the weights move along (times minus the learning rate).

        Called in a stream alone, at each of its updates, also where momentum alone moves the model (coast). A pure
        function, like :meth:`gradients`.

        Args:
            direction: What the momentum buffers would become, one tensor a parameter: momentum times what they are,
                plus the gradients, as :meth:`gradients` and the update rule have left them, plus weight decay.
            view: The model before the update.
            ctx: Of this step.
        """
        return direction

    def amend(self, view: ModelView, ctx: Context) -> Mapping[str, Tensor] | None:
        """Return weights and buffers, by name, that the model that learns gets after a step; None leaves its own.

        Called in a stream alone, before :meth:`after` judges the step. A pure function, like :meth:`gradients`.

        Args:
            view: The model after the step's updates.
            ctx: Of this step.
        """
        return None

    def after(self, before: ModelView, view: ModelView, ctx: Context) -> Verdict:
        """Return what becomes of a step, once its batch is learnt, or momentum alone has moved the model (coast).

        COMMIT keeps the update. ROLLBACK puts back weights and statistics of before and clears the momentum. RESET puts
        back the model that the stream began with, its momentum too. The defence's own state may change here. Called in
        a stream alone, and not where the defence has left nothing to learn.

        Args:
            before: The model before the step, unaffected by what follows.
            view: The model now.
            ctx: Of this step.
        """
        return Verdict.COMMIT

    def discrepancy_limit(self, t: int) -> float:
        """Return the mean memorization discrepancy above which it acts at step ``t``, in nats; infinite if never.

        Only told: to attackers who know the defence, and to those who ask what it does.
        """
        return math.inf

    def rise_limit(self, rises: Tensor) -> Tensor:
        """Return the mean rise of the loss of known images beyond which a step is taken back, a scalar in nats.

        Infinite if no step is judged by that. Only told, like :meth:`discrepancy_limit`.

        Args:
            rises: What the loss of each of some images has risen by, [N] in nats.
        """
        return rises.new_tensor(math.inf)

    @property
    def judges(self) -> bool:
        """Whether it has an :meth:`after` or :meth:`amend` of its own."""
        return self.overrides("after", "amend")

    @property
    def needs_trusted(self) -> bool:
        """Whether it requires trusted images, with labels or without."""
        return any(need.startswith("trusted") for need in self.requires)

    def overrides(self, *hooks: str) -> bool:
        """Return whether any of these methods is not standard training's."""
        return any(getattr(type(self), hook) is not getattr(Defense, hook) for hook in hooks)

    def directing(self, view: ModelView, ctx: Context) -> Callable[[Grads], Grads] | None:
        """Return :meth:`direct` for the update of ``ctx``; None where it is standard training's."""
        return partial(self.direct, view=view, ctx=ctx) if self.overrides("direct") else None

    def served(self, view: ModelView) -> Mapping[str, Tensor] | None:
        """Return the weights and buffers, by name, that users meet instead of the model's; None serves the model.

        Accuracy, discrepancy and audits are those of what is served; attacks and updates meet the model that learns.

        Args:
            view: The model that learns; what is not returned is served as it has it.
        """
        return None

    def suspects(self) -> tuple[Tensor, Tensor] | None:
        """Return what the defence has found out about samples by the end: ids, int64 [N], and scores, float [N].

        A score in [0, 1] says how sure the defence is that the sample's label is wrong, or the sample poisoned. The
        ids are those that it was given. None from a defence that finds nothing out.
        """
        return None

    def restore(self, state: State, reference: ModelView | None) -> None:
        """Put back what :meth:`state` returned."""
        self.set_state(state)


DEFENSES = Registry("defence", "defenses", Defense)
DEFENSES.register("ST", "none", "standard")(Defense)
