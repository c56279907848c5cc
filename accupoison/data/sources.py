"""Data sets by name."""

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from accupoison.data.dataset import DataSet, Stats
from accupoison.data.folders import read_image_folder, read_tiny_imagenet
from accupoison.data.npz import read_npz
from accupoison.data.torchvision_sets import PUBLISHED, read_published
from accupoison.errors import InputError
from accupoison.records.files import holds, reason
from accupoison.registry import Lookup
from accupoison.rng import generator

__all__ = ["STATS", "DataSet", "Stats", "load"]

STATS: dict[str, Stats] = {name: known.stats for name, known in PUBLISHED.items() if known.stats is not None}
"""Published channel statistics, mean and standard deviation in [0, 1], by data set name."""

DIGITS_TRAIN = 1547


PATHS = ("npz", "folder")
"""Data sets that are yours: a path follows their name, after a colon."""
FEATURES = ("location30",)
"""Data sets of feature vectors."""
DATA: Lookup[Callable[..., DataSet]] = Lookup("data set", "data")
"""Loaders by name: of published sets, of ours (by what follows the colon and the data directory), of others."""


def canonical_name(name: str) -> str:
    """Return the name of a data set as it is stored, such as ``cifar10`` for ``CIFAR10``.

    Raises:
        InputError: There is no such data set; the message has the closest name.
    """
    if DATA.is_path(name):
        return DATA.canonical(name)
    kind, colon, argument = name.partition(":")
    return f"{DATA.canonical(kind)}{colon}{argument}"


def load(name: str, *, data_dir: Path | None = None, offline: bool = False) -> DataSet:
    """Load a data set.

    Args:
        name: A published data set (``cifar10``, ``cifar100``, ``svhn``, ``stl10``, ``mnist``, ``fashion-mnist``,
            ``tiny-imagenet``), ``location30`` (446 binary features, from ``location30.npz`` in ``data_dir``),
            ``digits`` (8x8 scans shipped with scikit-learn, as 16x16 RGB; needs no file), one of an installed package,
            or your own: ``package.module:LOADER``; or ``npz:PATH`` (see :func:`accupoison.data.npz.read_npz`) or
            ``folder:PATH`` (see :func:`accupoison.data.folders.read_image_folder`), from here or from ``data_dir``.
        data_dir: Where files are kept and downloaded to; default: what the environment variable ACCUPOISON_DATA
            names, otherwise ``data`` in the working directory.
        offline: Never touch the network.

    Raises:
        InputError: The name is unknown, ``data_dir`` does not exist, or the files are absent or unusable.
    """
    name = canonical_name(name)
    kind, colon, argument = name.partition(":")
    by_path = DATA.is_path(name)
    if colon and kind not in PATHS and not by_path:
        raise InputError(f"data set {name!r} takes nothing after the colon; use {kind}")
    if data_dir is not None:
        data_directory(data_dir)
    if by_path or DATA.offered(kind):
        return _noted(_of_others(name, data_dir), whole=True)
    if kind in PUBLISHED:
        data = DATA.get(kind)(data_directory(data_dir), offline=offline)
    else:
        data = DATA.get(kind)(argument, data_dir)
    return _noted(replace(data, name=name, stats=STATS.get(kind)), whole=kind not in PUBLISHED)


def _noted(data: DataSet, *, whole: bool = False) -> DataSet:
    """Return ``data`` with a note of the classes that one half lacks.

    Args:
        data: The data set.
        whole: Refuse it where the train half is the one.

    Raises:
        InputError: A class is tested that cannot be learnt.
    """
    train, test = (set(y.tolist()) for y in (data.train_y, data.test_y))
    notes = [data.note]
    if test - train:
        sentence = f"{data.name} has test samples of {_named(data, test - train)} and no train samples"
        if whole:
            raise InputError(f"{sentence}; give every class that is tested some to learn from")
        notes.append(f"{sentence}.")
    if train - test:
        notes.append(f"{data.name} has no test samples of {_named(data, train - test)}, so no accuracy speaks of them.")
    return replace(data, note=" ".join(filter(None, notes)))


