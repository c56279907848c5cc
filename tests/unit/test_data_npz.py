import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from accupoison.data import load
from accupoison.errors import InputError

Arrays = dict[str, Any]


def arrays(channels: int = 3) -> Arrays:
    rng = np.random.default_rng(0)
    return {
        "train_x": rng.integers(0, 256, (6, 4, 5, channels), dtype=np.uint8),
        "train_y": np.array([0, 1, 2, 0, 1, 2]),
        "test_x": rng.integers(0, 256, (2, 4, 5, channels), dtype=np.uint8),
        "test_y": np.array([2, 1]),
    }


def save(path: Path, content: Arrays) -> str:
    np.savez(path, **content)
    return f"npz:{path}"


@pytest.mark.parametrize("label_type", [np.int64, np.uint8, np.int16, np.uint64])
def test_round_trip(tmp_path: Path, label_type: type) -> None:
    content = arrays()
    content["train_y"] = content["train_y"].astype(label_type)
    name = save(tmp_path / "a.npz", content)
    data = load(name)
    assert np.array_equal(data.train_x.permute(0, 2, 3, 1).numpy(), content["train_x"])
    assert np.array_equal(data.test_x.permute(0, 2, 3, 1).numpy(), content["test_x"])
    assert data.train_y.tolist() == [0, 1, 2, 0, 1, 2]
    assert data.test_y.tolist() == [2, 1]
    assert data.train_y.dtype == data.test_y.dtype == torch.int64
    assert (data.name, data.classes, data.flip, data.stats) == (name, ("0", "1", "2"), True, None)
    assert data.train_x.is_contiguous()


def test_grey_becomes_rgb(tmp_path: Path) -> None:
    content = arrays(channels=1)
    data = load(save(tmp_path / "a.npz", content))
    assert data.shape == (3, 4, 5)
    for channel in range(3):
        assert np.array_equal(data.train_x[:, channel].numpy(), content["train_x"][..., 0])


def test_class_names_may_outnumber_the_labels_seen(tmp_path: Path) -> None:
    content = {**arrays(), "classes": np.array(["ant", "bee", "cow", "dog"])}
    assert load(save(tmp_path / "a.npz", content)).classes == ("ant", "bee", "cow", "dog")
    content["classes"] = np.array([])
    assert load(save(tmp_path / "b.npz", content)).classes == ("0", "1", "2")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"train_x": np.zeros((6, 4, 5, 3), np.float32)},
            "train_x in FILE has dtype float32; images must be uint8 [N, H",
        ),
        (
            {"test_x": np.zeros((2, 4, 5, 3), np.int64)},
            "test_x in FILE has dtype int64; images must be uint8 [N, H, W, C]",
        ),
        (
            {"train_x": np.zeros((6, 4, 5), np.uint8)},
            "shape [6, 4, 5]; images must be uint8 [N, H, W, C] with C 1 or 3, and features numbers [N, D]; give",
        ),
        ({"train_x": np.zeros((6, 60), np.uint8)}, "train samples of shape [60] and test samples of shape [4, 5, 3]"),
        ({"train_x": np.zeros((6, 60), np.complex64)}, "train_x in FILE has dtype complex64"),
        ({"train_x": np.full((6, 60), np.nan)}, "train_x in FILE has values that are not finite"),
        ({"train_x": np.zeros((6, 0))}, "shape [6, 0], which is empty; give at least one sample"),
        (
            {"train_x": np.zeros((6, 3, 4, 5), np.uint8)},
            "[6, 3, 4, 5]; images must be uint8 [N, H, W, C] with C 1 or 3, and features numbers [N, D]; move",
        ),
        ({"train_x": np.zeros((6, 4, 5, 4), np.uint8)}, "shape [6, 4, 5, 4]; images must be uint8"),
        ({"train_x": np.zeros((0, 4, 5, 3), np.uint8)}, "which is empty; give at least one image"),
        ({"test_x": np.zeros((2, 0, 5, 3), np.uint8)}, "which is empty; give at least one image"),
        ({"test_x": np.zeros((2, 4, 4, 3), np.uint8)}, "test samples of shape [4, 4, 3]; make them the same"),
        ({"train_y": np.zeros(6)}, "train_y in FILE has dtype float64; labels must be integers [N]"),
        ({"train_y": np.zeros(6, bool)}, "train_y in FILE has dtype bool; labels must be integers [N]"),
        ({"train_y": np.zeros((6, 1), int)}, "train_y in FILE has shape [6, 1]; labels must be integers [N]"),
        (
            {"train_y": np.zeros(5, int)},
            "train_y in FILE has 5 labels for 6 samples in train_x; give one label a sample",
        ),
        ({"test_y": np.array([0, -1])}, "test_y in FILE has the label -1; number the classes from 0"),
        ({"test_y": np.array([0, 10**12])}, "FILE has the label 1000000000000; number the classes from 0 without gaps"),
        ({"test_y": np.array([0, 2**64 - 1], np.uint64)}, "label 18446744073709551615; number the classes"),
        ({"classes": np.array(["a", "b"])}, "FILE has the label 2 but 2 names in classes; labels must be below 2"),
        ({"classes": np.arange(3)}, "classes in FILE is int64 [3]; give an array of strings"),
        ({"classes": np.array([["a", "b", "c"]])}, "classes in FILE is <U1 [1, 3]; give an array of strings"),
        (
            {"classes": np.array(["a", None, "c"], object)},
            "FILE is not a readable .npz file of arrays (classes: an array",
        ),
        (
            {"train_x": np.array([[1], [2, 3]], object)},
            "FILE is not a readable .npz file of arrays (train_x: an array of Python objects)",
        ),
    ],
)
def test_bad_arrays_name_file_key_value_and_fix(tmp_path: Path, change: Arrays, words: str) -> None:
    path = tmp_path / "bad.npz"
    name = save(path, {**arrays(), **change})
    with pytest.raises(InputError) as caught:
        load(name)
    message = str(caught.value)
    assert words.replace("FILE", str(path)) in message
    assert str(path) in message
    assert "\n" not in message


