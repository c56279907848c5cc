"""The base checkpoint: what a burn-in leaves and a stream starts from."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from accupoison import checkpoint
from accupoison.data import STATS, DataSet
from accupoison.errors import InputError
from accupoison.learner import view_of
from accupoison.models import ModelSpec, build_model
from accupoison.settings import DataSettings, ModelSettings

KIND = "base-model"
DEFAULTS = ModelSpec()


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
    """

    spec: ModelSpec
    weights: Mapping[str, Tensor]
    optimizer: Mapping[str, Any] | None
    lr: float | None
    epoch: int
    data: Mapping[str, Any]

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
    def load(cls, path: Path) -> "BaseModel":
        """Read a checkpoint of this project, or an ``epochN.pth`` of the released code (a ResNet-18).

        Raises:
            InputError: The file is missing, damaged or foreign.
        """
        found = checkpoint.load_any(path, KIND)
        if isinstance(found, checkpoint.Released):
            optimizer = found.optimizer
            rate = None if optimizer is None else optimizer["lr"]
            return cls(_released_spec(path, found.weights), found.weights, optimizer, rate, 0, {})
        spec = found["spec"]
        return cls(
            ModelSpec(**{**spec, "mean": tuple(spec["mean"]), "std": tuple(spec["std"])}),
            found["weights"],
            found["optimizer"],
            found["lr"],
            found["epoch"],
            found["data"],
        )

    def build(self, path: Path, device: torch.device) -> nn.Module:
        """Return the network with its weights, in eval mode; ``path`` is for the error message.

        Raises:
            InputError: The weights do not fit the network.
        """
        model = build_model(self.spec)
        try:
            model.load_state_dict(dict(self.weights))
        except RuntimeError as error:
            raise InputError(
                f"the weights in {path} do not fit a {self.spec.name} of width {self.spec.width}"
            ) from error
        return place(model, device)

    def check_model(self, wanted: ModelSettings, path: Path) -> None:
        """Raise InputError if the run asks for another network than this checkpoint holds."""
        for key in ("name", "width", "norm"):
            asked, stored = getattr(wanted, key), getattr(self.spec, key)
            if asked is not None and asked != stored:
                raise InputError(
                    f"{path} holds a model with {key} {stored} and this run asks for {asked}; "
                    f"drop the option or give another checkpoint"
                )

    def check_data(self, wanted: DataSettings, data: DataSet, path: Path) -> None:
        """Raise InputError if the data, or under protocol ``fresh`` their division, are not those of the burn-in."""
        if self.spec.num_classes != data.num_classes:
            raise InputError(
                f"{path} tells {self.spec.num_classes} classes apart and {data.name} has {data.num_classes}; "
                "give the --data it was trained on"
            )
        here = data_identity(wanted, data)
        keys = ["fingerprint", "held_out"] if wanted.splits == "official" else [key for key in here if key != "name"]
        usual = asdict(DataSettings())
        for key in keys if self.data else ():
            stored = self.data.get(key, usual.get(key))  # a checkpoint from before a setting existed has its default
            if stored != here[key]:
                if key == "fingerprint":
                    raise InputError(
                        f"{path} was trained on {self.data['name']} with other contents than {data.name} has here; "
                        "give the --data and --data-dir it was trained with"
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


def check_images(model: nn.Module, name: str, data: DataSet, batch_size: int) -> None:
    """Raise InputError unless ``model`` turns the images of ``data`` into logits and learns from ``batch_size``."""
    shape, other = list(data.shape), "another model, such as mlp" if data.features else "another model"
    try:
        with torch.no_grad():
            logits = model(torch.zeros(2, *shape, device=data.device))
    except Exception as error:  # a factory's model may raise anything
        problem = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"model {name} cannot take {data.kind} of shape {shape} ({problem}); choose {other}"
        ) from error
    if not isinstance(logits, Tensor) or logits.shape != (2, data.num_classes):
        found = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise InputError(
            f"model {name} maps 2 {data.kind} to {found}; it must return logits [2, {data.num_classes}]; choose {other}"
        )
    try:  # a view, so that nothing about the model changes
        view = view_of(model)
        x = torch.zeros(min(batch_size, 2), *shape, device=data.device)
        torch.autograd.grad(view.logits(x, train=True).sum(), view.params())
    except Exception as error:
        problem = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"model {name} cannot learn from a batch of {batch_size} {data.kind} of shape {shape} ({problem}); "
            "choose another model or a larger batch, and let all its parameters be used and trained"
        ) from error


def data_identity(settings: DataSettings, data: DataSet) -> dict[str, Any]:
    """Return what decides which images the burn-in saw: contents first, then the division."""
    parts = {key: value for key, value in asdict(settings).items() if key not in ("name", "dir", "offline", "flip")}
    return {"fingerprint": data.fingerprint(), "name": data.name, **parts}


def spec_for(settings: ModelSettings, data: DataSet, ids: Tensor) -> ModelSpec:
    """Return the network that ``settings`` ask for, with the channel statistics of the images ``ids``."""
    mean, std = data.stats or data.channel_stats(ids)
    return ModelSpec(
        name=DEFAULTS.name if settings.name is None else settings.name,
        width=DEFAULTS.width if settings.width is None else settings.width,
        norm=DEFAULTS.norm if settings.norm is None else settings.norm,
        num_classes=data.num_classes,
        mean=mean,
        std=tuple(value if value >= 1e-3 else 1.0 for value in std),  # a constant stays one
    )


def default_place(root: Path, data: str, model: ModelSettings, recipe: str, seed: int) -> Path:
    """Return the directory under ``root`` where the burn-in of these settings is kept."""
    label = Path(data.partition(":")[2]).stem if ":" in data else data
    name = (model.name or DEFAULTS.name).replace(":", ".")
    parts = [label, name, f"w{model.width or DEFAULTS.width}", model.norm or DEFAULTS.norm, recipe, f"seed{seed}"]
    return root / "-".join(parts)


def _released_spec(path: Path, weights: Mapping[str, Tensor]) -> ModelSpec:
    first, last = weights.get("conv1.weight"), weights.get("fc.weight")
    if first is None or first.ndim != 4 or last is None or last.ndim != 2:
        raise InputError(f"{path} has no weights of a ResNet-18; give an epochN.pth file of the released code")
    mean, std = STATS["cifar10"]
    norm = "batch" if "bn1.running_mean" in weights else "group:32"  # what the script without --use_bn makes
    return ModelSpec(width=len(first), norm=norm, num_classes=len(last), mean=mean, std=std)
