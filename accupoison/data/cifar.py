"""CIFAR-10: from ``cifar10.npz`` where that exists, otherwise through torchvision."""

import pickle
import tarfile
import warnings
import zlib
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import numpy as np
import torch
from torch import Tensor

from accupoison.data.dataset import DataSet
from accupoison.data.npz import read_npz, reason
from accupoison.errors import InputError

SHAPE = (3, 32, 32)

# RuntimeError is torchvision's word for a wrong checksum; URLError and HTTPError are OSErrors.
FAILURES = (OSError, RuntimeError, EOFError, HTTPException, tarfile.TarError, pickle.UnpicklingError, zlib.error)


def read_cifar10(root: Path, *, offline: bool) -> DataSet:
    """Read CIFAR-10 from ``root``, downloading it there when it is absent.

    Args:
        root: The data directory.
        offline: Never touch the network.

    Raises:
        InputError: The files are absent or damaged and cannot be fetched.
    """
    npz = root / "cifar10.npz"
    if not npz.exists():
        return _from_torchvision(root, offline=offline)
    data = read_npz(npz, name="cifar10")
    if data.shape != SHAPE or data.num_classes != 10:
        raise InputError(
            f"{npz} has {data.num_classes} classes of {list(data.shape)} images, CIFAR-10 has 10 of {list(SHAPE)}; "
            f"replace it, or load it as npz:{npz}"
        )
    return data


def _from_torchvision(root: Path, *, offline: bool) -> DataSet:
    # Imported here because torchvision takes seconds to load and only this path needs it.
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import check_integrity

    # With a sound archive in place "download" only unpacks it, which is fine offline too.
    archive = str(root / CIFAR10.filename)
    download = not offline or check_integrity(archive, CIFAR10.tgz_md5)
    try:
        with warnings.catch_warnings():
            # The published files were pickled by an old numpy, which numpy 2.4.0 to 2.4.4 remark upon.
            warnings.filterwarnings("ignore", message=r"dtype\(\): align")
            train = CIFAR10(str(root), train=True, download=download)
            test = CIFAR10(str(root), train=False, download=False)
    except FAILURES as error:
        if isinstance(error, HTTPError):
            error.close()  # it holds the connection
        raise InputError(_advice(root, error, offline=offline)) from error
    return DataSet(
        name="cifar10",
        train_x=_images(train.data),
        train_y=torch.tensor(train.targets),
        test_x=_images(test.data),
        test_y=torch.tensor(test.targets),
        classes=tuple(train.classes),
        flip=True,
    )


def _advice(root: Path, error: BaseException, *, offline: bool) -> str:
    problem = "is absent or damaged and downloads are off" if offline else f"cannot be downloaded ({reason(error)})"
    return (
        f"CIFAR-10 in {root.absolute()} {problem}; put cifar-10-python.tar.gz there, unpacked as cifar-10-batches-py, "
        "or cifar10.npz, or name the directory that has one of them with --data-dir or ACCUPOISON_DATA"
    )


def _images(x: "np.ndarray[Any, Any]") -> Tensor:
    """Return [N, H, W, C] as contiguous [N, C, H, W]."""
    return torch.from_numpy(x).permute(0, 3, 1, 2).contiguous()