def _named(data: DataSet, labels: set[int]) -> str:
    names = [repr(data.classes[label]) for label in sorted(labels)]
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{'class' if len(names) == 1 else 'classes'} {', '.join(names[:5])}{more}"


def data_directory(data_dir: Path | None) -> Path:
    """Return the data directory; only the default one may be absent, and is made by the first download.

    Args:
        data_dir: As given; None is that of the environment, or the default one.

    Raises:
        InputError: There is none of this name.
    """
    named = data_dir or os.environ.get("ACCUPOISON_DATA")
    if not named:
        return Path("data")
    path = _expanded(str(named))
    if not holds(path.is_dir):
        source = "<data.dir>" if data_dir is not None else "ACCUPOISON_DATA"
        raise InputError(f"the data directory {path} does not exist; create it or correct {source}")
    return path


def _of_others(name: str, data_dir: Path | None) -> DataSet:
    """Load a data set of an installed package, or by the path of its loader, which may raise anything."""
    what = f"data set {name!r}{'' if ':' in name else ' of an installed package'}"
    try:
        data = DATA.get(name)(data_dir)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{what} failed ({reason(error)}); mend its loader") from error
    if not isinstance(data, DataSet):
        raise InputError(f"{what} is a {type(data).__name__}, not a DataSet")
    try:
        data.check()
    except ValueError as error:
        raise InputError(f"{what} is not as it should be: {error}") from error
    return replace(data, name=name)


@DATA.register("location30")
def _location30(argument: str, data_dir: Path | None) -> DataSet:
    path = data_directory(data_dir) / "location30.npz"
    if not holds(path.exists):
        raise InputError(
            f"Location-30 is not in {path.parent.absolute()}; put location30.npz there, with x (0 or 1, [5010, 446]) "
            "and y, or name the directory that has it with <data.dir> or ACCUPOISON_DATA"
        )
    return read_npz(path, name="location30")


@DATA.register("npz")
def _npz(argument: str, data_dir: Path | None) -> DataSet:
    if not argument:
        raise InputError("data set 'npz:' names no file; write npz:PATH")
    return read_npz(_found(argument, data_dir), name=f"npz:{argument}")


@DATA.register("folder")
def _folder(argument: str, data_dir: Path | None) -> DataSet:
    if not argument:
        raise InputError("data set 'folder:' names no directory; write folder:PATH")
    return read_image_folder(_found(argument, data_dir), name=f"folder:{argument}")


def _found(argument: str, data_dir: Path | None) -> Path:
    """Return the path as it is given or, where that is nothing, as one within the data directory."""
    path = _expanded(argument)
    if holds(path.exists):
        return path
    inside = data_directory(data_dir) / path
    return inside if holds(inside.exists) else path


def _expanded(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:  # a user whom the system does not know
        return Path(text)


@DATA.register("tiny-imagenet")
def _tiny_imagenet(argument: str, data_dir: Path | None) -> DataSet:
    return read_tiny_imagenet(data_directory(data_dir))


@DATA.register("digits")
def _digits(argument: str, data_dir: Path | None) -> DataSet:
    # Imported here because scikit-learn takes a second to load and only this data set needs it.
    from sklearn.datasets import load_digits

    scans = load_digits()
    grey = torch.from_numpy(np.rint(scans.images * (255 / 16)).astype(np.uint8))
    x = grey.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)[:, None].expand(-1, 3, -1, -1)
    y = torch.from_numpy(scans.target.astype(np.int64))
    # The files are ordered by writer; one fixed permutation mixes them, whatever the seed of the run.
    order = torch.randperm(len(x), generator=generator(0, "digits"))
    train, test = order[:DIGITS_TRAIN], order[DIGITS_TRAIN:]
    classes = tuple(str(digit) for digit in range(10))
    return DataSet("digits", x[train].contiguous(), y[train], x[test].contiguous(), y[test], classes, flip=False)


for _published in PUBLISHED:
    DATA.register(_published)(partial(read_published, _published))
