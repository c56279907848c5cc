"""Learning with noisy labels: bootstrapping by the model's own guesses, as much as a mixture of losses calls for."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from accupoison.defenses.base import DEFENSES
from accupoison.defenses.mixture import BetaMixture, fit_beta_mixture
from accupoison.defenses.noise_tracking import NoiseTracking
from accupoison.errors import check_choice, check_least
from accupoison.types import Batch, Context

__all__ = ["BetaMixture", "DynamicBootstrap", "StaticBootstrap", "fit_beta_mixture"]

TARGETS = ("hard", "soft")
WARMUP_SHARE = 105 / 300
"""Of a training, that is plain mixup before the static bootstrap (Arazo et al., ICML 2019)."""
DYNAMIC_EPOCHS = 5
COLDEST = 0.001
"""Temperature at the end of the soft-to-hard bootstrap."""


@DEFENSES.register("NLL-STATIC")
@dataclass(kw_only=True)
class StaticBootstrap(NoiseTracking):
    """Mixup whose labels give way to the model's guesses by B (Arazo et al., ICML 2019, Sec. 4; PMIANLL, KBS 2025).

    L = lambda [(1 - B_p) CE(y_p) + B_p CE(guess_p)] + (1 - lambda) [the same of q] + eta R. Plain mixup comes first.

    Attributes:
        target: The guess: "hard", the most probable class, or "soft", the probabilities.
        warmup_epochs: Passes of plain mixup; None is 0.35 of a training, and 0 in a stream.
    """

    couples: ClassVar[bool] = True
    neutral: ClassVar[dict[str, Any]] = {"alpha": 0.0, "max_b": 0.0}

    target: str = "hard"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("defense.target", self.target, TARGETS)

    def _mixed(self, batch: Batch, noise: Tensor, logits: Tensor, ctx: Context) -> Batch:
        if self.warmup_epochs is not None:
            warm = self._epoch(ctx) < self.warmup_epochs
        else:
            warm = ctx.epoch_size is not None and ctx.share < WARMUP_SHARE
        if warm or not self.max_b:
            return self._paired(batch, ctx, noise)
        guess = logits.argmax(1) if self.target == "hard" else logits.softmax(1)
        return self._paired(batch, ctx, noise, guess=guess)


@DEFENSES.register("NLL-DYNAMIC")
@dataclass(kw_only=True)
class DynamicBootstrap(NoiseTracking):
    """Images mixed by how far their labels are believed, then guesses from soft to hard (Arazo et al.; PMIANLL).

    Images are mixed as x = (d_p x_p + d_q x_q) / (d_p + d_q), d = 1 - B. The first passes are dynamic mixup, with the
    labels and the loss of plain mixup; then L = 1/2 [(1 - B_p) CE(y_p) + B_p CE(softmax(z_p / T))] + 1/2 [the same of
    q] + eta R, with T falling from 1 to 0.001 over the rest. B before the first fit is 0.5 in a training, else 0.

    Attributes:
        alpha: Shape of lambda's distribution Beta(alpha, alpha) in plain and dynamic mixup; 0 never mixes anything.
        warmup_epochs: Passes of plain mixup at first; None is 0 (Arazo et al. have 105 of 300).
        dynamic_epochs: Passes of dynamic mixup after that; None is 5 in a training, and 0 in a stream.
    """

    couples: ClassVar[bool] = True
    neutral: ClassVar[dict[str, Any]] = {"alpha": 0.0, "max_b": 0.0}

    dynamic_epochs: int | None = None
    soft_from: float | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least("defense.dynamic_epochs", self.dynamic_epochs, 0, "a number of epochs such as 5")

    def _mixed(self, batch: Batch, noise: Tensor, logits: Tensor, ctx: Context) -> Batch:
        epoch, warmup, dynamic = self._epoch(ctx), self.warmup_epochs or 0, self.dynamic_epochs
        if dynamic is None:
            dynamic = 0 if ctx.epoch_size is None else DYNAMIC_EPOCHS
        if epoch < warmup:
            return self._paired(batch, ctx, noise)
        if epoch < warmup + dynamic:
            return self._paired(batch, ctx, noise, weight=1 - noise)
        guess = (logits / self._temperature(ctx)).softmax(1) if self.max_b else None
        return self._paired(batch, ctx, noise, guess=guess, weight=1 - noise, even=True)

    def _temperature(self, ctx: Context) -> float:
        if self.soft_from is None:
            self.soft_from = ctx.share
        rest = 1 - self.soft_from
        return 1 - (1 - COLDEST) * min(1.0, (ctx.share - self.soft_from) / rest if rest > 0 else 1.0)

    def _unknown(self, ctx: Context) -> float:
        return 0.0 if ctx.epoch_size is None else 0.5
