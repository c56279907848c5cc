"""Correctly labelled images whose features lie on those of a class, so that its members show (feature collision)."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from accupoison.attacks.base import ATTACKS
from accupoison.attacks.budget import Budget, check_share
from accupoison.attacks.planned import Joining, PlannedAttack
from accupoison.data.augment import quantise
from accupoison.data.fabricated import fabricated_id
from accupoison.errors import InputError, check_least
from accupoison.gradients import project_linf
from accupoison.types import ModelView


@ATTACKS.register("clean-label")
@dataclass(kw_only=True)
class CleanLabel(PlannedAttack):
    """Add images of other classes, rightly labelled, whose features have been moved onto those of the target class.

    Chen et al. (NeurIPS 2022), "Amplifying Membership Exposure via Data Poisoning", clean-label form: minimise
    |E(x') - E(base)|^2 over x' within ``eps`` of a seed image of another class, where E gives a model's features and
    base is an image of the target class. Seeds and bases are the attacker's own images.

    Attributes:
        target_class: The class whose members are to show.
        ratio: Rows that it adds, as a share of all samples of the training set, or of the stream before the trigger.
        eps: l_inf radius in pixels around the seed (0.05 in the paper).
        iterations: Steps of Adam for each image (up to 1,000 in the paper).
        lr: Step size of Adam, in pixels.
        encoder: Checkpoint whose features are E; None takes the model that the stream begins with. An offline training
            begins with none, and needs it.

    Raises:
        InputError: A setting is out of its range, there is no encoder, or the attacker lacks images.
    """

    keeps_labels: ClassVar[bool] = True
    threat: ClassVar[tuple[str, ...]] = ("privacy",)
    neutral: ClassVar[dict[str, Any]] = {"ratio": 0.0}

    ratio: float = 0.02
    eps: float = 0.05
    iterations: int = 200
    lr: float = 0.01
    encoder: str | None = None
    images: Tensor | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.target_class is None:
            raise InputError("attack.target_class none leaves no class to be after; give one by its number")
        check_least("attack.iterations", self.iterations, 0, "a number of iterations such as 200")
        check_share("ratio", self.ratio)
        if not (self.eps >= 0 and self.lr > 0):
            raise InputError(
                f"attack.eps {self.eps} and attack.lr {self.lr} are not a radius from 0 and a step above 0; give such "
                "as 0.05 and 0.01"
            )

    @property
    def sees_model(self) -> bool:
        """The features of the model that the stream begins with, unless it has an encoder of its own."""
        return self.encoder is None

    @property
    def spending(self) -> Budget:
        """``ratio`` of the samples, added, each within ``eps`` of an image."""
        return Budget(does="adds images of its own,", eps=self.eps, ratio=self.ratio, rate=self.rate)

    def joining(self, view: ModelView) -> Joining:
        """Craft the images."""
        count = self.share(self.ratio)
        if not count:
            return super().joining(view)
        val = self.access.val
        ids = val.ids.cpu()
        target = torch.isin(ids, self.of_class(self.target_class, ids))
        if target.all() or not target.any():
            raise InputError(
                f"of the attacker's {len(val)} images {int(target.sum())} are of class {self.target_class}; some of it "
                "and of other classes are needed, give data.val more"
            )
        seeds, bases = (~target).nonzero().flatten(), target.nonzero().flatten()
        rows = torch.arange(count)
        turn = rows // len(seeds)
        chosen = seeds[rows % len(seeds)]
        base = bases[torch.randint(len(bases), (count,), generator=self.rng("bases"))]
        encoder = self._encoder(view)
        device = val.x.device
        parts = [
            self._collide(encoder, val.x[a.to(device)], val.x[b.to(device)], val.bounded)
            for a, b in zip(torch.split(chosen, 200), torch.split(base, 200), strict=True)
        ]
        self.images = torch.cat(parts).cpu()
        return self.anywhere(fabricated_id("own", ids[chosen], turn), val.y.cpu()[chosen])

    def own_x(self, index: Tensor) -> Tensor:
        """Return the crafted images."""
        assert self.images is not None
        return self.images[self.own_rows[index]]

    def _encoder(self, view: ModelView) -> ModelView:
        if self.encoder is not None:
            return self.population.model(self.encoder)
        if not self.population.ordered:
            raise InputError(
                "the attack clean-label moves features of a trained model and a burn-in begins with none; give "
                "attack.encoder the checkpoint of one, such as a clean burn-in's final.pt"
            )
        return view

    def _collide(self, encoder: ModelView, seeds: Tensor, bases: Tensor, bounded: bool) -> Tensor:
        """Return images [N, ...] within ``eps`` of the seeds whose features are as near as can be to the bases'."""
        with torch.no_grad():
            wanted = encoder.features(bases)
        x = seeds.clone().requires_grad_()
        first, second = torch.zeros_like(x), torch.zeros_like(x)
        for step in range(1, self.iterations + 1):  # Adam, since torch.optim takes longer to import than a small run
            loss = (encoder.features(x) - wanted).square().sum()
            (slope,) = torch.autograd.grad(loss, x)
            first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope.square()
            moved = first / (1 - 0.9**step) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
            x = project_linf(x.detach() - self.lr * moved, seeds, self.eps, bounded=bounded).requires_grad_()
        return quantise(x.detach(), seeds) if bounded and seeds.ndim == 4 else x.detach()