def test_missing_keys(tmp_path: Path) -> None:
    content = arrays()
    del content["test_x"], content["test_y"]
    with pytest.raises(InputError, match=r"a\.npz lacks test_x, test_y \(it has train_x, train_y\); write train_x"):
        load(save(tmp_path / "a.npz", content))


def _good_bytes() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays())
    return buffer.getvalue()


def _npy_bytes() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    return buffer.getvalue()


def _zip_of_text() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for key in ("train_x", "train_y", "test_x", "test_y"):
            archive.writestr(f"{key}.npy", b"not an array")
    return buffer.getvalue()


def _wrong_checksum() -> bytes:
    good = bytearray(_good_bytes())
    good[good.index(b"\x93NUMPY") + 200] ^= 0xFF  # a pixel of train_x, behind its 128-byte header
    return bytes(good)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (lambda: b"", "is not a readable .npz file"),
        (lambda: b"hello, I am a text file", "is not a readable .npz file"),
        (lambda: _good_bytes()[:-40], "is not a readable .npz file"),
        (lambda: _good_bytes()[:300], "is not a readable .npz file"),
        (_npy_bytes, "(it holds a single array); write train_x, train_y, test_x, test_y to one file with numpy.savez"),
        (_zip_of_text, "FILE is not a readable .npz file of arrays (train_x: the magic string is not correct"),
        (
            _wrong_checksum,
            "FILE is not a readable .npz file of arrays (train_x: Bad CRC-32 for file 'train_x.npy')",
        ),
    ],
)
def test_files_that_are_no_npz(tmp_path: Path, content: Callable[[], bytes], words: str) -> None:
    path = tmp_path / "bad.npz"
    path.write_bytes(content())
    with pytest.raises(InputError) as caught:
        load(f"npz:{path}")
    assert words.replace("FILE", str(path)) in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("absent.npz", r"there is no file .*absent\.npz; check the path"),
        (".", "(it is not a regular file)"),
        ("a" * 300, "(File name too long)"),
        ("a\0b", "(embedded null byte)"),
    ],
)
def test_no_such_file(tmp_path: Path, name: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        load(f"npz:{tmp_path / name}")
