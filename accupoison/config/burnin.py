"""The sections of a configuration that a burn-in has; by default protocol ``fresh`` and recipe ``online_ready``."""

import math
from dataclasses import dataclass

import torch

from accupoison.accel.layers import KERNELS
from accupoison.data import SplitSizes
from accupoison.data.sources import canonical_name
from accupoison.data.splits import PROTOCOLS
from accupoison.device import PRECISIONS, compute_on, device_parts
from accupoison.errors import InputError, check_choice, check_least
from accupoison.models.factory import MODELS
from accupoison.models.layers import check_norm

LARGEST = 1e38
"""Numbers of the optimiser stay below this: weights of 32 bits take no larger ones."""
MOST_EPOCHS = 1_000_000
SCHEDULES = ("constant", "linear", "warmup", "onecycle", "step")


@dataclass(frozen=True, kw_only=True)
class DataSettings(SplitSizes):
    """Which images, and who gets which. The sizes of the parts are those of :class:`~accupoison.data.SplitSizes`.

    Attributes:
        name: A data set that ``list`` shows, such as "cifar10", "digits", "npz:PATH" or "folder:PATH", or your own:
            "package.module:LOADER".
        dir: Directory of the data files; None takes ACCUPOISON_DATA, or "data".
        offline: Never download.
        splits: "fresh" (disjoint parts) or "released_split" (the released protocol).
        split_seed: Seed of the draw that makes the parts, 0 or more.
        flip: A mirrored image keeps its class; None takes what is known of the data set (npz: it does).
        novel_classes: Classes, by number and as text with commas, of which the burn-in gets no images; the other parts
            have them, so they first appear on the stream.
    """

    name: str = "cifar10"
    dir: str | None = None
    offline: bool = False
    splits: str = "fresh"
    split_seed: int = 0
    flip: bool | None = None
    novel_classes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "novel_classes", tuple(sorted(set(self.novel_classes))))
        check_least("data.split_seed", self.split_seed, 0, "0 or more")
        object.__setattr__(self, "name", canonical_name(self.name))
        check_choice("data.splits", self.splits, PROTOCOLS)


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """The network; None takes what the checkpoint says, or resnet18, 64 and batch.

    Attributes:
        name: A network that ``list`` shows, such as "resnet18", or your own: "package.module:factory".
        width: Channels of the first stage, 1 or more.
        norm: "batch", "group" (about 8 channels a group), "group:N" (N groups) or "auxiliary" (batch norm with a second
            set of statistics for images of noise).
    """

    name: str | None = None
    width: int | None = None
    norm: str | None = None

    def __post_init__(self) -> None:
        if self.name is not None and ":" not in self.name:
            object.__setattr__(self, "name", MODELS.canonical(self.name))
        check_least("model.width", self.width, 1, "a number of channels such as 16 or 64")
        if self.norm is not None:
            check_norm(self.norm)


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """How the burn-in trains.

    Attributes:
        recipe: The recipe's name, part of the checkpoint's default place.
        epochs: Passes over the burn-in images, 1 or more.
        batch_size: Images a step, 1 or more.
        lr: Learning rate, above 0; the peak of the schedules "warmup" and "onecycle".
        momentum: SGD momentum, in [0, 1).
        weight_decay: L2 penalty, 0 or more.
        nesterov: Nesterov momentum in place of the plain one.
        schedule: "constant"; "linear" (constant for half of the epochs, then linearly to ``final_lr``); "warmup" (up
            over the first fifth, then linearly to ``final_lr``); "onecycle" (the same, to zero); or "step" (times
            ``decay`` after each of the epochs in ``milestones``). ``final_lr`` is reached when the share of epochs
            before the last ones is done.
        final_lr: What "linear" and "warmup" end at, and so the rate of the stream.
        milestones: Epochs after which the "step" schedule lowers the rate, as text with commas.
        decay: What "step" multiplies the rate by after each of them, in (0, 1].
        label_smoothing: Share of each label that is spread evenly over all classes, in [0, 1).
        patience: End the burn-in once accuracy on the monitor images has not risen for so many epochs, and keep the
            model of the best one; None never does. There is no early snapshot where the ``early`` epoch was
            not before that one.
        last_epochs: This many of the epochs, at the end, use ``last_batch_size``.
        last_batch_size: Images a step in the last epochs: the batch size that the stream will have.
        early: Epoch of the early snapshot, from 1 on; None is half-way.
        snapshots: Further epochs whose weights are kept, as text with commas.
    """

    recipe: str = "online_ready"
    epochs: int = 12
    batch_size: int = 64
    lr: float = 0.5
    momentum: float = 0.9
    weight_decay: float = 1e-4
    nesterov: bool = False
    schedule: str = "warmup"
    final_lr: float = 0.05
    milestones: tuple[int, ...] = ()
    decay: float = 0.1
    label_smoothing: float = 0.1
    patience: int | None = None
    last_epochs: int = 1
    last_batch_size: int = 100
    early: int | None = None
    snapshots: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "last_batch_size"):
            check_least(f"train.{name}", getattr(self, name), 1, "a positive whole number")
        if self.epochs > MOST_EPOCHS:
            raise InputError(f"train.epochs {self.epochs} is above {MOST_EPOCHS}; give a smaller number")
        check_least("train.last_epochs", self.last_epochs, 0, "0 or more")
        if self.nesterov and not self.momentum:
            raise InputError("train.nesterov is set and train.momentum is 0; give a momentum such as 0.9, or drop one")
        check_choice("train.schedule", self.schedule, SCHEDULES)
        if not 0 <= self.label_smoothing < 1:
            raise InputError(f"train.label_smoothing {self.label_smoothing} is outside [0, 1); 0.1 is usual")
        for epoch in (*self.snapshots, *(() if self.early is None else (self.early,))):
            if not 1 <= epoch <= self.epochs:
                raise InputError(f"snapshot epoch {epoch} is outside 1 to {self.epochs}, the epochs of this burn-in")
        if bool(self.milestones) != (self.schedule == "step"):
            raise InputError(
                f"train.schedule is {self.schedule} and train.milestones is {list(self.milestones)}; the schedule step "
                "needs milestones such as 50,75, and no other schedule has them"
            )
        for epoch in self.milestones:
            if not epoch >= 1:
                raise InputError(f"train.milestones has epoch {epoch}; give epochs from 1 on")
        if not 0 < self.decay <= 1:
            raise InputError(f"train.decay {self.decay} is outside (0, 1]; 0.1 is usual")
        check_least("train.patience", self.patience, 1, "a number of epochs, or none")
        check_rate(self.lr, self.momentum, self.weight_decay, "train")
        check_rate(self.final_lr, self.momentum, self.weight_decay, "train", key="final_lr")

    @property
    def early_epoch(self) -> int:
        """The epoch of the early snapshot."""
        return max(1, self.epochs // 2) if self.early is None else self.early


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """How a run is carried out.

    Attributes:
        seed: Seed of all randomness, 0 or more.
        device: "auto" (what ACCUPOISON_DEVICE names, or what there is), "cpu", "cuda", "cuda:N" or "mps".
        save_every: Steps of a stream between saved states (the burn-in saves at every epoch).
        kernels: "auto" (on the CPU layers of our own, faster and equal to rounding) or "torch" (PyTorch's alone).
        precision: "ieee" (float32), "tf32" (of CUDA: products of factors with 10 bits of mantissa), "bf16" (forward
            passes in bfloat16) or "auto": tf32 on CUDA, else ieee.
        deterministic: On CUDA only kernels that give the same bits each time, so that a resumed run is bit for bit the
            unbroken one; slower. On a CPU all are.
        graphs: On CUDA record what every step repeats as CUDA graphs, of the same kernels. A network whose own Python
            code decides something anew at every call needs false.
    """

    seed: int = 0
    device: str = "auto"
    save_every: int = 5
    kernels: str = "auto"
    precision: str = "auto"
    deterministic: bool = False
    graphs: bool = True

    def __post_init__(self) -> None:
        check_choice("run.kernels", self.kernels, KERNELS)
        check_choice("run.precision", self.precision, PRECISIONS)
        check_least("run.save_every", self.save_every, 1, "a number of steps")
        check_least("run.seed", self.seed, 0, "0 or more")
        device_parts(self.device)

    def compute(self) -> torch.device:
        """Return the device, which from now on computes as the settings say; see :func:`~.device.compute_on`."""
        return compute_on(self.device, self.precision, deterministic=self.deterministic, graphs=self.graphs)


def check_rate(lr: float | None, momentum: float, weight_decay: float, section: str, key: str = "lr") -> None:
    """Raise InputError unless the optimiser's numbers make sense.

    Args:
        lr: Learning rate, above 0; None is another's choice.
        momentum: In [0, 1).
        weight_decay: At least 0.
        section: Of the settings.
        key: Of the rate in it.
    """
    if lr is not None and not 0 < lr < LARGEST:
        what = "is too large" if 0 < lr < math.inf else "is not a number above 0"
        raise InputError(f"{section}.{key} {lr} {what}; give a learning rate such as 0.1")
    if not 0 <= momentum < 1:
        raise InputError(f"{section}.momentum {momentum} is outside [0, 1); 0.9 is usual")
    if not 0 <= weight_decay < LARGEST:
        raise InputError(f"{section}.weight_decay {weight_decay} is not a number of 0 or more; 1e-4 is usual")
