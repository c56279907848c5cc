"""Data sets from one .npz file of the user's own: images or features."""

import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from accupoison.data.dataset import DataSet
from accupoison.errors import InputError

KEYS = ("train_x", "train_y", "test_x", "test_y")
WHOLE = ("x", "y")
LAYOUT = "images must be uint8 [N, H, W, C] with C 1 or 3, and features numbers [N, D]"
FOLD = 5
"""Of a set without a division, every so many-th sample is a test sample."""
MAX_CLASSES = 65_536

# What numpy and zipfile raise on a file that is damaged, encrypted, pickled or something else altogether.
UNREADABLE = (OSError, ValueError, EOFError, RuntimeError, MemoryError, struct.error, zlib.error, zipfile.BadZipFile)

Array = np.ndarray[Any, Any]


def read_npz(path: Path, *, name: str, flip: bool = True) -> DataSet:
    """Read a data set from ``path``; grey images become RGB.

    The file holds ``train_x``, ``train_y``, ``test_x``, ``test_y`` (images uint8 [N, H, W, C] with C 1 or 3, or
    features [N, D], any finite numbers; labels integers [N] from 0) and, optionally, ``classes`` (strings, in label
    order). In place of the four there may be ``x`` and ``y``: samples 4, 9, 14, ... are then the test half. Features
    that are not all in [0, 1] are scaled to it, each by its least and largest value in the file.

    Args:
        path: The file.
        name: The name the data set gets.
        flip: A mirrored image keeps its class; of no meaning for features.

    Raises:
        InputError: The file is missing or damaged, or one of its arrays is not as above.
    """
    arrays = _arrays(path)
    for half in ("train", "test"):
        _check_inputs(path, f"{half}_x", arrays[f"{half}_x"])
        _check_labels(path, half, arrays[f"{half}_y"], len(arrays[f"{half}_x"]))
    _check_sizes(path, arrays["train_x"].shape, arrays["test_x"].shape)
    classes = _classes(path, arrays)
    halves = arrays["train_x"], arrays["test_x"]
    train_x, test_x = map(_images, halves) if halves[0].ndim == 4 else _features(*halves)
    return DataSet(
        name=name,
        train_x=train_x,
        train_y=_labels(arrays["train_y"]),
        test_x=test_x,
        test_y=_labels(arrays["test_y"]),
        classes=classes,
        flip=flip and halves[0].ndim == 4,
    )


def _arrays(path: Path) -> dict[str, Array]:
    if not path.is_file():
        raise InputError(f"no such file: {path}; give an .npz file with {', '.join(KEYS)}")
    try:
        with path.open("rb") as handle:  # numpy leaves a path it opened itself open when the content is no zip
            return _members(path, np.load(handle, allow_pickle=False))
    except InputError:  # a ValueError too, but one that says it all already
        raise
    except UNREADABLE as error:
        raise InputError(f"{path} is not a readable .npz file ({reason(error)}); write it with numpy.savez") from error


def _members(path: Path, file: "Array | np.lib.npyio.NpzFile") -> dict[str, Array]:
    if isinstance(file, np.ndarray):
        raise InputError(f"{path} holds a single array; write {', '.join(KEYS)} to one file with numpy.savez")
    with file:
        missing = [key for key in KEYS if key not in file]
        if len(missing) == len(KEYS) and all(key in file for key in WHOLE):
            return _halved(path, {key: _member(path, file, key) for key in (*WHOLE, "classes") if key in file})
        if missing:
            found = ", ".join(file.files) or "nothing"
            raise InputError(f"{path} lacks {', '.join(missing)} (it has {found}); save {', '.join(KEYS)}")
        return {key: _member(path, file, key) for key in (*KEYS, "classes") if key in file}


def _halved(path: Path, whole: dict[str, Array]) -> dict[str, Array]:
    """Return the arrays of a file without a division as if it had one."""
    x, y = whole.pop("x"), whole.pop("y")
    if x.ndim == 0 or y.ndim != 1 or len(x) != len(y) or len(x) < FOLD:
        raise InputError(
            f"{path} has x {list(x.shape)} and y {list(y.shape)}; give one label a sample, and at least {FOLD} of both"
        )
    tested = np.arange(len(x)) % FOLD == FOLD - 1
    return {"train_x": x[~tested], "train_y": y[~tested], "test_x": x[tested], "test_y": y[tested], **whole}


