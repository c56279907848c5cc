"""Defences that each break one promise, and the words that the check must find for it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from accupoison.defenses import Defense
from accupoison.types import Batch, Context, Forward, Grads, ModelView, State, Verdict


@dataclass(kw_only=True)
class MutatesInput(Defense):
    def intercept(self, view: ModelView, batch: Batch, ctx: Context) -> Batch:
        batch.x.mul_(0.99)
        return batch


@dataclass(kw_only=True)
class UsesGlobalRng(Defense):
    def intercept(self, view: ModelView, batch: Batch, ctx: Context) -> Batch:
        return batch.with_x(batch.x * torch.rand(batch.x.shape))


@dataclass(kw_only=True)
class BorrowsGlobalSeed(Defense):
    def intercept(self, view: ModelView, batch: Batch, ctx: Context) -> Batch:
        with torch.random.fork_rng(devices=[]):
            return batch.with_x(batch.x * torch.rand(batch.x.shape))


@dataclass(kw_only=True)
class PeeksAtIds(Defense):
    def intercept(self, view: ModelView, batch: Batch, ctx: Context) -> Batch:
        return batch.rows(batch.ids % 2 == 0)


@dataclass(kw_only=True)
class InventsIds(Defense):
    def intercept(self, view: ModelView, batch: Batch, ctx: Context) -> Batch:
        return replace(batch, ids=batch.ids + 1)


@dataclass(kw_only=True)
class NotFinite(Defense):
    def intercept(self, view: ModelView, batch: Batch, ctx: Context) -> Batch:
        return batch.with_x(batch.x / batch.x.sign())


@dataclass(kw_only=True)
class KeepsAGraph(Defense):
    def intercept(self, view: ModelView, batch: Batch, ctx: Context) -> Batch:
        return replace(batch, extra={"logits": view.logits(batch.x)})


@dataclass(kw_only=True)
class ChangesWeights(Defense):
    def intercept(self, view: ModelView, batch: Batch, ctx: Context) -> Batch:
        view.params()[0].data.mul_(0.99)
        return batch


@dataclass(kw_only=True)
class TracksTwice(Defense):
    def losses(self, forward: Forward, batch: Batch) -> Tensor:
        return F.cross_entropy(forward(batch.x) + forward(batch.x, track=True), batch.y, reduction="none")


@dataclass(kw_only=True)
class TracksBehindTheBack(Defense):
    def losses(self, forward: Forward, batch: Batch) -> Tensor:
        forward._model(batch.x)  # type: ignore[attr-defined]
        return super().losses(forward, batch)


@dataclass(kw_only=True)
class TracksNever(Defense):
    def losses(self, forward: Forward, batch: Batch) -> Tensor:
        return F.cross_entropy(forward(batch.x, track=False), batch.y, reduction="none")


@dataclass(kw_only=True)
class SetsTraining(Defense):
    def losses(self, forward: Forward, batch: Batch) -> Tensor:
        losses = super().losses(forward, batch)
        forward._model[1].eval()  # type: ignore[attr-defined]
        return losses


@dataclass(kw_only=True)
class CallsBackward(Defense):
    def losses(self, forward: Forward, batch: Batch) -> Tensor:
        losses = super().losses(forward, batch)
        losses.sum().backward(retain_graph=True)  # type: ignore[no-untyped-call]
        return losses


@dataclass(kw_only=True)
class MeanLoss(Defense):
    def losses(self, forward: Forward, batch: Batch) -> Tensor:
        return super().losses(forward, batch).mean()


@dataclass(kw_only=True)
class DetachedLoss(Defense):
    def losses(self, forward: Forward, batch: Batch) -> Tensor:
        return super().losses(forward, batch).detach()


@dataclass(kw_only=True)
class InfiniteLoss(Defense):
    def losses(self, forward: Forward, batch: Batch) -> Tensor:
        return super().losses(forward, batch) * torch.inf


@dataclass(kw_only=True)
class CountsInLosses(Defense):
    count: int = field(default=0, init=False)

    def losses(self, forward: Forward, batch: Batch) -> Tensor:
        self.count += 1
        return super().losses(forward, batch)


@dataclass(kw_only=True)
class ImpureLosses(Defense):
    def losses(self, forward: Forward, batch: Batch) -> Tensor:
        self.calls = getattr(self, "calls", 0) + 1
        return super().losses(forward, batch) * self.calls


@dataclass(kw_only=True)
class SpoilsMomentum(Defense):
    def gradients(self, grads: Grads, momentum: Grads, ctx: Context) -> Grads:
        momentum[0].mul_(0.5)
        return grads


@dataclass(kw_only=True)
class ScalesInPlace(Defense):
    def gradients(self, grads: Grads, momentum: Grads, ctx: Context) -> Grads:
        return tuple(g.mul_(0.5) for g in grads)


@dataclass(kw_only=True)
class ImpureGradients(Defense):
    def gradients(self, grads: Grads, momentum: Grads, ctx: Context) -> Grads:
        self.calls = getattr(self, "calls", 0) + 1
        return tuple(g * self.calls for g in grads)


@dataclass(kw_only=True)
class LosesAGradient(Defense):
    def gradients(self, grads: Grads, momentum: Grads, ctx: Context) -> Grads:
        return grads[:-1]


@dataclass(kw_only=True)
class NeedsMoreThanItSays(Defense):
    def setup(self, live: ModelView, reference: ModelView | None, trusted: Sequence[Batch], ctx: Context) -> None:
        if reference is None:
            raise ValueError("where is the snapshot?")


@dataclass(kw_only=True)
class TrustedLabels(Defense):
    requires: ClassVar[frozenset[str]] = frozenset({"trusted-unlabelled"})
    neutral: ClassVar[None] = None

    share: float = field(default=0.0, init=False)

    def setup(self, live: ModelView, reference: ModelView | None, trusted: Sequence[Batch], ctx: Context) -> None:
        self.share = float(trusted[0].y.float() @ torch.arange(len(trusted[0].y)).float())

    def intercept(self, view: ModelView, batch: Batch, ctx: Context) -> Batch:
        return batch.with_x(batch.x / (1 + self.share))


@dataclass(kw_only=True)
class SpoilsTheSnapshot(Defense):
    requires: ClassVar[frozenset[str]] = frozenset({"snapshot"})

    def setup(self, live: ModelView, reference: ModelView | None, trusted: Sequence[Batch], ctx: Context) -> None:
        assert reference is not None
        reference.params()[0].data.zero_()


@dataclass(kw_only=True)
class Forgets(Defense):
    """Keeps what it has found at set-up in an attribute that is not a field."""

    neutral: ClassVar[None] = None

    def setup(self, live: ModelView, reference: ModelView | None, trusted: Sequence[Batch], ctx: Context) -> None:
        self.scale = 0.9

    def intercept(self, view: ModelView, batch: Batch, ctx: Context) -> Batch:
        return batch.with_x(batch.x * getattr(self, "scale", 1.0))


@dataclass(kw_only=True)
class RemembersTooMuch(Defense):
    """Counts in an attribute that going back to an earlier state does not bring back."""

    neutral: ClassVar[None] = None

    def intercept(self, view: ModelView, batch: Batch, ctx: Context) -> Batch:
        self.count = getattr(self, "count", 0) + 1
        return batch.with_x(batch.x / self.count)


@dataclass(kw_only=True)
class SavesAList(Defense):
    def state(self) -> State:
        return {**super().state(), "window": [1, 2]}  # type: ignore[dict-item]


@dataclass(kw_only=True)
class NotNeutralInEvalMode(Defense):
    """Equals standard training while batch norm takes its statistics from the batch, not otherwise."""

    def losses(self, forward: Forward, batch: Batch) -> Tensor:
        losses = super().losses(forward, batch)
        return losses if forward._model.training else 2 * losses  # type: ignore[attr-defined]


@dataclass(kw_only=True)
class NotNeutral(Defense):
    """Equals standard training in its loss, but tracks the halved images."""

    neutral: ClassVar[dict[str, Any]] = {"weight": 0.0}

    weight: float = 1.0

    def losses(self, forward: Forward, batch: Batch) -> Tensor:
        other = F.cross_entropy(forward(batch.x / 2), batch.y, reduction="none")
        return F.cross_entropy(forward(batch.x), batch.y, reduction="none") + self.weight * other


@dataclass(kw_only=True)
class Logs(Defense):
    def intercept(self, view: ModelView, batch: Batch, ctx: Context) -> Batch:
        ctx.log("defense/mood", 1.0)
        return batch


@dataclass(kw_only=True)
class ChangesWeightsAfterwards(Defense):
    def after(self, before: ModelView, view: ModelView, ctx: Context) -> Verdict:
        view.params()[0].data.mul_(0.99)
        return Verdict.COMMIT


@dataclass(kw_only=True)
class UndoesInSilence(Defense):
    def after(self, before: ModelView, view: ModelView, ctx: Context) -> Verdict:
        return Verdict.ROLLBACK


@dataclass(kw_only=True)
class ServesAnotherModel(Defense):
    def served(self, view: ModelView) -> dict[str, Tensor]:
        return {"0.weights": view.params()[0].detach()}


@dataclass(kw_only=True)
class NotNeutralInWhatItServes(Defense):
    def served(self, view: ModelView) -> dict[str, Tensor]:
        return {"0.weight": view.params()[0].detach() / 2}


@dataclass(kw_only=True)
class ImpureDirection(Defense):
    def direct(self, direction: Grads, view: ModelView, ctx: Context) -> Grads:
        self.calls = getattr(self, "calls", 0) + 1
        return tuple(u / self.calls for u in direction)


@dataclass(kw_only=True)
class DirectsInPlace(Defense):
    def direct(self, direction: Grads, view: ModelView, ctx: Context) -> Grads:
        return tuple(u.mul_(0.5) for u in direction)


@dataclass(kw_only=True)
class AmendsAnotherModel(Defense):
    def amend(self, view: ModelView, ctx: Context) -> dict[str, Tensor]:
        return {"0.weight": view.params()[0][:1].detach()}


@dataclass(kw_only=True)
class ImpureAmends(Defense):
    def amend(self, view: ModelView, ctx: Context) -> dict[str, Tensor]:
        self.calls = getattr(self, "calls", 0) + 1
        return {"0.weight": view.params()[0].detach() / self.calls}


@dataclass(kw_only=True)
class NotNeutralInItsMomentum(Defense):
    def direct(self, direction: Grads, view: ModelView, ctx: Context) -> Grads:
        return tuple(u / 2 for u in direction)


@dataclass(kw_only=True)
class LooksAtThePresent(Defense):
    def amend(self, view: ModelView, ctx: Context) -> Mapping[str, Tensor] | None:
        ctx.present(torch.zeros(2, 3, 8, 8), torch.arange(2))
        return None


@dataclass(kw_only=True)
class LooksAtThePresentEarly(Defense):
    def intercept(self, view: ModelView, batch: Batch, ctx: Context) -> Batch:
        return batch.with_x(ctx.present(batch.x, batch.ids))


BROKEN: list[tuple[type[Defense], str]] = [
    (MutatesInput, r"intercept changed what it was given to read"),
    (UsesGlobalRng, r"intercept changed the global random state"),
    (BorrowsGlobalSeed, r"two different outputs from one seed"),
    (PeeksAtIds, r"treats the same rows differently under other ids"),
    (InventsIds, r"returned an id that is neither one it received nor negative"),
    (NotFinite, r"intercept returned images that are not finite"),
    (KeepsAGraph, r"returned extra\['logits'\] that carry a graph"),
    (ChangesWeights, r"intercept changed the weights"),
    (TracksTwice, r"losses failed: a second forward pass of one step asked to move the running statistics"),
    (TracksBehindTheBack, r"losses moved the running statistics 2 times instead of 1"),
    (TracksNever, r"losses moved the running statistics 0 times instead of 1"),
    (SetsTraining, r"losses changed the \.training of a module"),
    (CallsBackward, r"losses changed the \.grad of a parameter"),
    (MeanLoss, r"losses returned \[\], not one loss for each of 6 rows"),
    (DetachedLoss, r"losses returned losses without a graph"),
    (InfiniteLoss, r"losses returned a loss that is not finite"),
    (CountsInLosses, r"losses changed the defence's own state"),
    (ImpureLosses, r"losses gave two different values on one batch"),
    (SpoilsMomentum, r"gradients changed the optimiser"),
    (ScalesInPlace, r"gradients changed what it was given to read"),
    (ImpureGradients, r"gradients gave two different values on one input"),
    (LosesAGradient, r"gradients returned other shapes than one gradient a parameter"),
    (NeedsMoreThanItSays, r"setup got what it requires \(nothing\) and failed: where is the snapshot"),
    (TrustedLabels, r"uses the labels of trusted images"),
    (SpoilsTheSnapshot, r"setup changed what it was given to read"),
    (Forgets, r"went on differently after state\(\) was restored into a fresh one"),
    (RemembersTooMuch, r"went on differently after state\(\) was restored into the same one, gone on meanwhile"),
    (NotNeutral, r"at its neutral settings \{'weight': 0\.0\} differs from standard training in the model"),
    (NotNeutralInEvalMode, r"differs from standard training in the model after 1 eval-mode updates"),
    (SavesAList, r"has a list under 'window', which no checkpoint can hold"),
    (ChangesWeightsAfterwards, r"after changed the weights"),
    (UndoesInSilence, r"after undid a step, yet `couples` is not True"),
    (ServesAnotherModel, r"served returned other names or shapes than those of the model"),
    (NotNeutralInWhatItServes, r"at its neutral settings \{\} serves another model"),
    (ImpureDirection, r"direct gave two different values on one input"),
    (DirectsInPlace, r"direct changed what it was given to read"),
    (LooksAtThePresent, r"amend asked for images of the present world, yet requires no \"trusted-current\""),
    (LooksAtThePresentEarly, r"intercept asked for images of the present world"),
    (AmendsAnotherModel, r"amend returned other names or shapes than those of the model"),
    (ImpureAmends, r"amend gave two different values on one model"),
    (NotNeutralInItsMomentum, r"at its neutral settings \{\} differs from standard training in the model"),
    (Logs, r"intercept logged an unknown tag 'defense/mood'"),
]
