import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import ArrayLike

from accupoison.data import load
from accupoison.errors import InputError
from tests.messages import refuses

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
    with refuses("a.npz test_x test_y train_x train_y train_x"):
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
        ("absent.npz", "file absent.npz"),
        (".", "not regular file"),
        ("a" * 300, "(File name too long)"),
        ("a\0b", "(embedded null byte)"),
    ],
)
def test_no_such_file(tmp_path: Path, name: str, words: str) -> None:
    with refuses(words):
        load(f"npz:{tmp_path / name}")


def labelled(path: Path, y: list[int]) -> str:
    return save(path, {"x": np.arange(len(y))[:, None] / len(y), "y": np.array(y)})


@pytest.mark.parametrize(
    ("y", "tested"),
    [
        ([0, 1, 2] * 10, [4, 9, 14, 19, 24, 29]),  # by place, as both halves have all classes
        ([0, 1, 2, 3, 4] * 5, [20, 21, 22, 23, 24]),  # by place, class 4 alone would be tested: the fifth of each
        ([0] * 10 + [1] * 3, [4, 9, 12]),  # the last of a class of fewer than five
        ([3] * 10, [4, 9]),  # one class is enough
    ],
)
def test_both_halves_of_a_file_without_a_division_have_all_classes(
    tmp_path: Path, y: list[int], tested: list[int]
) -> None:
    data = load(labelled(tmp_path / "a.npz", y))
    assert data.test_x.flatten().tolist() == pytest.approx([i / len(y) for i in tested])
    assert sorted(set(data.train_y.tolist())) == sorted(set(data.test_y.tolist())) == sorted(set(y))
    assert data.note == ""


def test_a_class_of_one_sample_cannot_be_divided(tmp_path: Path) -> None:
    with refuses("class 7 train test half"):
        load(labelled(tmp_path / "a.npz", [0] * 9 + [7]))


def test_halves_that_do_not_share_their_classes(tmp_path: Path) -> None:
    content = {**arrays(), "classes": np.array(["ant", "bee", "cow", "dog"])}
    note = "has no test samples of class 'ant', so no accuracy speaks of them."
    assert load(save(tmp_path / "a.npz", content)).note.endswith(note)
    content["test_y"] = np.array([3, 1])
    with refuses("test samples class 'dog' no train"):
        load(save(tmp_path / "b.npz", content))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([-1.7e308, 0, 1.7e308], [0, 0.5, 1]),  # their range is no number
        ([0, 5e-324, 1], [0, 0, 1]),
        ([-5e-324, 0, 5e-324], [0, 0.5, 1]),
        (np.array([-60000, 0, 60000], np.float16), [0, 0.5, 1]),
        (np.array([2**63, 2**63 + 2**61, 2**64 - 1], np.uint64), [0, 0.25, 1]),
    ],
)
def test_features_of_any_size_are_scaled(tmp_path: Path, values: ArrayLike, expected: list[float]) -> None:
    x = np.resize(np.array(values), (6, 1))
    data = load(save(tmp_path / "a.npz", {**arrays(), "train_x": x, "test_x": x[:2]}))
    assert data.train_x.flatten().tolist() == pytest.approx(expected * 2)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([0, 1e-320], "differ single precision"),
        (np.array([0, np.longdouble("1e4000")]), "values beyond 1.8e308"),
        ([0, np.inf], "not finite"),
    ],
)
def test_features_that_would_be_lost(tmp_path: Path, values: ArrayLike, words: str) -> None:
    x = np.resize(np.array(values), (6, 1))
    with refuses(words):
        load(save(tmp_path / "a.npz", {**arrays(), "train_x": x, "test_x": x[:2]}))


def _archive(header: str) -> bytes:
    """Return an archive whose arrays have this header and 64 bytes."""
    text = header.encode() + b" " * (-(len(header) + 11) % 64) + b"\n"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for key in ("x", "y"):
            archive.writestr(f"{key}.npy", b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text + bytes(64))
    return buffer.getvalue()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000, 1000), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (4294967296, 4294967296), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999999999999999,), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (-1,), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (2,), }",  # less than there is
        "{'descr': [('a', 'O')], 'fortran_order': False, 'shape': (8,), }",
        "{'descr': '<f8\\d', 'fortran_order': 1if 1else 0, 'shape': (8L,), }",
        "(" * 5000,
        "[" * 3000 + "]" * 3000,
        "'''",
    ],
)
def test_headers_that_lie(tmp_path: Path, header: str) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(_archive(header))
    with refuses("a.npz readable .npz"):
        load(f"npz:{path}")


def test_a_damaged_name_is_no_missing_array(tmp_path: Path) -> None:
    name = save(tmp_path / "a.npz", {**arrays(), "classes": np.array(["ant", "bee", "cow"])})
    whole = (tmp_path / "a.npz").read_bytes()
    place = whole.rindex(b"classes.npy")
    (tmp_path / "a.npz").write_bytes(whole[:place] + b"C" + whole[place + 1 :])
    with refuses("File name in directory differ"):
        load(name)
