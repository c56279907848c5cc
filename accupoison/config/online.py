"""The sections of a configuration that only a stream has, and their defaults: protocol ``fresh``."""

import math
from dataclasses import dataclass

from accupoison.config.burnin import check_rate, check_seed
from accupoison.data.stream import KINDS, POOLS
from accupoison.defenses.clip import check_clipping
from accupoison.errors import InputError, did_you_mean


@dataclass(frozen=True, kw_only=True)
class StartSettings:
    """The checkpoint that the stream starts from.

    Attributes:
        checkpoint: Path; None takes the default place of the data, model, recipe and seed.
        early: Path of the early snapshot; None takes ``early.pt`` beside the checkpoint, where there is one.
        recipe: Burn-in recipe of the default place.
        seed: Burn-in seed of the default place.
    """

    checkpoint: str | None = None
    early: str | None = None
    recipe: str = "live"
    seed: int = 0

    def __post_init__(self) -> None:
        check_seed("start.seed", self.seed)


@dataclass(frozen=True, kw_only=True)
class StreamSettings:
    """The stream and the order of events on it.

    Attributes:
        kind: "iid", "cycling", "official" or "shift:NAME".
        pool: Where batches and the trigger are drawn from: "stream" (images that the burn-in never saw) or "burnin".
        batch_size: Images a step.
        steps: Ordinary steps before the trigger.
        after: Clean steps after it, with the defence on.
        augment: Crop and flip "before" or "after" the attack, or "none".
        quantise: Round what the attacker sends to 8 bits, toward the clean pixel.
        replay: Directory of a run with ``evaluate.save_batches``: what was sent there is sent again, to see whether it
            harms another defence or model. The settings of the attack must be those of that run.
    """

    kind: str = "iid"
    pool: str = "stream"
    batch_size: int = 100
    steps: int = 10
    after: int = 5
    augment: str = "after"
    quantise: bool = True
    replay: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"unknown stream.kind {self.kind!r}{did_you_mean(self.kind, KINDS)}")
        if self.pool not in POOLS:
            raise InputError(f"unknown stream.pool {self.pool!r}{did_you_mean(self.pool, POOLS)}")
        if self.batch_size < 1:
            raise InputError(f"stream.batch_size {self.batch_size} is below 1; give a number of images such as 100")


@dataclass(frozen=True, kw_only=True)
class TriggerSettings:
    """What arrives when the accumulation ends.

    Attributes:
        deliver: Any of none, coast, clean and either adversarial or optimised, each from the same state.
        updates: Updates that the model makes on the trigger batch, one after the other (``niter`` of the released
            code), once the defence has intercepted it.
    """

    deliver: tuple[str, ...] = ("adversarial",)
    updates: int = 1


@dataclass(frozen=True, kw_only=True)
class OptimSettings:
    """The optimiser of the stream.

    Attributes:
        lr: Learning rate; None takes the rate the burn-in ended with.
        momentum: SGD momentum.
        weight_decay: L2 penalty.
        restore: Start with the burn-in's momentum buffers instead of empty ones.
        update_mode: "train" (batch statistics in the update) or "eval".
        clip_norm: Bound on the gradient's norm, beside any defence.
        clip_kind: "l2" or "linf".
    """

    lr: float | None = None
    momentum: float = 0.9
    weight_decay: float = 0.0
    restore: bool = True
    update_mode: str = "train"
    clip_norm: float = math.inf
    clip_kind: str = "l2"

    def __post_init__(self) -> None:
        if self.update_mode not in ("train", "eval"):
            raise InputError(f"unknown optim.update_mode {self.update_mode!r}; choose train or eval")
        check_clipping(self.clip_norm, self.clip_kind, "optim.clip_norm")
        check_rate(self.lr, self.momentum, self.weight_decay, "optim")


@dataclass(frozen=True, kw_only=True)
class StopSettings:
    """When the accumulation ends before its last step; errors are fractions in [0, 1].

    Attributes:
        error_rise: At a test error above the one at the start plus this (0.056 in the released runs, 0.034 in Pang et
            al. 2021).
        error_above: At a test error above this (0.18 in the released command).
    """

    error_rise: float | None = None
    error_above: float | None = None

    def __post_init__(self) -> None:
        for name in ("error_rise", "error_above"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise InputError(f"stop.{name} {value} is outside [0, 1]; give a fraction such as 0.056")

    @property
    def active(self) -> bool:
        """Some rule is set."""
        return (self.error_rise, self.error_above) != (None, None)


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings:
    """What is measured, and when.

    Attributes:
        test: "marks" (at the start, before and after the trigger, at the end) or "every" step.
        monitor: Measure accuracy on the monitor images at every step.
        reestimate: Also measure test accuracy after batch-norm re-estimation on the trusted images.
        images: Sample images a step to TensorBoard: clean, sent and seen; 0 for none.
        audit_every: At every so many steps, how well stream and burn-in members can be told from test images that were
            never learnt, by their loss alone; None never asks.
        save_batches: Keep what the attacker sends, for ``stream.replay``.
    """

    test: str = "marks"
    monitor: bool = True
    reestimate: bool = True
    images: int = 8
    audit_every: int | None = None
    save_batches: bool = False

    def __post_init__(self) -> None:
        if self.test not in ("marks", "every"):
            raise InputError(f"unknown evaluate.test {self.test!r}; choose marks or every")
        if self.audit_every is not None and self.audit_every < 1:
            raise InputError(f"evaluate.audit_every {self.audit_every} is below 1; give a number of steps, or none")
        if self.images < 0:
            raise InputError(f"evaluate.images {self.images} is negative; give the number of images, or 0 for none")
