"""The sections of a configuration and their defaults: protocol ``fresh``, recipe ``live``."""

import math
from dataclasses import dataclass

from accupoison.data import SplitSizes
from accupoison.data.sources import NAMES
from accupoison.data.splits import PROTOCOLS
from accupoison.data.stream import KINDS
from accupoison.defenses.clip import check_clipping
from accupoison.errors import InputError, did_you_mean
from accupoison.models import MODELS, NORMS

DEVICES = ("auto", "cpu", "cuda", "mps")
SCHEDULES = ("constant", "linear", "onecycle")


@dataclass(frozen=True, kw_only=True)
class DataSettings(SplitSizes):
    """Which images, and who gets which; the sizes of the parts are those of :class:`~accupoison.data.SplitSizes`.

    Attributes:
        name: One of :data:`accupoison.data.sources.NAMES`, such as "cifar10", "digits" or "npz:PATH".
        dir: Directory of the data files; None takes ACCUPOISON_DATA, or "data".
        offline: Never download.
        splits: "fresh" (disjoint parts) or "official" (the released protocol).
        split_seed: Of the draw that makes the parts.
        flip: A mirrored image keeps its class; None takes what is known of the data set (npz: it does).
    """

    name: str = "cifar10"
    dir: str | None = None
    offline: bool = False
    splits: str = "fresh"
    split_seed: int = 0
    flip: bool | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.name.partition(":")[0] not in {name.partition(":")[0] for name in NAMES}:
            raise InputError(f"unknown data set {self.name!r}{did_you_mean(self.name, NAMES)}")
        if self.splits not in PROTOCOLS:
            raise InputError(f"unknown data.splits {self.splits!r}{did_you_mean(self.splits, PROTOCOLS)}")


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """The network; None takes what the checkpoint says, or resnet18, 64 and batch.

    Attributes:
        name: One of :data:`accupoison.models.MODELS`, such as "resnet18", or "package.module:factory".
        width: Channels of the first stage.
        norm: "batch" or "group".
    """

    name: str | None = None
    width: int | None = None
    norm: str | None = None

    def __post_init__(self) -> None:
        if self.name is not None and ":" not in self.name and self.name not in MODELS:
            raise InputError(f"unknown model {self.name!r}{did_you_mean(self.name, MODELS)}")
        if self.width is not None and self.width < 1:
            raise InputError(f"model.width {self.width} is below 1; give a number of channels such as 16 or 64")
        if self.norm is not None and self.norm not in NORMS:
            raise InputError(f"unknown model.norm {self.norm!r}{did_you_mean(self.norm, NORMS)}")


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """How the burn-in trains.

    Attributes:
        recipe: The recipe's name, part of the checkpoint's default place.
        epochs: Passes over the burn-in images.
        batch_size: Images a step.
        lr: Learning rate; the peak of a one-cycle schedule.
        momentum: SGD momentum.
        weight_decay: L2 penalty.
        nesterov: Nesterov momentum.
        schedule: "constant"; "linear" (constant for half of the epochs, then linearly to ``final_lr``,
            reached when the share of epochs before the last ones is done); or "onecycle" (up over the first fifth,
            then linearly to zero).
        final_lr: What the linear schedule ends at, and so the rate of the stream.
        label_smoothing: In [0, 1).
        last_epochs: This many of the epochs, at the end, use ``last_batch_size``.
        last_batch_size: The batch size that the stream will have.
        early: Epoch of the early snapshot; None is half-way.
        snapshots: Further epochs to keep, as text with commas.
    """

    recipe: str = "live"
    epochs: int = 12
    batch_size: int = 128
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    nesterov: bool = False
    schedule: str = "linear"
    final_lr: float = 0.05
    label_smoothing: float = 0.0
    last_epochs: int = 2
    last_batch_size: int = 100
    early: int | None = None
    snapshots: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "last_batch_size"):
            if getattr(self, name) < 1:
                raise InputError(f"train.{name} {getattr(self, name)} is below 1; give a positive whole number")
        if self.last_epochs < 0:
            raise InputError(f"train.last_epochs {self.last_epochs} is negative; give 0 or more")
        if self.schedule not in SCHEDULES:
            raise InputError(f"unknown train.schedule {self.schedule!r}{did_you_mean(self.schedule, SCHEDULES)}")
        if not 0 <= self.label_smoothing < 1:
            raise InputError(f"train.label_smoothing {self.label_smoothing} is outside [0, 1); 0.1 is usual")
        for epoch in (*self.snapshots, *(() if self.early is None else (self.early,))):
            if not 1 <= epoch <= self.epochs:
                raise InputError(f"snapshot epoch {epoch} is outside 1 to {self.epochs}, the epochs of this burn-in")
        check_rate(self.lr, self.momentum, self.weight_decay, "train")
        check_rate(self.final_lr, self.momentum, self.weight_decay, "train", key="final_lr")

    @property
    def early_epoch(self) -> int:
        """The epoch of the early snapshot."""
        return max(1, self.epochs // 2) if self.early is None else self.early


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


@dataclass(frozen=True, kw_only=True)
class StreamSettings:
    """The stream and the order of events on it.

    Attributes:
        kind: "iid", "cycling", "official" or "shift:NAME".
        batch_size: Images a step.
        steps: Ordinary steps before the trigger.
        after: Clean steps after it, with the defence on.
        augment: Crop and flip "before" or "after" the attack, or "none".
        quantise: Round what the attacker sends to 8 bits, toward the clean pixel.
    """

    kind: str = "iid"
    batch_size: int = 100
    steps: int = 10
    after: int = 5
    augment: str = "after"
    quantise: bool = True

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"unknown stream.kind {self.kind!r}{did_you_mean(self.kind, KINDS)}")
        if self.batch_size < 1:
            raise InputError(f"stream.batch_size {self.batch_size} is below 1; give a number of images such as 100")


