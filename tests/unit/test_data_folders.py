"""Data sets that lie on disk as their publishers ship them, tiny."""

import gzip
import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from scipy.io import savemat
from torchvision import datasets

from accupoison.data import DataSet, load, splits
from accupoison.data.torchvision_sets import PUBLISHED
from tests.messages import refuses

RNG = np.random.default_rng(0)
Made = tuple["np.ndarray[Any, Any]", "np.ndarray[Any, Any]"]
"""Images uint8 [10, 3, H, W], of which the last four are the test half, and labels."""


def made(side: int, classes: int) -> Made:
    return RNG.integers(0, 256, (10, 3, side, side), dtype=np.uint8), np.arange(10) * 7 % classes


def mnist(root: Path, patch: pytest.MonkeyPatch, name: str = "MNIST") -> Made:
    x, y = made(28, 10)
    x[:] = x[:, :1]
    folder = root / name / "raw"
    folder.mkdir(parents=True)
    for half, rows in (("train", slice(0, 6)), ("t10k", slice(6, 10))):
        grey, labels = x[rows, 0], y[rows].astype(np.uint8)
        sizes = b"".join(int(n).to_bytes(4, "big") for n in grey.shape)
        (folder / f"{half}-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03" + sizes + grey.tobytes())
        (folder / f"{half}-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01" + sizes[:4] + labels.tobytes())
    return x, y


def fashion(root: Path, patch: pytest.MonkeyPatch) -> Made:
    return mnist(root, patch, "FashionMNIST")


def svhn(root: Path, patch: pytest.MonkeyPatch) -> Made:
    x, y = made(32, 10)
    split = {}
    for half, rows in (("train", slice(0, 6)), ("test", slice(6, 10))):
        name = f"{half}_32x32.mat"
        savemat(root / name, {"X": x[rows].transpose(2, 3, 1, 0), "y": np.where(y[rows] == 0, 10, y[rows])[:, None]})
        split[half] = ["", name, hashlib.md5((root / name).read_bytes()).hexdigest()]
    patch.setattr(datasets.SVHN, "split_list", split)
    return x, y


def stl10(root: Path, patch: pytest.MonkeyPatch) -> Made:
    x, y = made(96, 10)
    folder = root / "stl10_binary"
    folder.mkdir()
    (folder / "class_names.txt").write_text("\n".join(f"class{i}" for i in range(10)))
    for half, rows in (("train", slice(0, 6)), ("test", slice(6, 10))):
        x[rows].transpose(0, 1, 3, 2).tofile(folder / f"{half}_X.bin")
        (y[rows] + 1).astype(np.uint8).tofile(folder / f"{half}_y.bin")
        lists = [[f.name, hashlib.md5(f.read_bytes()).hexdigest()] for f in sorted(folder.glob(f"{half}_*.bin"))]
        absent = [["unlabeled_X.bin", "5242ba1fed5e4be9e1e742405eb56ca4"]] if half == "train" else []
        patch.setattr(datasets.STL10, f"{half}_list", lists + absent)
    return x, y


def cifar100(root: Path, patch: pytest.MonkeyPatch) -> Made:
    x, y = made(32, 100)
    folder = root / "cifar-100-python"
    folder.mkdir()
    meta = {"fine_label_names": [f"class{i}" for i in range(100)]}
    parts: dict[str, Any] = {
        half: {"data": x[rows].reshape(-1, 3072), "fine_labels": y[rows].tolist()}
        for half, rows in (("train", slice(0, 6)), ("test", slice(6, 10)))
    }
    for name, content in {**parts, "meta": meta}.items():
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    md5 = {name: hashlib.md5((folder / name).read_bytes()).hexdigest() for name in ("train", "test", "meta")}
    patch.setattr(datasets.CIFAR100, "train_list", [["train", md5["train"]]])
    patch.setattr(datasets.CIFAR100, "test_list", [["test", md5["test"]]])
    patch.setattr(datasets.CIFAR100, "meta", {"filename": "meta", "key": "fine_label_names", "md5": md5["meta"]})
    return x, y


WRITERS: dict[str, Callable[[Path, pytest.MonkeyPatch], Made]] = {
    "cifar100": cifar100,
    "fashion-mnist": fashion,
    "mnist": mnist,
    "stl10": stl10,
    "svhn": svhn,
}


