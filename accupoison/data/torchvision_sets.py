"""Published data sets: from ``NAME.npz`` where that exists, otherwise through torchvision."""

import gzip
import shutil
import sys
import warnings
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import numpy as np
import torch
from torch import Tensor

from accupoison.data.dataset import DataSet, Stats
from accupoison.data.npz import read_npz
from accupoison.errors import InputError
from accupoison.records.files import holds, reason, write_atomically


@dataclass(frozen=True, kw_only=True)
class Published:
    """What is known of a published data set.

    Attributes:
        title: Its name for people; without hyphens it is that of its class in ``torchvision.datasets``.
        files: What to put into the data directory by hand.
        shape: Channels, height and width of an image, grey ones as RGB.
        num_classes: Number of classes.
        flip: A mirrored image keeps its class.
        stats: Published channel statistics; None where they are to be measured.
        halves: What the loader is told to get the train and the test half.
    """

    title: str
    files: str
    shape: tuple[int, int, int] = (3, 32, 32)
    num_classes: int = 10
    flip: bool = True
    stats: Stats | None = None
    halves: tuple[Mapping[str, Any], Mapping[str, Any]] = field(default=({"train": True}, {"train": False}))


SPLIT: tuple[Mapping[str, Any], Mapping[str, Any]] = ({"split": "train"}, {"split": "test"})
PUBLISHED: dict[str, Published] = {
    "cifar10": Published(
        title="CIFAR-10",
        files="cifar-10-python.tar.gz, unpacked as cifar-10-batches-py",
        stats=((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    ),
    "cifar100": Published(
        title="CIFAR-100",
        files="cifar-100-python.tar.gz, unpacked as cifar-100-python",
        num_classes=100,
        stats=((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    ),
    "svhn": Published(title="SVHN", files="train_32x32.mat and test_32x32.mat", flip=False, halves=SPLIT),
    "stl10": Published(
        title="STL-10", files="stl10_binary.tar.gz, unpacked as stl10_binary", shape=(3, 96, 96), halves=SPLIT
    ),
    "mnist": Published(title="MNIST", files="MNIST/raw", shape=(3, 28, 28), flip=False),
    "fashion-mnist": Published(title="Fashion-MNIST", files="FashionMNIST/raw", shape=(3, 28, 28)),
}
"""The data sets by name."""


def read_published(name: str, root: Path, *, offline: bool) -> DataSet:
    """Read a published data set from ``root``, downloading it there when it is absent.

    Args:
        name: One of :data:`PUBLISHED`.
        root: The data directory.
        offline: Never touch the network.

    Raises:
        InputError: The files are absent or damaged and cannot be fetched.
    """
    known = PUBLISHED[name]
    npz = root / f"{name}.npz"
    if not holds(npz.exists):
        return _from_torchvision(name, root, offline=offline)
    data = read_npz(npz, name=name, flip=known.flip)
    if data.features or data.shape != known.shape or data.num_classes != known.num_classes:
        raise InputError(
            f"{npz} has {data.num_classes} classes of {list(data.shape)} images, {known.title} has "
            f"{known.num_classes} of {list(known.shape)}; replace it, or load it as npz:{npz}"
        )
    return data


def _from_torchvision(name: str, root: Path, *, offline: bool) -> DataSet:
    try:
        with warnings.catch_warnings(), redirect_stdout(sys.stderr):
            warnings.simplefilter("ignore")  # of the published files, pickled by an old numpy, and of damaged ones
            data = _data(name, *_halves(name, root, offline=offline))
        _check(PUBLISHED[name], data)
    except InputError:
        raise
    except Exception as error:  # a loader raises anything on damaged files; all it says of absent ones is RuntimeError
        if isinstance(error, HTTPError):
            error.close()  # it holds the connection
        raise InputError(_advice(name, root, error, offline=offline)) from error
    return data


def _halves(name: str, root: Path, *, offline: bool) -> "list[Any]":
    # Imported here because torchvision takes seconds to load and only this path needs it.
    from torchvision import datasets
    from torchvision.datasets.utils import check_integrity

    known = PUBLISHED[name]
    loader = getattr(datasets, known.title.replace("-", ""))
    if name == "stl10":  # the 2.7 GB of images without labels are not read, so they need be neither there nor whole
        loader = type("STL10", (loader,), {"train_list": loader.train_list[:2]})
    for file, md5 in getattr(loader, "resources", ()):
        packed = root / known.files / file
        if not packed.with_suffix("").exists() and check_integrity(str(packed), md5):
            with gzip.open(packed) as source:
                write_atomically(packed.with_suffix(""), partial(shutil.copyfileobj, source))
    # With a sound archive in place "download" only unpacks it, which is fine offline too.
    archive = getattr(loader, "filename", None)
    download = not offline or (archive is not None and check_integrity(str(root / archive), loader.tgz_md5))
    return [loader(str(root), download=download, **half) for half in known.halves]


def _data(name: str, train: Any, test: Any) -> DataSet:  # noqa: ANN401
    known = PUBLISHED[name]
    return DataSet(
        name=name,
        train_x=_images(train.data),
        train_y=_labels(train),
        test_x=_images(test.data),
        test_y=_labels(test),
        classes=tuple(getattr(train, "classes", map(str, range(known.num_classes)))),
        flip=known.flip,
    )


def _check(known: Published, data: DataSet) -> None:
    """Raise ValueError unless the data are what is known of the set; there may be fewer of them."""
    data.check()
    if data.shape != known.shape:
        raise ValueError(f"images are {list(data.shape)}, not {list(known.shape)}")
    if data.num_classes != known.num_classes or not all(isinstance(name, str) for name in data.classes):
        raise ValueError(f"there are not {known.num_classes} names of classes")


def _advice(name: str, root: Path, error: BaseException, *, offline: bool) -> str:
    known = PUBLISHED[name]
    problem = "downloads are off" if offline else f"cannot be downloaded ({reason(error)})"
    return (
        f"{known.title} in {root.absolute()} is absent or damaged and {problem}; put {known.files}, or {name}.npz "
        "there, or name the directory that has one of them with <data.dir> or ACCUPOISON_DATA"
    )


def _images(x: "np.ndarray[Any, Any] | Tensor") -> Tensor:
    """Return images [N, H, W, C], [N, C, H, W] or grey [N, H, W] as contiguous [N, 3, H, W]."""
    images = torch.as_tensor(x)
    if images.ndim == 3:
        images = images[:, None].expand(-1, 3, -1, -1)
    elif images.shape[3] == 3:
        images = images.permute(0, 3, 1, 2)
    return images.contiguous()


def _labels(half: Any) -> Tensor:  # noqa: ANN401
    labels = torch.as_tensor(half.targets if hasattr(half, "targets") else half.labels)
    if labels.is_floating_point() or labels.is_complex():
        raise ValueError(f"labels are {labels.dtype}")
    return labels.long()
