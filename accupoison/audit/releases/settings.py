"""What determines a study of releases."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import torch
from torch import Tensor

from accupoison.config.burnin import check_rate
from accupoison.config.layers import Layer, resolve
from accupoison.config.renamed import Say, quiet
from accupoison.config.schema import DataSettings, ModelSettings, RunSettings, TrainSettings
from accupoison.data import DataSet
from accupoison.errors import InputError, check_choice, check_least
from accupoison.rng import generator

ORDERS = ("file", "seeded")
MOST_SEEDS = 1000


@dataclass(frozen=True, kw_only=True)
class PartSettings:
    """Who gets which samples: ranges FIRST:END, END not included, of one order of all samples.

    Attributes:
        order: "seeded": shuffled anew for each replicate. "file": as the file has them, train before test where it is
            divided; the same for all replicates.
        members: The user trains on these.
        defense_nonmembers: The user trains not on these, and knows it: defences learn from them and the members.
        nonmembers: The members are to be told from these.
        shadow_members: The attacker trains on these.
        shadow_nonmembers: The attacker trains not on these, and learns from both what members look like.

    Raises:
        InputError: A range is not of this form, or two of them overlap.
    """

    order: str = "seeded"
    members: str = "0:1000"
    defense_nonmembers: str = "1000:2000"
    nonmembers: str = "2000:3000"
    shadow_members: str = "3000:3500"
    shadow_nonmembers: str = "4000:4500"

    def __post_init__(self) -> None:
        check_choice("parts.order", self.order, ORDERS)
        taken: list[tuple[int, int, str]] = []
        for name, (first, end) in self.ranges().items():
            for start, stop, other in taken:
                if first < stop and start < end:
                    raise InputError(
                        f"parts.{name} {first}:{end} and parts.{other} {start}:{stop} overlap, so that a sample would "
                        "be on both sides; give ranges apart"
                    )
            taken.append((first, end, name))

    def ranges(self) -> dict[str, tuple[int, int]]:
        """Return first and end of each part, by name."""
        return {f.name: _range(f.name, getattr(self, f.name)) for f in fields(self) if f.name != "order"}


def _range(name: str, text: str) -> tuple[int, int]:
    first, _, end = text.partition(":")
    if not (first.isascii() and first.isdigit() and end.isascii() and end.isdigit()) or len(text) > 30:
        raise InputError(f"parts.{name} {text!r} is not a range; write FIRST:END, such as 0:1000")
    if int(end) <= int(first):
        raise InputError(f"parts.{name} {text} has no sample; write FIRST:END with END above FIRST, such as 0:1000")
    return int(first), int(end)


@dataclass(frozen=True, kw_only=True)
class StudySettings:
    """What is released, and how often everything is done anew.

    Attributes:
        releases: As ``--release`` takes them, such as "round:2"; where one has a budget and does not say which, it is
            judged at each of ``budgets``. The undefended answers are always there.
        budgets: Bounds on the l1 change of an answer, in [0, 2].
        seeds: Replicates; each trains all models anew, and intervals are over them.

    Raises:
        InputError: A number is out of range, or nothing is to be judged.
    """

    releases: tuple[str, ...] = ("memguard", "defenmi", "round:2", "top-k:3", "temperature:2", "label-only")
    budgets: tuple[float, ...] = (1.0, 0.5, 0.1)
    seeds: int = 3

    def __post_init__(self) -> None:
        if not 1 <= self.seeds <= MOST_SEEDS:
            raise InputError(f"study.seeds {self.seeds} is outside 1 to {MOST_SEEDS}; 5 are usual")
        if not self.releases:
            raise InputError("study.releases is empty; name some, such as defenmi,round:2")
        for budget in self.budgets:
            if not 0 <= budget <= 2:
                raise InputError(f"study.budgets has {budget}; give l1 changes in [0, 2], such as 1,0.5,0.1,0")


@dataclass(frozen=True, kw_only=True)
class NeuralSettings:
    """The attack network: a multilayer perceptron that learns from sorted shadow answers what members look like.

    Attributes:
        hidden: Units of its hidden layers.
        epochs: Passes over the shadow answers.
        batch_size: Answers a step.
        lr: Learning rate.
        milestones: Epochs after which the rate is a tenth.

    Raises:
        InputError: A number is out of range.
    """

    hidden: tuple[int, ...] = (512, 256, 128)
    epochs: int = 400
    batch_size: int = 64
    lr: float = 0.01
    milestones: tuple[int, ...] = (300,)

    def __post_init__(self) -> None:
        check_rate(self.lr, 0.0, 0.0, "neural")
        for name in ("epochs", "batch_size"):
            check_least(f"neural.{name}", getattr(self, name), 1, "a positive whole number")
        if min(self.hidden, default=1) < 1:
            raise InputError(f"neural.hidden {list(self.hidden)} has a layer without units; give units such as 256,128")


@dataclass(frozen=True, kw_only=True)
class PrivateSettings:
    """The models trained with DP-SGD instead of a release; what is not said here is as in ``train``.

    Attributes:
        noise_multipliers: Noise of DP-SGD, in units of ``max_grad_norm``: a model for each; an empty list leaves DP-SGD
            out.
        max_grad_norm: Bound on the l2 norm of each sample's gradient.
        delta: The epsilon reported is that of this delta.
        epochs: Passes over the members.
        batch_size: Samples a step.
        lr: Learning rate, above 0.
        momentum: SGD momentum, in [0, 1).
        model: The network; None takes ``model.name``. Deep ones without norm take noise badly.
        width: Width of the network; None takes ``model.width``.
        norm: Normalisation of the network; None takes ``model.norm``. DP-SGD refuses batch norm.
        accuracy_loss: The row shown has the lowest AUC of those whose test accuracy is less than this below the
            undefended model's.

    Raises:
        InputError: A number is out of range.
    """

    noise_multipliers: tuple[float, ...] = (0.1, 0.3)
    max_grad_norm: float = 1.0
    delta: float = 1e-4
    epochs: int = 30
    batch_size: int = 64
    lr: float = 0.1
    momentum: float = 0.9
    model: str | None = None
    width: int | None = None
    norm: str | None = "group"
    accuracy_loss: float = 0.02

    def __post_init__(self) -> None:
        check_rate(self.lr, self.momentum, 0.0, "private")
        for name in ("epochs", "batch_size"):
            check_least(f"private.{name}", getattr(self, name), 1, "a positive whole number")
        if len(set(self.noise_multipliers)) < len(self.noise_multipliers):
            raise InputError("private.noise_multipliers has one twice; drop one of them")
        if not 0 <= self.accuracy_loss <= 1:
            raise InputError(f"private.accuracy_loss {self.accuracy_loss} is outside [0, 1]; 0.02 is two points")


@dataclass(frozen=True, kw_only=True)
class ReleasesConfig:
    """Everything that determines a study of releases; ``train`` is of the user's model and of the shadow."""

    data: DataSettings = field(default_factory=DataSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    train: TrainSettings = field(default_factory=TrainSettings)
    parts: PartSettings = field(default_factory=PartSettings)
    study: StudySettings = field(default_factory=StudySettings)
    neural: NeuralSettings = field(default_factory=NeuralSettings)
    private: PrivateSettings = field(default_factory=PrivateSettings)
    run: RunSettings = field(default_factory=RunSettings)


def releases_config(layers: Sequence[Layer], say: Say = quiet) -> ReleasesConfig:
    """Return the configuration that ``layers`` make over the defaults; ``say`` is told of old names."""
    return resolve(ReleasesConfig, layers, {}, say)


def divide(data: DataSet, parts: PartSettings, seed: int) -> dict[str, Tensor]:
    """Return the ids of each part, int64 [N], by the names of :class:`PartSettings`.

    Args:
        data: The data set.
        parts: The ranges, and the order that they are of.
        seed: Of the replicate, for the order "seeded".

    Raises:
        InputError: A range goes beyond the last sample.
    """
    order = torch.arange(data.size) if data.file_ids is None else data.file_ids.cpu()
    if parts.order == "seeded":
        order = order[torch.randperm(data.size, generator=generator(seed, "parts"))]
    for name, (first, end) in parts.ranges().items():
        if end > data.size:
            raise InputError(
                f"parts.{name} {first}:{end} goes beyond the {data.size} samples of {data.name}; give smaller parts"
            )
    return {name: order[first:end] for name, (first, end) in parts.ranges().items()}
