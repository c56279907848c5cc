"""Releases that break a promise, each with the words that say which."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from accupoison.release import Identity, Release
from accupoison.release.base import ask
from accupoison.rng import generator
from accupoison.types import Batch, Context, ModelView


@dataclass(kw_only=True)
class Sum(Release):
    def rewrite(self, probs: Tensor) -> Tensor:
        return 0.9 * probs


@dataclass(kw_only=True)
class Outside(Release):
    def rewrite(self, probs: Tensor) -> Tensor:
        return 2 * probs - 1 / probs.shape[1]


@dataclass(kw_only=True)
class Label(Release):
    def rewrite(self, probs: Tensor) -> Tensor:
        return probs.roll(1, dims=1)


@dataclass(kw_only=True)
class LabelInTies(Release):
    """A third of the rows are rounded so far that the first class of a tie is another one."""

    def rewrite(self, probs: Tensor) -> Tensor:
        flat = torch.full_like(probs, 1 / probs.shape[1])
        return torch.where(probs.amax(dim=1, keepdim=True) < probs.amax(dim=1).quantile(0.3), flat, probs)


@dataclass(kw_only=True)
class Fewer(Release):
    def rewrite(self, probs: Tensor) -> Tensor:
        return probs[1:]


@dataclass(kw_only=True)
class Graph(Release):
    def __call__(self, view: ModelView, x: Tensor, ids: Tensor) -> Tensor:
        return view.logits(x).softmax(dim=1)


@dataclass(kw_only=True)
class Jitter(Release):
    """Draws anew at every call, so that averaging finds the model's own answer."""

    calls: ClassVar[list[int]] = []
    keeps_label: ClassVar[bool] = False

    def rewrite(self, probs: Tensor) -> Tensor:
        self.calls.append(1)
        noise = torch.randn(probs.shape, generator=generator(len(self.calls), "fresh"))
        return (probs.log() + noise).softmax(dim=1)


@dataclass(kw_only=True)
class Global(Release):
    keeps_label: ClassVar[bool] = False

    def rewrite(self, probs: Tensor) -> Tensor:
        return (probs.log() + torch.randn(probs.shape)).softmax(dim=1)


@dataclass(kw_only=True)
class ByPlace(Release):
    """Noise by the row's place in the batch, not by its id."""

    keeps_label: ClassVar[bool] = False

    def rewrite(self, probs: Tensor) -> Tensor:
        noise = torch.randn(probs.shape, generator=generator(0, "place"))
        return (probs.log() + noise).softmax(dim=1)


@dataclass(kw_only=True)
class ByCompany(Release):
    """Half the mean of the batch."""

    keeps_label: ClassVar[bool] = False

    def rewrite(self, probs: Tensor) -> Tensor:
        return 0.5 * (probs + probs.mean(dim=0, keepdim=True))


@dataclass(kw_only=True)
class BySize(Release):
    """Lone queries are treated otherwise."""

    def rewrite(self, probs: Tensor) -> Tensor:
        return probs if len(probs) > 1 else (2 * probs.log()).softmax(dim=1)


@dataclass(kw_only=True)
class Counts(Release):
    """Every answer is a little more than the last one."""

    asked: int = field(init=False, default=0)

    def rewrite(self, probs: Tensor) -> Tensor:
        self.asked += 1
        return probs


@dataclass(kw_only=True)
class Seedless(Release):
    """Its key is of the global generator."""

    key: int = field(init=False, default=0)
    keeps_label: ClassVar[bool] = False

    def fit(self, view: ModelView, members: Batch, nonmembers: Batch, ctx: Context) -> None:
        with torch.random.fork_rng(devices=[]):
            self.key = int(torch.randint(2**31, ()))

    def __call__(self, view: ModelView, x: Tensor, ids: Tensor) -> Tensor:
        logits = ask(view, x)
        rows = [torch.randn(logits.shape[1], generator=generator(self.key, "row", i)) for i in ids.tolist()]
        return (logits + torch.stack(rows)).softmax(dim=1)


@dataclass(kw_only=True)
class Forgets(Release):
    """What it has learnt is in a list, which no checkpoint holds."""

    keeps_label: ClassVar[bool] = False
    learnt: list[float] = field(init=False, default_factory=list)

    def fit(self, view: ModelView, members: Batch, nonmembers: Batch, ctx: Context) -> None:
        self.learnt = torch.rand(1, generator=ctx.rng("learnt")).tolist()

    def rewrite(self, probs: Tensor) -> Tensor:
        return (probs.log() / (1 + self.learnt[0])).softmax(dim=1)


@dataclass(kw_only=True)
class ForgetsQuietly(Forgets):
    def rewrite(self, probs: Tensor) -> Tensor:
        return (probs.log() / (1 + sum(self.learnt))).softmax(dim=1)


@dataclass(kw_only=True)
class Members(Release):
    """Says nothing of the members that it needs."""

    scale: float = field(init=False, default=1.0)

    def fit(self, view: ModelView, members: Batch, nonmembers: Batch, ctx: Context) -> None:
        self.scale = float(ask(view, members.x).max())


@dataclass(kw_only=True)
class Neutral(Release):
    neutral: ClassVar[dict[str, Any] | None] = {"strength": 0.0}

    strength: float = 0.5

    def rewrite(self, probs: Tensor) -> Tensor:
        return (probs.log() / (1.001 + self.strength)).softmax(dim=1)


@dataclass(kw_only=True)
class NeedsGradients(Release):
    """Who asks has turned them off."""

    def rewrite(self, probs: Tensor) -> Tensor:
        probs = probs.requires_grad_()
        (slope,) = torch.autograd.grad(probs.log().sum(), probs)
        return torch.where(slope > 0, probs, probs).detach()


@dataclass(kw_only=True)
class Trains(Release):
    def fit(self, view: ModelView, members: Batch, nonmembers: Batch, ctx: Context) -> None:
        with torch.no_grad():
            view.params()[0].mul_(0.5)


@dataclass(kw_only=True)
class Blurs(Release):
    def __call__(self, view: ModelView, x: Tensor, ids: Tensor) -> Tensor:
        return ask(view, x.mul_(0.5)).softmax(dim=1)


@dataclass(kw_only=True)
class TurnsGradientsOff(Identity):
    def rewrite(self, probs: Tensor) -> Tensor:
        torch.set_grad_enabled(False)
        return probs


BROKEN = [
    (Sum, "do not sum to 1"),
    (Outside, r"outside \[0, 1\]"),
    (Label, "labels, yet says"),
    (LabelInTies, "labels, yet says"),
    (Fewer, "not one row"),
    (Graph, "carry a graph"),
    (Jitter, "two different answers to a query"),
    (Global, "global random state"),
    (ByPlace, "one query alone got another answer"),
    (ByCompany, "one query alone got another answer"),
    (BySize, "one query alone got another answer"),
    (Counts, "changed its own state when it was asked"),
    (Seedless, "two different answers from one seed"),
    (Forgets, "cannot answer after"),
    (ForgetsQuietly, "answered differently after"),
    (Members, r"got what it requires \(nothing\) and failed"),
    (Neutral, "neutral settings .* changes"),
    (NeedsGradients, "cannot answer: element 0 of tensors does not require grad"),
    (Trains, "fit changed the weights"),
    (Blurs, "changed what it was given to read"),
    (TurnsGradientsOff, "gradient mode"),
]
