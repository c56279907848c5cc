"""Data sets from one .npz file of the user's own: images or features."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from accupoison.data.dataset import DataSet
from accupoison.errors import InputError
from accupoison.records.arrays import read_arrays

KEYS = ("train_x", "train_y", "test_x", "test_y")
WHOLE = ("x", "y")
LAYOUT = "images must be uint8 [N, H, W, C] with C 1 or 3, and features numbers [N, D]"
FOLD = 5
"""Of a set without a division, every so many-th sample is a test sample."""
MAX_CLASSES = 65_536

Array = NDArray[Any]


def read_npz(path: Path, *, name: str, flip: bool = True) -> DataSet:
    """Read a data set from ``path``; grey images become RGB.

    The file holds ``train_x``, ``train_y``, ``test_x``, ``test_y`` (images uint8 [N, H, W, C] with C 1 or 3, or
    features [N, D], any finite numbers; labels integers [N] from 0) and, optionally, ``classes`` (strings, in label
    order). In place of the four there may be ``x`` and ``y``: samples 4, 9, 14, ... are then the test half or, where
    one half would lack classes of the other, samples 4, 9, 14, ... of each class. Features that are not all in [0, 1]
    are scaled to it, each by its least and largest value in the file.

    Args:
        path: The file.
        name: The name the data set gets.
        flip: A mirrored image keeps its class; of no meaning for features.

    Raises:
        InputError: The file is missing or damaged, or one of its arrays is not as above.
    """
    arrays = _arrays(path)
    halves = arrays["train_x"], arrays["test_x"]
    train, test = (list(x.shape[1:]) for x in halves)
    if train != test:
        raise InputError(
            f"{path} has train samples of shape {train} and test samples of shape {test}; make them the same"
        )
    classes = _classes(path, arrays)
    train_x, test_x = map(_images, halves) if halves[0].ndim == 4 else _features(path, *halves)
    return DataSet(
        name=name,
        train_x=train_x,
        train_y=_labels(arrays["train_y"]),
        test_x=test_x,
        test_y=_labels(arrays["test_y"]),
        classes=classes,
        flip=flip and halves[0].ndim == 4,
        file_ids=_file_ids(arrays.get("tested")),
    )


def _arrays(path: Path) -> dict[str, Array]:
    fix = f"write {', '.join(KEYS)} to one file with numpy.savez"
    arrays = read_arrays(path, KEYS, WHOLE, optional=("classes",), fix=fix)
    halves: tuple[str, ...] = ("train_", "test_") if KEYS[0] in arrays else ("",)
    for half in halves:
        _check_inputs(path, f"{half}x", arrays[f"{half}x"])
        _check_labels(path, half, arrays[f"{half}y"], len(arrays[f"{half}x"]))
    return arrays if len(halves) == 2 else _halved(path, arrays)


def _halved(path: Path, whole: dict[str, Array]) -> dict[str, Array]:
    """Return the arrays of a file without a division as if it had one.

    By place, or, where a half would then lack classes (they may come in turn), by place within each class.
    """
    x, y = whole.pop("x"), whole.pop("y")
    if len(x) < FOLD:
        raise InputError(f"{path} has {len(x)} samples; give at least {FOLD}, or {', '.join(KEYS)}")
    tested = np.arange(len(x)) % FOLD == FOLD - 1
    if not np.array_equal(np.unique(y[tested]), np.unique(y[~tested])):
        tested = _stratified(path, y)
    return {
        "train_x": x[~tested],
        "train_y": y[~tested],
        "test_x": x[tested],
        "test_y": y[tested],
        "tested": tested,
        **whole,
    }


def _file_ids(tested: NDArray[np.bool_] | None) -> Tensor | None:
    """Return the ids in the order of the file: train samples count from 0, and test samples go on from there."""
    return None if tested is None else torch.from_numpy(np.argsort(np.argsort(tested, kind="stable")))


def _stratified(path: Path, y: Array) -> NDArray[np.bool_]:
    """Return which samples are tested: of each class every so many-th or, of a smaller one, the last."""
    tested = np.zeros(len(y), dtype=np.bool_)
    for label, count in zip(*np.unique(y, return_counts=True), strict=True):
        if count == 1:
            raise InputError(
                f"{path} has one sample of class {label}, and the train and the test half both need one; give it "
                f"another, or give {', '.join(KEYS)}"
            )
        tested[np.flatnonzero(y == label)[min(count, FOLD) - 1 :: FOLD]] = True
    return tested


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
    key = f"{half}y in {path}"
    if y.dtype.kind not in "iu":
        raise InputError(f"{key} has dtype {y.dtype}; labels must be integers [N]")
    if y.ndim != 1:
        raise InputError(f"{key} has shape {list(y.shape)}; labels must be integers [N]")
    if len(y) != count:
        raise InputError(f"{key} has {len(y)} labels for {count} samples in {half}x; give one label a sample")
    if y.min() < 0:
        raise InputError(f"{key} has the label {y.min()}; number the classes from 0")


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


def _features(path: Path, train: Array, test: Array) -> tuple[Tensor, Tensor]:
    """Return both halves as float32 [N, D] in [0, 1]."""
    with np.errstate(over="ignore"):  # of long doubles, and of a range above the largest number
        raw = np.concatenate([train, test])
        both = raw.astype(np.float64)
        if not np.isfinite(both).all():
            raise InputError(f"{path} has values beyond 1.8e308; scale the features")
        if both.min() < 0 or both.max() > 1:
            wide = ~np.isfinite(np.ptp(both, axis=0))
            both[:, wide] /= 2
            low, high = both.min(0), both.max(0)
            both = (both - low) / np.where(high > low, high - low, 1)
    single = both.astype(np.float32)
    if (raw != raw[0]).any() and not (single != single[0]).any():
        raise InputError(f"{path} has features that differ by less than single precision can tell; scale them up")
    x = torch.from_numpy(single)
    return x[: len(train)].clone(), x[len(train) :].clone()


def _labels(y: Array) -> Tensor:
    return torch.from_numpy(y.astype(np.int64))
