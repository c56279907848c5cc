"""What a defence may do once a batch is learnt: amend or undo it, or serve another model than the one that learns."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from accupoison.defenses import Defense
from accupoison.errors import ComponentError
from accupoison.learner import Learner
from accupoison.loop.checks import component_name
from accupoison.models.copies import copy_of
from accupoison.models.view import view_of
from accupoison.types import Context, ModelView, Verdict


class Judge:
    """Lets a defence amend a step and carries out its verdict on it; costs nothing where a defence has none.

    Args:
        learner: The model, as the stream begins with it: what a RESET puts back.
        defense: Its :meth:`~accupoison.defenses.Defense.after` is asked.
    """

    def __init__(self, learner: Learner, defense: Defense) -> None:
        self._learner, self._defense = learner, defense
        self._base = learner.state() if defense.judges else None

    def before(self) -> ModelView | None:
        """Return the model as it is now, unaffected by later updates; None where nobody asks."""
        return None if self._base is None else self._learner.snapshot()

    def settle(self, before: ModelView | None, verdict: Verdict, ctx: Context) -> Verdict:
        """Return what becomes of a step, after it has been done.

        Args:
            before: What :meth:`before` returned ahead of the updates.
            verdict: Of the update rule.
            ctx: Of this step.

        Raises:
            ComponentError: The defence undoes a batch and says that it does not couple rows.
        """
        if before is None or verdict is not Verdict.COMMIT:
            return verdict
        self.amend(ctx)
        verdict = self._defense.after(before, self._learner.view(), ctx)
        if verdict is not Verdict.COMMIT and self._defense.couples is not True:
            raise ComponentError(
                f"{component_name(self._defense)} returned {verdict} from after, and with it goes every row of the "
                "batch; declare `couples: ClassVar[bool] = True`"
            )
        ctx.log("defense/undone", float(verdict is not Verdict.COMMIT))
        self.carry_out(verdict, before)
        return verdict

    def amend(self, ctx: Context) -> None:
        """Put what the defence gives in place of weights or buffers into the model that learns."""
        view = self._learner.view()
        if (tensors := self._defense.amend(view, ctx)) is not None:
            _fill(self._learner.model, {**view.state(), **tensors})

    def carry_out(self, verdict: Verdict, before: ModelView) -> None:
        """Put back the model of ``before`` the step, or the base model, or neither."""
        if verdict is Verdict.ROLLBACK:
            _fill(self._learner.model, before.state())
            self._learner.optimizer.state.clear()
        elif verdict is Verdict.RESET:
            assert self._base is not None
            self._learner.restore(self._base)


class Served:
    """The model that users meet: the one that learns, or what the defence serves instead.

    Args:
        learner: The model that learns.
        defense: Its :meth:`~accupoison.defenses.Defense.served` is asked.
    """

    def __init__(self, learner: Learner, defense: Defense) -> None:
        self._learner, self._defense = learner, defense
        self._other: tuple[nn.Module, ModelView] | None = None

    def model(self) -> nn.Module:
        """Return the network, in eval mode; not to be changed."""
        return self._now()[0]

    def view(self) -> ModelView:
        """Return a view of it: the learner's own live one, or one that is good until the model learns again."""
        return self._now()[1]

    def _now(self) -> tuple[nn.Module, ModelView]:
        live = self._learner.view()
        tensors = self._defense.served(live)
        if tensors is None:
            return self._learner.model, live
        if self._other is None:
            model = copy_of(self._learner.model)
            self._other = model, view_of(model, self._learner.kernels)
        _fill(self._other[0], {**live.state(), **tensors})
        return self._other


@torch.no_grad()
def _fill(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Write ``tensors`` into the parameters and buffers of their names, in place."""
    for name, held in (*model.named_parameters(), *model.named_buffers()):
        held.copy_(tensors[name])
