"""MemGuard: confidences that leave the defender's own membership attack undecided."""

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from accupoison.errors import InputError, check_least
from accupoison.release.base import CHUNK, MEMBERS, RELEASES, Release, ask
from accupoison.release.classifier import make_classifier, train_classifier
from accupoison.release.search import choose, coins, find_noise
from accupoison.types import Batch, Context, ModelView


@RELEASES.register("memguard")
@dataclass(kw_only=True)
class MemGuard(Release):
    """Noisy confidences that its own classifier of members finds undecided, the label kept (Jia et al., CCS 2019).

    Attributes:
        budget: Bound on the expected l1 change of an answer, in [0, 2]; 0 changes nothing.
        step: Length of a step of the search, in logits.
        max_iterations: Steps of a search.
        cap: The largest weight of staying close to the model's own answer.
        hidden: Units of the hidden layers of the defence classifier.
        lr: Learning rate of the defence classifier.
        epochs: Passes of the defence classifier over what the defender knows.
        batch_size: Samples a step of the defence classifier.
        classes: Of the model, once fitted.
        weights: Of the classifier, one vector [P], once fitted.
        key: What coins are drawn from, with the id.
    """

    requires: ClassVar[frozenset[str]] = frozenset({MEMBERS})
    neutral: ClassVar[dict[str, Any] | None] = {"budget": 0.0}

    budget: float = 1.0
    step: float = 0.1
    max_iterations: int = 300
    cap: float = 1e5
    hidden: tuple[int, ...] = (256, 128, 64)
    lr: float = 0.001
    epochs: int = 400
    batch_size: int = 64
    classes: int = field(init=False, default=0)
    weights: Tensor | None = field(init=False, default=None, repr=False, compare=False)
    key: int = field(init=False, default=0, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.budget <= 2:
            raise InputError(f"release.budget {self.budget} is outside [0, 2], the range of an l1 change; 1 is usual")
        for name in ("step", "cap", "lr"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"release.{name} {getattr(self, name)} is not a number above 0; leave it out")
        for name in ("max_iterations", "epochs", "batch_size"):
            check_least(f"release.{name}", getattr(self, name), 1, "a positive whole number")
        if min(self.hidden, default=1) < 1:
            raise InputError(f"release.hidden {self.hidden} has a layer without units; give numbers such as 256,128,64")

    def fit(self, view: ModelView, members: Batch, nonmembers: Batch, ctx: Context) -> None:
        """Train the defence classifier on the model's answers.

        Args:
            view: The model that answers.
            members: Samples that it was trained on, [M, ...].
            nonmembers: Samples that it was not trained on, [N, ...].
            ctx: Gives the random numbers.

        Raises:
            InputError: There are no members, or no others.
        """
        if not len(members) or not len(nonmembers):
            raise InputError(
                f"the release {self.name} learns from members and others, and there are {len(members)} and "
                f"{len(nonmembers)}; give it some of both"
            )
        inside, outside = (ask(view, batch.x) for batch in (members, nonmembers))
        trained = train_classifier(
            inside.softmax(dim=1),
            outside.softmax(dim=1),
            hidden=self.hidden,
            lr=self.lr,
            epochs=self.epochs,
            batch_size=self.batch_size,
            rng=ctx.rng("classifier"),
        )
        self.classes, self.weights = inside.shape[1], parameters_to_vector(trained.parameters()).detach()
        self.key = int(torch.randint(2**62, (), generator=ctx.rng("key")))
        self.learn(torch.cat([inside, outside]))

    def learn(self, logits: Tensor) -> None:
        """Take what else is needed from the model's logits for what the defender knows, float64 [M + N, C]."""

    @property
    def classifier(self) -> nn.Module:
        """The defence classifier in double precision.

        Raises:
            InputError: It has not been fitted.
        """
        if self.weights is None:
            raise InputError(f"the release {self.name} has not learnt from members yet; call fit before it answers")
        model = make_classifier(self.classes, self.hidden)
        vector_to_parameters(self.weights, model.parameters())
        return model.double().requires_grad_(False)

    def __call__(self, view: ModelView, x: Tensor, ids: Tensor) -> Tensor:
        """Return the noisy answers or the model's own, float64 [B, C], as coins and the budget have it.

        Args:
            view: The model that answers.
            x: The queries [B, ...].
            ids: Who they are, int64 [B].

        Raises:
            InputError: It has not been fitted.
        """
        if self.budget == 0:
            return ask(view, x).softmax(dim=1)
        return self.decide(*self.candidates(view, x, ids), ids)

    def decide(self, probs: Tensor, noisy: Tensor, ids: Tensor) -> Tensor:
        """Return one of two answers for each query, [B, C], as its coin and the budget have it.

        Args:
            probs: The model's own answers [B, C].
            noisy: Those of :meth:`candidates` [B, C].
            ids: Who they are, int64 [B].

        Raises:
            InputError: It has not been fitted.
        """
        return choose(self.classifier, probs, noisy, coins(self.key, ids), self.budget)

    def candidates(self, view: ModelView, x: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return both answers between which the budget decides, the model's own and the noisy one.

        Args:
            view: The model that answers.
            x: The queries [B, ...].
            ids: Who they are, int64 [B].

        Returns:
            Probabilities float64 [B, C] each; the same for every budget.

        Raises:
            InputError: It has not been fitted.
        """
        g, logits = self.classifier, ask(view, x)
        probs, start = logits.softmax(dim=1), self.start(view, x, ids, logits)
        target = self.target(probs)
        parts = zip(*(torch.split(each, CHUNK) for each in (start, target, probs.argmax(dim=1))), strict=True)
        return probs, torch.cat([self._search(g, *part) for part in parts])

    def start(self, view: ModelView, x: Tensor, ids: Tensor, logits: Tensor) -> Tensor:
        """Return the logits that the search begins with, float64 [B, C].

        Args:
            view: The model that answers.
            x: The queries [B, ...].
            ids: Who they are, int64 [B].
            logits: What it says of them [B, C].
        """
        return logits

    def target(self, probs: Tensor) -> Tensor:
        """Return the confidences that the answers to ``probs`` [B, C] stay close to, [B, C]: these themselves."""
        return probs

    def _search(self, g: nn.Module, start: Tensor, target: Tensor, label: Tensor) -> Tensor:
        """Sort, search, and put everything back in the order of the classes.

        Where the start has another label, its largest logit and the label's change places.
        """
        label = label[:, None]
        top, largest = start.max(dim=1, keepdim=True)
        start = start.scatter(1, largest, start.gather(1, label)).scatter(1, label, top)
        order = start.scatter(1, label, torch.inf).argsort(dim=1, descending=True, stable=True)
        found, _ = find_noise(
            g,
            start.gather(1, order),
            target.gather(1, order),
            step=self.step,
            max_iterations=self.max_iterations,
            cap=self.cap,
        )
        return torch.empty_like(found).scatter_(1, order, found)
