"""Names of what is given as an object: networks, arrays, classes and instances of attacks, defences and the like."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from accupoison.config.flags import CHECKPOINTS
from accupoison.config.schema import REGISTRIES
from accupoison.data import DataSet
from accupoison.errors import InputError
from accupoison.models.copies import copy_of
from accupoison.models.factory import MODELS
from accupoison.records.files import write_atomically
from accupoison.registry import Component

Array = Tensor | NDArray[Any]
Data = str | DataSet | Sequence[Array]
"""A name, or a data set, or (x, y), or (train_x, train_y, test_x, test_y)."""
Model = str | nn.Module | Callable[..., nn.Module]
"""A name, or a network with the weights that it has, or what makes one when called with ``num_classes``."""
HALVES = ("train_x", "train_y", "test_x", "test_y")


def component(section: str, given: object) -> dict[str, Any]:
    """Return the section of a configuration that a component stands for.

    Args:
        section: "attack", "defense", "update" or "release".
        given: A class, or an instance with its settings.

    Raises:
        InputError: It is none, or cannot be used.
    """
    if not isinstance(given, type | Component):
        raise InputError(f"the {section} {given!r} is neither a name nor a class nor an instance; give one of these")
    registry, settings = REGISTRIES[section], given.settings if isinstance(given, Component) else {}
    cls = given if isinstance(given, type) else type(given)
    return {"name": registry.adopt(cls), **settings}


def model_name(given: Model) -> str:
    """Return the name of a network; of a module, what makes copies of it as it is now.

    Raises:
        InputError: It is none that a name can be given to.
    """
    if isinstance(given, str):
        return given
    if isinstance(given, nn.Module):
        kept = copy_of(given)

        def again(num_classes: int) -> nn.Module:
            return copy_of(kept)

        again.__module__, again.__qualname__ = "__main__", f"{type(given).__name__}-{_digest(weights(given))}"
        return MODELS.adopt(again)
    if not hasattr(given, "__qualname__"):
        raise InputError(f"the model {given!r} has no name to be found by; give a function, a class or a module")
    return MODELS.adopt(given)


def checkpoint(given: nn.Module) -> Path:
    """Write the weights of a network to a state dict, once, and return that."""
    state = weights(given)
    path = CHECKPOINTS / f"own-{_digest(state)}.pth"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda file: torch.save(state, file))
    return path


def weights(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by name, [*] each, on the CPU."""
    return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}


def data_section(given: Data) -> dict[str, Any]:
    """Return the section of a configuration that data stand for; arrays are written to an ``npz`` file, once.

    Args:
        given: Images as floats in [0, 1] [N, C, H, W], or as bytes, also [N, H, W, C]; or features [N, D].

    Raises:
        InputError: They are not two or four arrays, or not of this form.
    """
    if isinstance(given, str):
        return {"name": given}
    if isinstance(given, DataSet):
        halves = {name: getattr(given, name).cpu() for name in HALVES}
        return {"name": _stored({**halves, "classes": np.array(given.classes)}), "flip": given.flip}
    if len(given) not in (2, 4):
        raise InputError(f"data has {len(given)} arrays; give (x, y), or (train_x, train_y, test_x, test_y)")
    return {"name": _stored(dict(zip(HALVES if len(given) == 4 else ("x", "y"), given, strict=True)))}


def _stored(arrays: dict[str, Array]) -> str:
    """Return the name of a data set whose arrays are now in a file."""
    plain = {name: _plain(name, np.asarray(array)) for name, array in arrays.items()}
    path = CHECKPOINTS / f"own-{_digest(plain)}.npz"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda file: np.savez(file, **plain))  # type: ignore[arg-type]  # numpy's own stub
    return f"npz:{path}"


def _plain(name: str, array: NDArray[Any]) -> NDArray[Any]:
    """Return an array as files have it: images as bytes, their channels last."""
    if not name.endswith("x") or array.ndim != 4:
        return array
    if array.dtype.kind == "f":
        if not bool(((array >= 0) & (array <= 1)).all()):
            raise InputError(
                f"{name} has pixels from {array.min():.4g} to {array.max():.4g}; give pixels in [0, 1], and normalise "
                "inside the model"
            )
        array = np.rint(array * 255).astype(np.uint8)
    first = array.shape[1] in (1, 3) and array.shape[3] not in (1, 3)
    return np.ascontiguousarray(np.moveaxis(array, 1, 3)) if first else array


def _digest(arrays: dict[str, Any]) -> str:
    """Return a few hex digits that tell contents apart."""
    digest = hashlib.sha256()
    for name, array in arrays.items():
        content = np.ascontiguousarray(array)
        digest.update(f"{name} {content.dtype.str} {content.shape}\0".encode() + content.tobytes())
    return digest.hexdigest()[:12]
