"""Image sets from directories of image files."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from accupoison.data.dataset import DataSet
from accupoison.errors import InputError
from accupoison.records.files import holds, reading, reason

if TYPE_CHECKING:  # only directories of images need it
    from PIL import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "WEBP", "TIFF")
"""What such files may hold, whatever their suffix; Pillow knows others, some of which start programs."""
LITTER = ("thumbs.db", "desktop.ini")
"""What file managers leave behind, beside hidden files."""
TEST = ("test", "val")
"""What the directory of the test half may be called."""
TINY_IMAGENET = "tiny-imagenet-200"


def read_image_folder(path: Path, *, name: str) -> DataSet:
    """Read ``PATH/train/CLASS/*`` and ``PATH/test/CLASS/*`` (or ``val``); classes are numbered by name.

    Colours are read with 8 bits a channel, greys of 16 bits are scaled to 8; what shines through is left out.

    Args:
        path: The directory.
        name: The name the data set gets.

    Raises:
        InputError: A directory is missing, a class lacks images in one half, there is something that is no image, an
            image cannot be read, or sizes differ.
    """
    train = path / "train"
    test = next((path / half for half in TEST if holds((path / half).is_dir)), None)
    if not holds(train.is_dir) or test is None:
        raise InputError(f"{path} has no directories train and test; put images into train/CLASS and test/CLASS")
    classes = [entry.name for entry in _entries(train, directories=True)]
    if not classes:
        raise InputError(f"{train} has no directories of classes; put images into train/CLASS")
    for entry in _entries(test, directories=True):
        if entry.name not in classes:
            raise InputError(f"{entry} is a class that {train} lacks; give it images there, or remove it")
    halves = [{file: label for label, kind in enumerate(classes) for file in _files(h / kind)} for h in (train, test)]
    data = _dataset(path, name, halves, classes)
    unread = path / TEST[1]
    both = test != unread and holds(unread.is_dir)
    return replace(data, note=f"{unread} is not read, as {test} is." if both else "")


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
        if not labels:
            raise ValueError("no labels")
    except (OSError, ValueError) as error:
        raise InputError(
            f"Tiny-ImageNet in {root.absolute()} is absent or damaged; unpack tiny-imagenet-200.zip there, or name the "
            "directory that has it with <data.dir> or ACCUPOISON_DATA"
        ) from error
    train = {file: label for label, kind in enumerate(classes) for file in _files(path / "train" / kind / "images")}
    test = {path / "val" / "images" / file: label for file, label in labels.items()}
    return _dataset(path, "tiny-imagenet", (train, test), classes)


def _dataset(path: Path, name: str, halves: Sequence[Mapping[Path, int]], classes: Sequence[str]) -> DataSet:
    """Return the train and the test half, which are the labels of files."""
    train_x, test_x = (_read(list(half)) for half in halves)
    train_y, test_y = (torch.tensor(list(half.values())) for half in halves)
    if train_x.shape[1:] != test_x.shape[1:]:
        raise InputError(
            f"{path} has train images of {list(train_x.shape[2:])} pixels and test images of {list(test_x.shape[2:])}; "
            "resize them to one size"
        )
    return DataSet(name, train_x, train_y, test_x, test_y, tuple(classes), flip=True)


def _entries(folder: Path, *, directories: bool) -> list[Path]:
    """Return what is in a directory, by name; what is of the other kind would be left out, and is refused."""
    with reading(folder):
        entries = sorted(e for e in folder.iterdir() if e.name[0] != "." and e.name.lower() not in LITTER)
    for entry in entries:
        if holds(entry.is_dir) and not directories:
            raise InputError(f"{entry} is a directory among images, and would not be read; move it elsewhere")
        if not holds(entry.is_dir) and directories:
            raise InputError(f"{entry} is beside the directories of classes, and would not be read; move it elsewhere")
    return entries


def _files(folder: Path) -> list[Path]:
    entries = _entries(folder, directories=False) if holds(folder.is_dir) else []
    if not entries:
        raise InputError(f"{folder} has no images ({', '.join(SUFFIXES)}); every class needs some")
    for file in entries:
        if file.suffix.lower() not in SUFFIXES:
            raise InputError(f"{file} is none of {', '.join(SUFFIXES)}, and would not be read; move it or convert it")
    return entries


def _read(files: Sequence[Path]) -> Tensor:
    """Return the images as uint8 [N, 3, H, W]."""
    out: Tensor | None = None
    for row, file in enumerate(files):
        with _opened(file) as image:
            size = [image.height, image.width]
            if out is None:
                out = _room(len(files), size)
            if size != list(out.shape[2:]):
                raise InputError(
                    f"{file} has {size} pixels and {files[0]} has {list(out.shape[2:])}; resize them to one size"
                )
            out[row] = torch.from_numpy(_pixels(image)).permute(2, 0, 1)
    assert out is not None
    return out


def _room(count: int, size: Sequence[int]) -> Tensor:
    try:
        return torch.empty((count, 3, *size), dtype=torch.uint8)
    except RuntimeError as error:  # torch's word for too little memory
        raise InputError(f"{count} images of {list(size)} pixels do not fit into memory; make them smaller") from error


@contextmanager
def _opened(file: Path) -> Iterator["Image.Image"]:
    """Open an image whose checksums hold, where its format has some; whatever goes wrong inside is about this file."""
    from PIL import Image, UnidentifiedImageError  # here, because only directories of images need it

    try:
        if not file.is_file():
            raise FileNotFoundError("there is no such file")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=FORMATS) as image:
                image.verify()  # the checksums of a PNG's pixels; reading them does not look at these
            with Image.open(file, formats=FORMATS) as image:
                yield image
    except InputError:
        raise
    except Exception as error:  # Pillow raises almost anything on damaged files
        detail = "" if isinstance(error, UnidentifiedImageError) else f" ({reason(error)})"
        raise InputError(f"{file} is not a readable image{detail}; replace or remove it") from error


def _pixels(image: "Image.Image") -> NDArray[np.uint8]:
    """Return an image as uint8 [H, W, 3].

    Raises:
        ValueError: It says more, or something else, than 8 bits a channel can.
    """
    if image.format == "TIFF" and getattr(image, "n_frames", 1) > 1:
        raise ValueError("it has several pages")
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        if not _sixteen(image):
            raise ValueError(f"its grey values are of mode {image.mode}, whose range is unknown; save 8 or 16 bits")
        levels = np.rint(np.asarray(image).astype(np.float64) / 257).astype(np.uint8)  # 65,535 becomes 255
        return np.repeat(levels[:, :, None], 3, axis=2)
    return np.array(image.convert("RGB"))


def _sixteen(image: "Image.Image") -> bool:
    """Return whether a grey image has 0 for black and 65,535 for white."""
    if image.format == "TIFF":
        bits, black_is_zero = image.tag_v2.get(258), image.tag_v2.get(262)  # type: ignore[attr-defined]
        return image.mode.startswith("I;16") and bits == (16,) and black_is_zero == 1
    return image.mode != "F" and image.format in ("PNG", "PPM")