@pytest.mark.parametrize("name", WRITERS)
def test_published_files_become_the_same_tensors(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = WRITERS[name](tmp_path, monkeypatch)
    data = load(name, data_dir=tmp_path, offline=True)
    np.testing.assert_array_equal(data.train_x.numpy(), x[:6])
    np.testing.assert_array_equal(data.test_x.numpy(), x[6:])
    assert data.train_y.tolist() + data.test_y.tolist() == y.tolist()
    known = PUBLISHED[name]
    assert (data.name, data.shape, data.num_classes) == (name, known.shape, known.num_classes)
    assert (data.flip, data.stats) == (known.flip, known.stats)


@pytest.mark.parametrize("name", PUBLISHED)
def test_an_empty_directory_says_what_to_place_there(name: str, tmp_path: Path) -> None:
    with refuses("absent damaged .npz"):
        load(name, data_dir=tmp_path, offline=True)


def test_an_npz_of_that_name_comes_first(tmp_path: Path) -> None:
    x = RNG.integers(0, 256, (6, 28, 28, 1), dtype=np.uint8)
    labels = [str(i) for i in range(10)]
    np.savez(tmp_path / "mnist.npz", train_x=x, train_y=np.arange(6), test_x=x, test_y=np.arange(6), classes=labels)
    data = load("mnist", data_dir=tmp_path)
    assert (data.shape, data.num_classes, data.flip) == ((3, 28, 28), 10, False)


def write_image(path: Path, side: int = 8) -> "np.ndarray[Any, Any]":
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = RNG.integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


@pytest.mark.parametrize("half", ["test", "val"])
def test_a_folder_of_images(half: str, tmp_path: Path) -> None:
    cat, dog = write_image(tmp_path / "train/cat/1.png"), write_image(tmp_path / "train/dog/1.png")
    for kind in ("cat", "dog"):
        write_image(tmp_path / half / kind / "2.png")
    data = load(f"folder:{tmp_path}")
    np.testing.assert_array_equal(data.train_x.permute(0, 2, 3, 1).numpy(), [cat, dog])
    assert (data.classes, data.train_y.tolist(), data.test_y.tolist()) == (("cat", "dog"), [0, 1], [0, 1])


LEVELS = np.array([[0, 128, 129, 6000], [50000, 65405, 65407, 65535]], np.uint16)
"""Greys of 16 bits; 257 of them are one of 8."""


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_sixteen_bits_are_scaled_to_eight(suffix: str, tmp_path: Path) -> None:
    for place in ("train/a/1", "test/a/1"):
        (tmp_path / place).parent.mkdir(parents=True)
        if suffix == "pgm":
            (tmp_path / f"{place}.pgm").write_bytes(b"P5\n4 2\n65535\n" + LEVELS.astype(">u2").tobytes())
        else:
            Image.fromarray(LEVELS).save(tmp_path / f"{place}.{suffix}")
    data = load(f"folder:{tmp_path}")
    for channel in data.train_x[0]:
        assert channel.tolist() == [[0, 0, 1, 23], [195, 254, 255, 255]]


@pytest.mark.filterwarnings("error")
def test_other_kinds_of_images_are_read_as_colours(tmp_path: Path) -> None:
    red = Image.new("RGB", (8, 8), (255, 0, 0))
    made = {"a.png": red.convert("P"), "b.png": red.convert("RGBA"), "c.tif": red.convert("CMYK"), "d.png": red}
    made["e.png"] = Image.new("1", (8, 8), 1)
    made["e.png"].info["transparency"] = 1
    made["a.png"].info["transparency"] = bytes(256)
    for place in ("train/a", "test/a"):
        (tmp_path / place).mkdir(parents=True)
        for name, image in made.items():
            image.save(tmp_path / place / name)
        for name in (".DS_Store", "Thumbs.db"):
            (tmp_path / place / name).write_bytes(b"litter")
    (tmp_path / "val").mkdir()
    data = load(f"folder:{tmp_path}")
    assert data.train_x[:, :, 0, 0].tolist() == [[255, 0, 0]] * 4 + [[255, 255, 255]]
    assert data.note == f"{tmp_path}/val is not read, as {tmp_path}/test is."


def tiny_imagenet(root: Path) -> DataSet:
    folder = root / "tiny-imagenet-200"
    for kind in ("n02", "n01"):
        write_image(folder / "train" / kind / "images" / f"{kind}_0.JPEG", side=64)
    write_image(folder / "val" / "images" / "val_0.JPEG", side=64)
    (folder / "wnids.txt").write_text("n02\nn01\n")
    (folder / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn02\t0\t0\t62\t62\n")
    return load("tiny-imagenet", data_dir=root)


def test_tiny_imagenet_as_published(tmp_path: Path) -> None:
    data = tiny_imagenet(tmp_path)
    assert (data.classes, data.shape) == (("n01", "n02"), (3, 64, 64))
    assert (data.train_y.tolist(), data.test_y.tolist()) == ([0, 1], [1])


@pytest.mark.parametrize("count", [2, 7, 12])
def test_the_test_half_of_tiny_imagenet_is_the_published_validation_split(count: int, tmp_path: Path) -> None:
    folder, kinds = tmp_path / "tiny-imagenet-200", [f"n{i:02}" for i in range(count)]
    places = [folder / "train" / kind / "images" / f"{kind}_{i}.JPEG" for kind in kinds for i in (0, 1)]
    for path in places:
        write_image(path, side=64)
    lines, val = [], list[torch.Tensor]()
    for i, kind in enumerate(reversed(kinds)):
        path = folder / "val" / "images" / f"val_{i}.JPEG"
        write_image(path, side=64)
        lines.append(f"val_{i}.JPEG\t{kind}\t0\t0\t62\t62")
        val.append(torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1))
        write_image(folder / "test" / "images" / f"test_{i}.JPEG", side=64)  # without labels, and not read
    (folder / "wnids.txt").write_text("\n".join(kinds))
    (folder / "val" / "val_annotations.txt").write_text("\n".join(lines))
    data = load("tiny-imagenet", data_dir=tmp_path)
    assert (data.num_classes, data.num_train) == (count, 2 * count)
    assert torch.equal(data.test_x, torch.stack(val))
    assert data.test_y.tolist() == list(reversed(range(count)))
    assert data.train_y.tolist() == [label for label in range(count) for _ in (0, 1)]
    parts = splits.split(data, sizes=splits.SplitSizes(burnin=2, stream=1, trigger=0, val=0, trusted=0, monitor=1))
    assert torch.equal(data.inputs(parts.test), torch.stack(val))


def spoil_size(root: Path) -> None:
    write_image(root / "train/dog/9.png", side=9)


def spoil_image(root: Path) -> None:
    (root / "train/dog/1.png").write_bytes(b"not an image")


def spoil_class(root: Path) -> None:
    (root / "test/dog/2.png").unlink()


def spoil_test_class(root: Path) -> None:
    write_image(root / "test/zebra/1.png")


def spoil_suffix(root: Path) -> None:
    (root / "train/dog/notes.txt").write_text("good dogs")


def spoil_nesting(root: Path) -> None:
    write_image(root / "train/dog/puppies/1.png")


def spoil_place(root: Path) -> None:
    write_image(root / "train/1.png")


def spoil_end(root: Path) -> None:
    path = root / "train/dog/1.png"
    path.write_bytes(path.read_bytes()[:-60])


def spoil_comment(root: Path) -> None:
    info = PngInfo()
    info.add_text("comment", "x" * (2 << 20), zip=True)
    Image.new("RGB", (8, 8)).save(root / "train/dog/1.png", pnginfo=info)


def spoil_header(root: Path) -> None:
    (root / "train/dog/1.png").write_bytes(b"P6\n8 eight\n255\n" + bytes(192))


def spoil_pages(root: Path) -> None:
    pages = [Image.new("L", (8, 8)) for _ in range(3)]
    pages[0].save(root / "train/dog/1.tif", save_all=True, append_images=pages[1:])


def spoil_range(root: Path) -> None:
    Image.fromarray(np.ones((8, 8), np.float32)).save(root / "train/dog/1.tif")


def spoil_pixels(root: Path) -> None:
    Image.new("1", (12000, 12000)).save(root / "train/cat/1.png")  # a few kilobytes


def spoil_half(root: Path) -> None:
    (root / "test").rename(root / "other")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_size, "dog/9.png [9, 9] cat/1.png [8, 8]"),
        (spoil_image, "dog/1.png readable"),
        (spoil_class, "test/dog images"),
        (spoil_test_class, "test/zebra lacks"),
        (spoil_suffix, "dog/notes.txt .png move"),
        (spoil_nesting, "dog/puppies directory move"),
        (spoil_place, "train/1.png beside move"),
        (spoil_end, "dog/1.png readable"),
        (spoil_comment, "dog/1.png readable Decompressed data too large"),
        (spoil_header, "dog/1.png readable"),
        (spoil_pages, "dog/1.tif readable several pages"),
        (spoil_range, "dog/1.tif readable mode F"),
        (spoil_pixels, "cat/1.png readable Image (144000000 pixels)"),
        (spoil_half, "no directories train train/CLASS test/CLASS"),
    ],
)
def test_a_folder_that_cannot_be_used(spoil: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    for half in ("train/cat/1", "train/dog/1", "test/cat/2", "test/dog/2"):
        write_image(tmp_path / f"{half}.png")
    spoil(tmp_path)
    with refuses(message):
        load(f"folder:{tmp_path}")


def test_tiny_imagenet_that_is_absent_or_damaged(tmp_path: Path) -> None:
    with refuses("absent damaged tiny-imagenet-200.zip"):
        load("tiny-imagenet", data_dir=tmp_path)
    tiny_imagenet(tmp_path)
    (tmp_path / "tiny-imagenet-200" / "val" / "images" / "val_0.JPEG").unlink()
    with refuses("val_0.JPEG readable"):
        load("tiny-imagenet", data_dir=tmp_path)
    with refuses("names no directory folder:PATH"):
        load("folder:")


def test_packed_files_of_mnist_are_unpacked_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, _ = mnist(tmp_path, monkeypatch)
    resources = []
    for plain in sorted((tmp_path / "MNIST" / "raw").iterdir()):
        packed = gzip.compress(plain.read_bytes(), mtime=0)
        plain.with_name(f"{plain.name}.gz").write_bytes(packed)
        plain.unlink()
        resources.append((f"{plain.name}.gz", hashlib.md5(packed).hexdigest()))
    monkeypatch.setattr(datasets.MNIST, "resources", resources)
    np.testing.assert_array_equal(load("mnist", data_dir=tmp_path, offline=True).train_x.numpy(), x[:6])
    (tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte").unlink()
    (tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"other"))
    with refuses("MNIST absent damaged MNIST/raw"):
        load("mnist", data_dir=tmp_path, offline=True)


@pytest.mark.parametrize("how", ["page", "empty", "short", "swapped", "packed", "fewer labels", "label 10", "side 27"])
@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")])
def test_damaged_files_of_mnist(
    name: str, folder: str, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mnist(tmp_path, monkeypatch, folder)
    images, labels = (tmp_path / folder / "raw" / f"train-{part}-ubyte" for part in ("images-idx3", "labels-idx1"))
    x, y = images.read_bytes(), labels.read_bytes()
    grey = x[:4] + b"".join(n.to_bytes(4, "big") for n in (6, 27, 27)) + x[16 : 16 + 6 * 27 * 27]
    path, content = {
        "page": (images, b"<html>403 Forbidden</html>" * 20),
        "empty": (labels, b""),
        "short": (labels, y[:6]),
        "swapped": (images, y),
        "packed": (images, gzip.compress(x)),
        "fewer labels": (labels, y[:4] + (5).to_bytes(4, "big") + y[8:-1]),
        "label 10": (labels, y[:-1] + b"\x0a"),
        "side 27": (images, grey),
    }[how]
    path.write_bytes(content)
    with refuses(f"absent damaged {folder}/raw"):
        load(name, data_dir=tmp_path, offline=True)


@pytest.mark.parametrize(
    "content",
    [
        {"data": np.zeros((6, 3072), np.uint8)},
        {"data": np.zeros((6, 3072), np.float32), "fine_labels": [0] * 6},
        {"data": np.zeros((6, 100), np.uint8), "fine_labels": [0] * 6},
        {"data": np.zeros((6, 3072), np.uint8), "fine_labels": [0] * 5},
        {"data": np.zeros((6, 3072), np.uint8), "fine_labels": [100] * 6},
        {"data": np.zeros((6, 3072), np.uint8), "fine_labels": [0.5] * 6},
        {"data": None, "fine_labels": "labels"},
        [1, 2],
    ],
)
def test_pickles_of_cifar_that_hold_something_else(
    content: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cifar100(tmp_path, monkeypatch)
    path = tmp_path / "cifar-100-python" / "train"
    path.write_bytes(pickle.dumps(content, protocol=2))
    monkeypatch.setattr(datasets.CIFAR100, "train_list", [["train", hashlib.md5(path.read_bytes()).hexdigest()]])
    with refuses("CIFAR-100 absent damaged"):
        load("cifar100", data_dir=tmp_path, offline=True)


def test_names_of_stl10_that_are_not_ten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stl10(tmp_path, monkeypatch)
    (tmp_path / "stl10_binary" / "class_names.txt").write_bytes(b"a\nb\n")  # no checksum of it is known
    with refuses("STL-10 absent damaged"):
        load("stl10", data_dir=tmp_path, offline=True)
