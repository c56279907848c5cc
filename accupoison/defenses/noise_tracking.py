"""How likely each label is wrong, estimated from a window of the latest losses."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from accupoison.defenses.gaussian_mixture import (
    GaussianMixture,
    MarginMixture,
    fit_gaussian_mixture,
    fit_margin_mixture,
    group_separation,
)
from accupoison.defenses.mixture import BetaMixture, fit_beta_mixture
from accupoison.defenses.mixup import Mixing, balance, check_weight
from accupoison.errors import InputError, check_choice, check_least
from accupoison.types import Batch, Context, Forward, ModelView

Mixture = BetaMixture | MarginMixture | GaussianMixture
MIXTURES: dict[str, type[Mixture]] = {
    "beta": BetaMixture,
    "margin": MarginMixture,
    "gaussian": GaussianMixture,
    "gaussian-logits": GaussianMixture,
}
STREAM_WINDOW = 2000
APART = 1.0
"""Ashman's D of the margins of those whom a mixture calls right and wrong, below which it has found other groups."""
CHANCE = 1.25
"""Times 1 / classes: a model that answers one class for all agrees with so few labels, and has found no wrong ones."""
EDGE = 1e-4
"""B stays this far from 0 and 1 (Arazo et al., ICML 2019, released code)."""
EMPTY = torch.iinfo(torch.int64).min
"""Id of a place in the window that holds nobody yet."""


