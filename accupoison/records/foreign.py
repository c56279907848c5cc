"""Files of ``torch.save``: checked as far as they can be, and read without running anything."""

import argparse
import collections
import io
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor, nn

from accupoison.errors import InputError
from accupoison.records.files import reason

KEYS = ("net", "state_dict", "model_state_dict", "model", "weights")
"""Where other programs keep a state dict, if it is not the whole file."""


class _Nothing:
    """Stands for what NumPy has put into a file: nobody asks for it, and its pickles can lie about pointers."""

    def __new__(cls, *_: object) -> "_Nothing":
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        """Ignore what it was."""


_NUMPY = ("multiarray.scalar", "multiarray._reconstruct", "numeric._frombuffer")
HARMLESS: list[Any] = [
    argparse.Namespace,  # the arguments of a training script
    *(collections.defaultdict, frozenset, list, dict, int, float),
    *((_Nothing, name) for name in ("numpy.dtype", "numpy.ndarray")),
    *((_Nothing, f"numpy.{core}.{name}") for name in _NUMPY for core in ("core", "_core")),
]
"""What may be looked up beside what torch allows: it makes containers and numbers, and does nothing else."""
LARGEST_RATE = 1e30
SAVE = "torch.save(model.state_dict(), ...)"


@dataclass(frozen=True, slots=True, eq=False)
class Foreign:
    """The weights in a file of another program.

    Attributes:
        weights: State dict, without the prefixes of ``DataParallel`` and ``torch.compile``.
        key: Under which of :data:`KEYS` they were; None if they are the whole file.
        optimizer: State of an SGD optimiser beside them, as the released code leaves it: momentum buffers by number of
            the parameter, and the learning rate, None if it cannot be one; None where there is no such state.
    """

    weights: dict[str, Tensor]
    key: str | None = None
    optimizer: dict[str, Any] | None = None


def read_torch(path: Path) -> object:
    """Return what a file of ``torch.save`` holds, tensors on the CPU; nothing is executed.

    A file in the format since torch 1.6 is a zip archive, whose checksums are compared, which ``torch.load`` does not.
    Older ones have none.

    Raises:
        InputError: The file is missing or damaged, or asks for what could do anything, which the message names.
    """
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"cannot read {path} (it is no regular file); check the path and its permissions")
        file = path.open("rb")
    except FileNotFoundError:
        raise InputError(f"there is no file {path}; check the path") from None
    except OSError as error:
        raise InputError(f"cannot read {path} ({reason(error)}); check the path and its permissions") from error
    whole = False
    with file, torch.serialization.safe_globals(HARMLESS), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what torch has to say about a foreign file is said below
        try:
            copy = _copy(file)
            whole = copy is not None
            return torch.load(copy or file, map_location="cpu", weights_only=True, mmap=False)
        except Exception as error:  # a damaged file can raise anything
            if asked := re.search(r"GLOBAL (\S+)", str(error)):
                raise InputError(
                    f"{path} asks for {asked[1]}, which could do anything; only containers, numbers, arrays and "
                    f"tensors are read, so save the weights alone with {SAVE}"
                ) from error
            if whole:
                raise InputError(
                    f"{path} is whole and holds what could only be read by running it; save the weights alone with "
                    f"{SAVE}"
                ) from error
            raise damaged(path) from error


def damaged(path: Path) -> InputError:
    """Return what there is to say of a file that is not what its writer wrote."""
    return InputError(f"{path} is not a readable checkpoint (truncated, damaged, or of another program); make it anew")


def _copy(file: IO[bytes]) -> IO[bytes] | None:
    """Return a copy of an archive of torch, made of parts with the right checksums; None for a file of another format.

    A copy, since the table of an archive's parts has no checksum: a flipped bit that calls a part a directory makes
    torch (2.14.1) leave its tensor uninitialised.

    Raises:
        zipfile.BadZipFile: The archive is damaged; other damages raise other exceptions.
    """
    archived = file.read(4) == b"PK\x03\x04"
    file.seek(0)
    if not archived:
        return None
    copy = io.BytesIO()
    with zipfile.ZipFile(file) as archive, zipfile.ZipFile(copy, "w") as sound:
        for part in archive.infolist():
            sound.writestr(part.filename, archive.read(part))
        if not any(name.endswith("/data.pkl") for name in archive.namelist()):
            raise zipfile.BadZipFile("of another program")
    copy.seek(0)
    return copy