def _member(path: Path, file: "np.lib.npyio.NpzFile", key: str) -> Array:
    try:
        value = file[key]
    except UNREADABLE as error:
        if "allow_pickle" in str(error):
            raise InputError(
                f"{key} in {path} is an array of Python objects; save it as uint8 images, integer labels or strings"
            ) from error
        raise InputError(f"{key} in {path} cannot be read ({reason(error)}); copy or write the file again") from error
    if not isinstance(value, np.ndarray):  # a member that is no array comes back as bytes
        raise InputError(f"{key} in {path} is not a numpy array; write the file with numpy.savez")
    return value


def reason(error: BaseException) -> str:
    """Return the first line of what an exception says, to quote inside a sentence."""
    return str(error).split("\n")[0].rstrip(".") or type(error).__name__


def _check_inputs(path: Path, key: str, x: Array) -> None:
    shape = list(x.shape)
    if x.ndim == 2:
        _check_features(path, key, x)
        return
    if x.dtype != np.uint8:
        hint = "; multiply values in [0, 1] by 255 and round them" if x.dtype.kind == "f" else ""
        raise InputError(f"{key} in {path} has dtype {x.dtype}; {LAYOUT}{hint}")
    if x.ndim != 4:
        hint = "; give grey images a last axis of length 1" if x.ndim == 3 else ""
        raise InputError(f"{key} in {path} has shape {shape}; {LAYOUT}{hint}")
    if x.shape[3] not in (1, 3):
        hint = "; move the channels to the last axis" if x.shape[1] in (1, 3) else ""
        raise InputError(f"{key} in {path} has shape {shape}; {LAYOUT}{hint}")
    if 0 in x.shape:
        raise InputError(f"{key} in {path} has shape {shape}, which is empty; give at least one image")


def _check_features(path: Path, key: str, x: Array) -> None:
    if x.dtype.kind not in "fiub":
        raise InputError(f"{key} in {path} has dtype {x.dtype}; {LAYOUT}")
    if 0 in x.shape:
        raise InputError(f"{key} in {path} has shape {list(x.shape)}, which is empty; give at least one sample")
    if not np.isfinite(x).all():
        raise InputError(f"{key} in {path} has values that are not finite; replace or remove these samples")


def _check_labels(path: Path, half: str, y: Array, count: int) -> None:
    key = f"{half}_y in {path}"
    if y.dtype.kind not in "iu":
        raise InputError(f"{key} has dtype {y.dtype}; labels must be integers [N]")
    if y.ndim != 1:
        raise InputError(f"{key} has shape {list(y.shape)}; labels must be integers [N]")
    if len(y) != count:
        raise InputError(f"{key} has {len(y)} labels for {count} samples in {half}_x; give one label a sample")
    if y.min() < 0:
        raise InputError(f"{key} has the label {y.min()}; number the classes from 0")


def _check_sizes(path: Path, train: tuple[int, ...], test: tuple[int, ...]) -> None:
    if train[1:] != test[1:]:
        raise InputError(
            f"{path} has train samples of shape {list(train[1:])} and test samples of shape {list(test[1:])}; "
            "make them the same"
        )


def _classes(path: Path, arrays: dict[str, Array]) -> tuple[str, ...]:
    top = max(int(arrays["train_y"].max()), int(arrays["test_y"].max()))
    names = arrays.get("classes")
    if names is None or names.size == 0:
        if top >= MAX_CLASSES:
            raise InputError(f"{path} has the label {top}; number the classes from 0 without gaps")
        return tuple(str(label) for label in range(top + 1))
    if names.dtype.kind != "U" or names.ndim != 1:
        raise InputError(f"classes in {path} is {names.dtype} {list(names.shape)}; give an array of strings [classes]")
    if top >= len(names):
        raise InputError(
            f"{path} has the label {top} but {len(names)} names in classes; "
            f"labels must be below {len(names)}, or name every class"
        )
    return tuple(names.tolist())


def _images(x: Array) -> Tensor:
    """Return uint8 [N, 3, H, W], contiguous."""
    channels_first = torch.from_numpy(x).permute(0, 3, 1, 2)
    return channels_first.expand(-1, 3, -1, -1).contiguous()


def _features(train: Array, test: Array) -> tuple[Tensor, Tensor]:
    """Return both halves as float32 [N, D] in [0, 1]."""
    both = np.concatenate([train, test]).astype(np.float64)
    if both.min() < 0 or both.max() > 1:
        low, high = both.min(0), both.max(0)
        both = (both - low) / np.where(high > low, high - low, 1)
    x = torch.from_numpy(both.astype(np.float32))
    return x[: len(train)].clone(), x[len(train) :].clone()


def _labels(y: Array) -> Tensor:
    return torch.from_numpy(y.astype(np.int64))