@dataclass(frozen=True, kw_only=True)
class TriggerSettings:
    """What arrives when the accumulation ends.

    Attributes:
        deliver: Any of none, coast, clean and adversarial, each from the same state; or optimised alone.
    """

    deliver: tuple[str, ...] = ("adversarial",)


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
    """

    test: str = "marks"
    monitor: bool = True
    reestimate: bool = True
    images: int = 8

    def __post_init__(self) -> None:
        if self.test not in ("marks", "every"):
            raise InputError(f"unknown evaluate.test {self.test!r}; choose marks or every")
        if self.images < 0:
            raise InputError(f"evaluate.images {self.images} is negative; give the number of images, or 0 for none")


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """How a run is carried out.

    Attributes:
        seed: Of all randomness.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        save_every: Steps between saved states (the burn-in saves at every epoch).
    """

    seed: int = 0
    device: str = "auto"
    save_every: int = 5

    def __post_init__(self) -> None:
        if self.save_every < 1:
            raise InputError(f"run.save_every {self.save_every} is below 1; give a number of steps")
        if self.device.partition(":")[0] not in DEVICES:
            raise InputError(f"unknown device {self.device!r}{did_you_mean(self.device, DEVICES)}")


def check_rate(lr: float | None, momentum: float, weight_decay: float, section: str, key: str = "lr") -> None:
    """Raise InputError unless the optimiser's numbers make sense."""
    if lr is not None and not 0 < lr < math.inf:
        raise InputError(f"{section}.{key} {lr} is not a number above 0; give a learning rate such as 0.1")
    if not 0 <= momentum < 1:
        raise InputError(f"{section}.momentum {momentum} is outside [0, 1); 0.9 is usual")
    if not 0 <= weight_decay < math.inf:
        raise InputError(f"{section}.weight_decay {weight_decay} is not a number of 0 or more; 1e-4 is usual")
