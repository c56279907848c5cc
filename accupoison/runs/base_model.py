"""The base checkpoint, what a burn-in leaves and a stream starts from, and the data it was made from."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from accupoison.config.renamed import with_new_names
from accupoison.config.schema import DataSettings, ModelSettings
from accupoison.data import STATS, DataSet, Splits, load, split
from accupoison.errors import InputError
from accupoison.models.factory import ModelSpec, build_model
from accupoison.records import checkpoint
from accupoison.records.foreign import LARGEST_RATE, Foreign, is_dense, put_into

KIND = "base-model"
DEFAULTS = ModelSpec()
IDENTITY = {key: v for key, v in asdict(DataSettings()).items() if key not in ("name", "dir", "offline", "flip")}
"""The settings of the data that decide which images a burn-in sees, and their defaults."""
NEEDED = {"fingerprint", "name", *IDENTITY} - {"novel_classes"}
"""What every checkpoint says of its data, those from before there was ``novel_classes`` too."""


@dataclass(frozen=True, eq=False)
class BaseModel:
    """A trained network with what is known of its training.

    Attributes:
        spec: How to build the network.
        weights: Its state dict.
        optimizer: State of the SGD optimiser; None if unknown.
        lr: The learning rate that training ended with; None if unknown.
        epoch: Epochs trained.
        data: Name, fingerprint and division of the data; empty if unknown.
        named: The file says which network it is; otherwise ``spec`` waits for :meth:`of`.
    """

    spec: ModelSpec
    weights: Mapping[str, Tensor]
    optimizer: Mapping[str, Any] | None
    lr: float | None
    epoch: int
    data: Mapping[str, Any]
    named: bool = True

    def save(self, path: Path) -> None:
        """Write the checkpoint, whole or not at all."""
        payload = {
            "spec": asdict(self.spec),
            "weights": dict(self.weights),
            "optimizer": self.optimizer,
            "lr": self.lr,
            "epoch": self.epoch,
            "data": dict(self.data),
        }
        checkpoint.save(path, KIND, payload)

    @classmethod
    def load(cls, path: Path, name: str | None = None) -> "BaseModel":
        """Read a checkpoint of this project, an ``epochN.pth`` of the released code (a ResNet-18), or a state dict.

        Args:
            path: The file.
            name: The network that the run asks for, if it does: weights of another than a ResNet-18 are a state dict.

        Raises:
            InputError: The file is missing, damaged or foreign.
        """
        payload = checkpoint.load_any(path, KIND)
        if isinstance(payload, Foreign):
            optimizer = payload.optimizer
            rate = None if optimizer is None else optimizer["lr"]
            spec = _released_spec(payload) if name in (None, "resnet18") else None
            return cls(spec or ModelSpec(), payload.weights, optimizer, rate, 0, {}, named=spec is not None)
        with checkpoint.reading_payload(path):
            stored: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in payload["spec"].items()}
            payload["data"] = with_new_names({"data": payload["data"]})["data"]
            parts = (payload[key] for key in ("weights", "optimizer", "lr", "epoch", "data"))
            base = cls(ModelSpec(**stored), *parts)
            if not base._is_sound():
                raise TypeError
            return base

    def _is_sound(self) -> bool:
        """Return whether all parts have the types that :meth:`save` gave them; weights may be any numbers."""
        spec, data = self.spec, self.data
        return (
            all(_alike(asdict(spec), asdict(DEFAULTS)))
            and all(isinstance(value, float) for value in (*spec.mean, *spec.std))
            and (len(spec.mean) == len(spec.std) > 0 < spec.num_classes)
            and (isinstance(self.weights, dict) and all(map(is_dense, self.weights.values())))
            and (self.lr is None or (isinstance(self.lr, int | float) and 0 <= self.lr < LARGEST_RATE))
            and (type(self.epoch) is int and self.epoch >= 0)
            and (isinstance(data, dict) and all(_alike(data, IDENTITY)) and (not data or data.keys() >= NEEDED))
            and (self.optimizer is None or _is_sgd(self.optimizer))
        )

    def build(self, path: Path, device: torch.device) -> nn.Module:
        """Return the network with its weights, in eval mode; ``path`` is for the error message.

        Raises:
            InputError: The weights do not fit the network.
        """
        model = build_model(self.spec)
        if problem := put_into(model, self.weights):
            raise InputError(
                f"the weights in {path} do not fit a {self.spec.name} of width {self.spec.width} and {self.spec.norm} "
                f"norm: {problem}; name their network with <model.name>, <model.width> and <model.norm>"
            )
        return place(model, device)

    def of(self, wanted: ModelSettings, data: DataSet, ids: Tensor) -> "BaseModel":
        """Return this as the network that the run asks for, if the file does not say of which one it is.

        Args:
            wanted: The network.
            data: The images, for the number of classes.
            ids: The channel statistics are those of these images, int64 [N], unless published ones are known.
        """
        return self if self.named else replace(self, spec=spec_for(wanted, data, ids), named=True)

    def check_model(self, wanted: ModelSettings, path: Path) -> None:
        """Raise InputError if the run asks for another network than this checkpoint holds."""
        if not self.named:
            if wanted.name is None:
                raise InputError(
                    f"{path} is a state dict and does not say of which network; give "
                    "<model.name>, <model.width> and <model.norm>"
                )
            return
        for key in ("name", "width", "norm"):
            asked, stored = getattr(wanted, key), getattr(self.spec, key)
            if asked is not None and asked != stored:
                raise InputError(
                    f"{path} holds a model with {key} {stored} and this run asks for {asked}; "
                    f"drop the option or give another checkpoint"
                )

    def check_data(self, wanted: DataSettings, data: DataSet, path: Path) -> None:
        """Raise InputError if the data, or under protocol ``fresh`` their division, are not those of the burn-in.

        Args:
            wanted: The settings of the data.
            data: The images.
            path: Of this checkpoint.
        """
        if self.spec.num_classes != data.num_classes:
            raise InputError(
                f"{path} tells {self.spec.num_classes} classes apart and {data.name} has {data.num_classes}; "
                "give the <data.name> it was trained on"
            )
        here = data_identity(wanted, data)
        released = wanted.splits == "released_split"
        keys = ["fingerprint", "novel_classes"] if released else [key for key in here if key != "name"]
        usual = asdict(DataSettings())
        for key in keys if self.data else ():
            stored = self.data.get(key, usual.get(key))  # a checkpoint from before a setting existed has its default
            if stored != here[key]:
                if key == "fingerprint":
                    raise InputError(
                        f"{path} was trained on {self.data['name']} with other contents than {data.name} has here; "
                        "give the <data.name> and <data.dir> it was trained with"
                    )
                raise InputError(
                    f"{path} was trained with data.{key} {_said(stored)} and this run says {_said(here[key])}, so the "
                    f"stream could hold images of the burn-in; set data.{key}={_said(stored)}"
                )


def _said(value: object) -> str:
    return (",".join(map(str, value)) or "none") if isinstance(value, tuple | list) else str(value)


def place(model: nn.Module, device: torch.device) -> nn.Module:
    """Return ``model`` on ``device``, channels-last, which is a third faster on CPUs, where that is safe."""
    model = model.to(device)
    return model if any(map(_unsafe, model.modules())) else model.to(memory_format=torch.channels_last)


def _unsafe(module: nn.Module) -> bool:
    """Return whether oneDNN may get the weight gradient of this convolution wrong in the channels-last layout.

    Its strided 1x1 kernels write past a buffer where a group has fewer input channels than a vector register (oneDNN
    issue 6035): wrong gradients, a corrupted heap, or a loop that never ends. 16 is the block of AVX-512; AVX2 has 8.
    """
    if not isinstance(module, nn.Conv2d):
        return False
    channels = module.in_channels // module.groups
    return module.kernel_size == (1, 1) and max(module.stride) > 1 and channels < 16


def data_identity(settings: DataSettings, data: DataSet) -> dict[str, Any]:
    """Return what decides which images the burn-in saw: contents first, then the division."""
    parts = {key: value for key, value in asdict(settings).items() if key in IDENTITY}
    return {"fingerprint": data.fingerprint(), "name": data.name, **parts}


def spec_for(settings: ModelSettings, data: DataSet, ids: Tensor) -> ModelSpec:
    """Return the network that settings ask for.

    Args:
        settings: Its name, width and norm; None takes the default.
        data: The images, for the number of classes.
        ids: The channel statistics are those of these images, int64 [N], unless published ones are known.
    """
    mean, std = data.stats or data.channel_stats(ids)
    return ModelSpec(
        name=DEFAULTS.name if settings.name is None else settings.name,
        width=DEFAULTS.width if settings.width is None else settings.width,
        norm=DEFAULTS.norm if settings.norm is None else settings.norm,
        num_classes=data.num_classes,
        mean=mean,
        std=tuple(value if value >= 1e-3 else 1.0 for value in std),  # a constant stays one
    )


def _released_spec(file: Foreign) -> ModelSpec | None:
    """Return the network of weights of the released code, None if they are of another one."""
    first, last = file.weights.get("conv1.weight"), file.weights.get("fc.weight")
    layers = {name.rpartition(".")[0] for name in file.weights}
    resnet18 = "layer4.1.conv2" in layers and "layer1.2.conv1" not in layers
    if file.key != "net" or not resnet18 or first is None or first.ndim != 4 or last is None or last.ndim != 2:
        return None
    mean, std = STATS["cifar10"]
    norm = "batch" if "bn1.running_mean" in file.weights else "group:32"  # what the script without --use_bn makes
    return ModelSpec(width=len(first), norm=norm, num_classes=len(last), mean=mean, std=std)


def _alike(values: Mapping[str, Any], usual: Mapping[str, Any]) -> Iterator[bool]:
    """Yield whether a value has the type of the usual one, for every key that both have."""
    return (type(values[key]) is type(value) for key, value in usual.items() if key in values)


def _is_sgd(state: object) -> bool:
    if not isinstance(state, dict) or not isinstance(state["state"], dict) or not state["param_groups"]:
        return False
    buffers = [each["momentum_buffer"] for each in state["state"].values()]
    return all(key >= 0 for key in state["state"]) and all(b is None or is_dense(b) for b in buffers)


def parts_of(data: DataSet, settings: DataSettings) -> Splits:
    """Return who gets which samples of a data set.

    Raises:
        InputError: There are too few, or a class is unknown.
    """
    protocol, seed = settings.splits, settings.split_seed
    return split(data, protocol=protocol, seed=seed, sizes=settings, novel_classes=settings.novel_classes)


def open_data(settings: DataSettings, device: torch.device) -> tuple[DataSet, Splits]:
    """Return the data set on ``device``, and who gets which of its images.

    Raises:
        InputError: The data are not there, damaged, or too few.
    """
    folder = None if settings.dir is None else Path(settings.dir)
    data = load(settings.name, data_dir=folder, offline=settings.offline)
    if settings.flip is not None:
        data = replace(data, flip=settings.flip)
    parts = parts_of(data, settings)
    return data.to(device), replace(parts, note=f"{data.note} {parts.note}".strip())
