"""Image sets from directories of image files."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from accupoison.data.dataset import DataSet
from accupoison.errors import InputError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm")
TEST = ("test", "val")
"""What the directory of the test half may be called."""
TINY_IMAGENET = "tiny-imagenet-200"


def read_image_folder(path: Path, *, name: str) -> DataSet:
    """Read ``PATH/train/CLASS/*`` and ``PATH/test/CLASS/*`` (or ``val``); classes are numbered by name.

    Args:
        path: The directory.
        name: The name the data set gets.

    Raises:
        InputError: A directory is missing, a class has no images, an image cannot be read, or sizes differ.
    """
    train = path / "train"
    test = next((path / half for half in TEST if (path / half).is_dir()), None)
    if not train.is_dir() or test is None:
        raise InputError(f"{path} has no directories train and test; put images into train/CLASS and test/CLASS")
    classes = sorted(entry.name for entry in train.iterdir() if entry.is_dir())
    if not classes:
        raise InputError(f"{train} has no directories of classes; put images into train/CLASS")
    halves = []
    for half in (train, test):
        files = [(file, label) for label, kind in enumerate(classes) for file in _files(half / kind)]
        halves += [_read([file for file, _ in files]), torch.tensor([label for _, label in files])]
    return _dataset(path, name, halves, classes)


def read_tiny_imagenet(root: Path) -> DataSet:
    """Read Tiny-ImageNet as published: ``ROOT/tiny-imagenet-200`` with ``train``, ``val`` and ``wnids.txt``.

    Its test half is the published validation split, as its own test labels were never released.

    Raises:
        InputError: The directory is absent or not as published.
    """
    path = root / TINY_IMAGENET
    try:
        classes = sorted((path / "wnids.txt").read_text().split())
        lines = [line.split("\t")[:2] for line in (path / "val" / "val_annotations.txt").read_text().splitlines()]
        labels = {file: classes.index(kind) for file, kind in lines}
    except (OSError, ValueError) as error:
        raise InputError(
            f"Tiny-ImageNet in {root.absolute()} is absent or damaged; unpack tiny-imagenet-200.zip there, or name the "
            "directory that has it with --data-dir or ACCUPOISON_DATA"
        ) from error
    files = [(file, label) for label, kind in enumerate(classes) for file in _files(path / "train" / kind / "images")]
    halves = [_read([file for file, _ in files]), torch.tensor([label for _, label in files])]
    halves += [_read([path / "val" / "images" / file for file in labels]), torch.tensor(list(labels.values()))]
    return _dataset(path, "tiny-imagenet", halves, classes)


def _dataset(path: Path, name: str, halves: Sequence[Tensor], classes: Sequence[str]) -> DataSet:
    train_x, train_y, test_x, test_y = halves
    if train_x.shape[1:] != test_x.shape[1:]:
        raise InputError(
            f"{path} has train images of {list(train_x.shape[2:])} pixels and test images of {list(test_x.shape[2:])}; "
            "resize them to one size"
        )
    return DataSet(name, train_x, train_y, test_x, test_y, tuple(classes), flip=True)


def _files(folder: Path) -> list[Path]:
    found = sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES) if folder.is_dir() else []
    if not found:
        raise InputError(f"{folder} has no images ({', '.join(SUFFIXES)}); every class needs some")
    return found


def _read(files: Sequence[Path]) -> Tensor:
    """Return the images as uint8 [N, 3, H, W]."""
    from PIL import Image, UnidentifiedImageError  # here, because only directories of images need it

    out: Tensor | None = None
    for row, file in enumerate(files):
        try:
            with Image.open(file) as image:
                pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
        except (OSError, UnidentifiedImageError) as error:
            raise InputError(f"{file} is not a readable image; replace or remove it") from error
        if out is None:
            out = torch.empty((len(files), *pixels.shape), dtype=torch.uint8)
        if pixels.shape != out.shape[1:]:
            raise InputError(
                f"{file} has {list(pixels.shape[1:])} pixels and {files[0]} has {list(out.shape[2:])}; "
                "resize them to one size"
            )
        out[row] = pixels
    assert out is not None
    return out