@dataclass(kw_only=True)
class NoiseTracking(Mixing, ABC):
    """Estimate B, the probability that a label is wrong, from the losses of the latest samples.

    The loss of a sample is measured when it arrives, in eval mode, before it is learnt from. A window holds the latest
    loss of each of the last ``window`` samples; a mixture of two components is fitted to it anew as the model learns.
    No noise rate is needed. Where the losses show no two groups, B is 0 for all.

    Attributes:
        mixture: "beta" (of losses), "margin" (of log-odds of the label, also where the beta mixture cuts off the few
            labels that are wrong), "gaussian" (of penultimate features) or "gaussian-logits".
        window: Samples in the window; None is the whole training set, or 2000 in a stream.
        refit: Steps between fits; None is once a pass over the training set, or every step in a stream.
        min_samples: Samples in the window before the first fit; at most the window.
        min_separation: Ashman's D of the two groups below which B is 0 for all, as it is where the mixture has found
            other groups; 0 believes every mixture.
        max_b: Upper bound on B; 0 estimates nothing, and every label is believed.
        warmup_epochs: Passes of plain mixup before B is used. A pass is one over the training set, or over ``window``
            samples in a stream. None is left to each defence, and 0 in a stream.
        reg_term: Weight eta of the class balance R (:func:`accupoison.defenses.mixup.balance`) wherever guesses count,
            which otherwise drift to few classes (1.0 in PMIANLL's commands).
    """

    couples: ClassVar[bool] = True

    reg_term: float = 1.0
    mixture: str = "beta"
    window: int | None = None
    refit: int | None = None
    min_samples: int = 300
    min_separation: float = 2.0
    max_b: float = 1.0
    warmup_epochs: int | None = None
    seen: int = field(default=0, init=False)
    since: int = field(default=0, init=False)
    fits: int = field(default=0, init=False)
    separation: float = field(default=0.0, init=False)
    noise_rate: float = field(default=0.0, init=False)
    fitted: Tensor | None = field(default=None, init=False, repr=False, compare=False)
    ids: Tensor | None = field(default=None, init=False, repr=False, compare=False)
    arrived: Tensor = field(init=False, repr=False, compare=False)
    held_losses: Tensor = field(init=False, repr=False, compare=False)
    held_features: Tensor = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weight("reg_term", self.reg_term)
        check_choice("defense.mixture", self.mixture, MIXTURES)
        check_least("defense.window", self.window, 2, "a number of samples such as 2000")
        check_least("defense.min_samples", self.min_samples, 2, "a number of samples such as 300")
        check_least("defense.refit", self.refit, 1, "a number of steps such as 1")
        check_least("defense.warmup_epochs", self.warmup_epochs, 0, "a number of epochs such as 0")
        if not self.min_separation >= 0:
            raise InputError(
                f"defense.min_separation {self.min_separation} is not 0 or more; give Ashman's D, such as 2"
            )
        if not 0 <= self.max_b <= 1:
            raise InputError(f"defense.max_b {self.max_b} is outside [0, 1]; give the largest B, such as 1")

    def intercept(self, view: ModelView, batch: Batch, ctx: Context) -> Batch:
        """Return the batch to learn from, mixed as the phase of the method has it."""
        noise = batch.x.new_zeros(len(batch))
        if not len(batch):
            return replace(batch, extra={**batch.extra, "noise": noise})
        with torch.no_grad():
            logits = view.frozen()(batch.x)
            if self.max_b:
                noise = self._estimate(view, batch, logits, ctx).to(noise)
        mixed = self._mixed(batch, noise, logits, ctx)
        self.seen += len(batch)
        return mixed

    def losses(self, forward: Forward, batch: Batch) -> Tensor:
        """Return the loss of each pair [B], whose mean is the method's loss."""
        logits = forward(batch.x)
        losses = self._of_pairs(logits, batch)
        balanced = self.reg_term and len(batch) and "guess" in batch.extra
        return losses + self.reg_term * balance(logits) if balanced else losses

    def suspects(self) -> tuple[Tensor, Tensor] | None:
        """Return the ids in the window, int64 [N], and B of each by the latest mixture, without the bound ``max_b``."""
        if self.ids is None or not self.fits:
            return None
        held = self.arrived >= 0
        return self.ids[held], self._noise(self.held_losses[held], self.held_features[held])

    @abstractmethod
    def _mixed(self, batch: Batch, noise: Tensor, logits: Tensor, ctx: Context) -> Batch:
        """Return the batch to learn from, given B [B] and the logits [B, C] of its rows."""

    def _unknown(self, ctx: Context) -> float:
        """Return B before the first fit."""
        return 0.0

    def _pass(self, ctx: Context) -> int:
        """Return the samples of one pass."""
        return ctx.epoch_size or self.window or STREAM_WINDOW

    def _epoch(self, ctx: Context) -> int:
        """Return the passes that are over."""
        return self.seen // self._pass(ctx)

    def _estimate(self, view: ModelView, batch: Batch, logits: Tensor, ctx: Context) -> Tensor:
        """Return B of each row [B], float64, after the batch has come into the window."""
        losses = F.cross_entropy(logits, batch.y, reduction="none").double()
        features = logits if self.mixture == "gaussian-logits" else logits[:, :0]
        if self.mixture == "gaussian":
            features = view.features(batch.x).flatten(1)
        self._remember(batch.ids, losses, features, self.window or ctx.epoch_size or STREAM_WINDOW)
        self._fit_if_due(len(batch), logits.shape[1], ctx)
        if not self.fits:
            return torch.full_like(losses, min(self._unknown(ctx), self.max_b))
        ctx.log("defense/noise_rate", self.noise_rate)
        ctx.log("defense/mixture_separation", self.separation)
        return self._noise(losses, features).clamp(max=self.max_b)

    def _remember(self, ids: Tensor, losses: Tensor, features: Tensor, size: int) -> None:
        """Put rows into the window: in place of an older loss of the same id, or of the oldest."""
        if self.ids is None:
            self.ids = torch.full((size,), EMPTY, device=ids.device)
            self.arrived = torch.full_like(self.ids, -1)
            self.held_losses = losses.new_zeros(size)
            self.held_features = features.new_zeros(size, features.shape[1])
        last = {sample: row for row, sample in enumerate(ids.tolist())}  # of each id that comes twice
        rows = torch.tensor(sorted(last.values())[-size:], device=ids.device)
        ids, order = ids[rows], self.ids.argsort()
        place = order[torch.searchsorted(self.ids[order], ids).clamp(max=size - 1)]
        new = self.ids[place] != ids
        arrived = self.arrived.index_fill(0, place[~new], torch.iinfo(torch.int64).max)
        place[new] = arrived.argsort(stable=True)[: int(new.sum())]
        self.ids[place], self.arrived[place] = ids, self.seen + rows
        self.held_losses[place], self.held_features[place] = losses[rows], features[rows]

    def _fit_if_due(self, rows: int, classes: int, ctx: Context) -> None:
        by_pass = self.refit is None and ctx.epoch_size is not None
        self.since += rows if by_pass else 1
        held = self.arrived >= 0
        enough = int(held.sum()) >= min(self.min_samples, len(held))
        if enough and self.since >= (self._pass(ctx) if by_pass else self.refit or 1):
            self.since = 0
            self.fits += 1
            self._fit(self.held_losses[held].cpu(), self.held_features[held].cpu(), classes, ctx)

    def _fit(self, losses: Tensor, features: Tensor, classes: int, ctx: Context) -> None:
        """Fit the mixture to what is finite of losses [N] and features [N, D]: all, unless the model has diverged."""
        finite = losses.isfinite() & features.isfinite().all(1)
        losses, features = losses[finite], features[finite]
        self.fitted, self.separation, self.noise_rate = None, 0.0, 0.0
        if len(losses) < 2:
            return
        seed = ctx.rng("mixture").initial_seed() % 2**32
        groups = fit_margin_mixture(losses, seed)
        match self.mixture:
            case "beta":
                mixture: Mixture = fit_beta_mixture(losses)
            case "margin":
                mixture = groups
            case _:
                mixture = fit_gaussian_mixture(losses, features, seed)
        found = group_separation(losses, mixture.noise(losses, features)) >= APART
        found &= float(groups.weights[0]) > CHANCE / classes
        self.fitted, self.separation = mixture.pack(), groups.separation if found else 0.0
        self.noise_rate = float(self._noise(losses, features).mean())

    def _noise(self, losses: Tensor, features: Tensor) -> Tensor:
        """Return B [N], float64, on the device of the losses [N]; 0 for all where the mixture does not separate."""
        if self.fitted is None or self.separation < self.min_separation:
            return torch.zeros_like(losses)
        mixture = MIXTURES[self.mixture].unpack(self.fitted)
        noise = mixture.noise(losses, features).clamp(EDGE, 1 - EDGE).to(losses)
        return noise.masked_fill(losses.isnan(), 0.0)