def foreign(path: Path, raw: object) -> Foreign:
    """Return the weights in what :func:`read_torch` found in ``path``.

    Raises:
        InputError: There is no state dict, or a tensor in it is of a kind that no network here has.
    """
    held: Mapping[Any, Any] = raw if isinstance(raw, Mapping) else {}
    for key, tensors in ((None, held), *((key, held.get(key)) for key in KEYS)):
        if isinstance(tensors, Mapping) and tensors and all(isinstance(value, Tensor) for value in tensors.values()):
            weights = {str(name): _plain(path, str(name), value) for name, value in tensors.items()}
            short = {stripped(name): value for name, value in weights.items()}
            optimizer = None if key is None else _optimizer(held.get("optimizer"))
            return Foreign(short if len(short) == len(weights) else weights, key, optimizer)
    raise InputError(f"{path} holds no state dict, neither as it is nor under {', '.join(KEYS)}; write one with {SAVE}")


def load_weights(path: Path) -> dict[str, Tensor]:
    """Return the state dict in a file of another program, without prefixes.

    Raises:
        InputError: The file is missing, damaged, or holds something else.
    """
    return foreign(path, read_torch(path)).weights


def stripped(name: str) -> str:
    """Return the name of a tensor without what ``DataParallel``, ``torch.compile`` and Lightning put before it."""
    return re.sub(r"^(?:module\.|_orig_mod\.|model\.)+", "", name)


def is_dense(value: object) -> bool:
    """Return whether ``value`` is an ordinary tensor of real numbers with its values on the CPU."""
    return (
        type(value) in (Tensor, nn.Parameter)
        and isinstance(value, Tensor)
        and (value.layout, value.device.type) == (torch.strided, "cpu")
        and not (value.is_quantized or value.is_complex())
    )


def _plain(path: Path, name: str, value: Tensor) -> Tensor:
    if not is_dense(value):
        what = f"{type(value).__name__} of {value.dtype}, {value.layout}, on {value.device}"
        raise InputError(f"{path} holds {name}, a {what}; save ordinary tensors of real numbers")
    return value.detach()


def _optimizer(state: object) -> dict[str, Any] | None:
    """Return the state of an SGD optimiser as far as it is one: learning rate and momentum buffers."""
    if not isinstance(state, Mapping):
        return None
    states, groups = state.get("state"), state.get("param_groups")
    if not isinstance(states, Mapping) or not isinstance(groups, list) or not groups:
        return None
    buffers = {
        key: {"momentum_buffer": value["momentum_buffer"]}
        for key, value in states.items()
        if isinstance(key, int) and isinstance(value, Mapping) and isinstance(value.get("momentum_buffer"), Tensor)
    }
    rate = groups[0].get("lr") if isinstance(groups[0], Mapping) else None
    lr = float(rate) if isinstance(rate, int | float) and rate is not True and 0 < rate < LARGEST_RATE else None
    return {"state": buffers, "lr": lr} if buffers else None


def put_into(model: nn.Module, weights: Mapping[str, Tensor]) -> str | None:
    """Load ``weights`` into ``model``, whatever prefixes they have; a head called ``linear`` is our ``fc``.

    Returns:
        What does not fit, in words, and nothing is loaded; None if all does.
    """
    own = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    names = {stripped(name): name for name in own}
    if "fc.weight" in names and "linear.weight" not in names and "fc.weight" not in weights:
        names |= {f"linear.{part}": names[f"fc.{part}"] for part in ("weight", "bias") if f"fc.{part}" in names}
    tensors = {name if name in own else names.get(stripped(name), name): value for name, value in weights.items()}
    if len(tensors) < len(weights):
        return "two of its tensors have the same name but for a prefix"
    unknown = next((name for name in tensors if name not in own), None)
    for name, value in own.items():
        if name.endswith("num_batches_tracked"):  # PyTorch has it since 0.4.1; only a count
            tensors.setdefault(name, value)
        if name not in tensors:
            return f"{name} is missing" + (f" (it has {unknown})" if unknown else "")
        if tensors[name].shape != value.shape:
            return f"{name} is {list(tensors[name].shape)} where the network has {list(value.shape)}"
        if tensors[name].is_floating_point() < value.is_floating_point():
            return f"{name} is of {tensors[name].dtype} where the network has {value.dtype}"
    if unknown:
        return f"{unknown} is not in the network"
    model.load_state_dict(tensors)
    return None
