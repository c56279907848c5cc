from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from accupoison.data import DataSet, load
from accupoison.data.sources import DATA
from accupoison.errors import InputError
from tests.messages import refuses, says


def tiny() -> DataSet:
    """Return 5 train and 3 test images whose pixels all equal their id times 10."""
    x = (torch.arange(8, dtype=torch.uint8) * 10).view(8, 1, 1, 1).expand(8, 3, 4, 6).contiguous()
    y = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
    return DataSet("tiny", x[:5], y[:5], x[5:], y[5:], ("a", "b", "c"), flip=True)


@pytest.fixture(scope="module")
def digits() -> DataSet:
    return load("digits")


def test_sizes() -> None:
    data = tiny()
    assert (data.num_classes, data.num_train, data.size, data.shape) == (3, 5, 8, (3, 4, 6))
    assert data.device == torch.device("cpu")


@pytest.mark.parametrize("ids", [[0, 4, 2, 2], [7, 5], [6, 0, 5, 4, 0], []])
def test_ids_count_train_then_test(ids: list[int]) -> None:
    data, index = tiny(), torch.tensor(ids, dtype=torch.int64)
    images = data.inputs(index)
    assert images.dtype == torch.uint8
    assert images.shape == (len(ids), 3, 4, 6)
    assert images[:, 0, 0, 0].tolist() == [10 * i for i in ids]
    assert data.labels(index).tolist() == [i % 3 for i in ids]


@pytest.mark.parametrize("ids", [[-1], [8], [0, 8], [-3, 7]])
def test_an_id_outside_the_data_set_is_never_another_image(ids: list[int]) -> None:
    with refuses("ids tiny run 0 7", IndexError):
        tiny().inputs(torch.tensor(ids))


def test_batch_is_on_the_unit_interval() -> None:
    batch = tiny().batch(torch.tensor([7, 1]))
    assert batch.x.dtype == torch.float32
    assert torch.equal(batch.x[:, 0, 0, 0], torch.tensor([70, 10]) / 255)
    assert batch.y.tolist() == [1, 1]
    assert batch.ids.tolist() == [7, 1]


def test_to_moves_every_tensor() -> None:
    moved = tiny().to("meta")
    assert {t.device.type for t in (moved.train_x, moved.train_y, moved.test_x, moved.test_y)} == {"meta"}
    assert moved.classes == ("a", "b", "c")


def test_channel_stats_equal_the_plain_formula() -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randint(0, 256, (9, 3, 5, 5), generator=generator, dtype=torch.uint8)
    y = torch.zeros(9, dtype=torch.int64)
    data, ids = DataSet("x", x[:6], y[:6], x[6:], y[6:], ("a",), flip=True), torch.tensor([1, 3, 8])
    mean, std = data.channel_stats(ids)
    pixels = x[ids].double() / 255
    assert mean == pytest.approx(pixels.mean((0, 2, 3)).tolist(), abs=1e-12)
    assert std == pytest.approx(pixels.std((0, 2, 3), correction=0).tolist(), abs=1e-12)
    with refuses("at least one sample", ValueError):
        data.channel_stats(torch.empty(0, dtype=torch.int64))


def test_fingerprint_depends_on_content_alone() -> None:
    data = tiny()
    assert len(data.fingerprint()) == 64
    same = DataSet("renamed", data.train_x, data.train_y, data.test_x, data.test_y, data.classes, flip=False)
    assert same.fingerprint() == data.fingerprint()
    for part in ("train_x", "train_y", "test_x", "test_y"):
        arrays = {name: getattr(data, name).clone() for name in ("train_x", "train_y", "test_x", "test_y")}
        arrays[part].view(-1)[-1] += 1
        assert DataSet("tiny", **arrays, classes=data.classes, flip=True).fingerprint() != data.fingerprint()
    named = DataSet("tiny", data.train_x, data.train_y, data.test_x, data.test_y, ("a", "b", "d"), flip=True)
    assert named.fingerprint() != data.fingerprint()


def test_digits_are_the_scans_scaled_up(digits: DataSet) -> None:
    assert (len(digits.train_x), len(digits.test_x), digits.shape) == (1547, 250, (3, 16, 16))
    assert digits.classes == tuple("0123456789")
    assert digits.flip is False
    assert digits.stats is None
    x, y = torch.cat([digits.train_x, digits.test_x]), torch.cat([digits.train_y, digits.test_y])
    small = x[:, 0, ::2, ::2]
    assert torch.equal(x, small.repeat_interleave(2, 1).repeat_interleave(2, 2)[:, None].expand(-1, 3, -1, -1))
    scans = load_digits()
    expected = sorted((label, tuple(image)) for label, image in zip(scans.target, scans.data, strict=True))
    got = sorted(
        (label, tuple(np.rint(image.flatten() * (16 / 255))))
        for label, image in zip(y.tolist(), small.numpy(), strict=True)
    )
    assert got == expected
    assert int(x.max()) == 255


def test_digits_split_is_mixed_and_fixed(digits: DataSet) -> None:
    assert torch.bincount(digits.test_y, minlength=10).min() >= 10
    assert load("digits").fingerprint() == digits.fingerprint()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cifar1O", "data 'cifar1O' cifar10"),
        ("", "choose from cifar10, cifar100, digits"),
        ("digits:8", "nothing colon use digits"),
        ("npz:", "write npz:PATH"),
        ("npz", "write npz:PATH"),
    ],
)
def test_unknown_names(name: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        load(name)
    says(caught.value, words)


@pytest.mark.parametrize("name", ["digits", "cifar10"])
def test_named_data_directory_must_exist(name: str, tmp_path: Path) -> None:
    with refuses("absent exist data.dir"):
        load(name, data_dir=tmp_path / "absent")


def test_directory_of_the_environment_must_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCUPOISON_DATA", str(tmp_path / "absent"))
    with refuses("absent not exist ACCUPOISON_DATA"):
        load("cifar10", offline=True)
    assert load("digits").num_train == 1547  # needs no directory


@dataclass
class EntryPoint:
    """Stands in for a data set that an installed package declares."""

    loader: Callable[[Path | None], object]
    name: str = "mine"

    def load(self) -> Callable[[Path | None], object]:
        return self.loader


def offer(monkeypatch: pytest.MonkeyPatch, loader: Callable[[Path | None], object]) -> None:
    """Let an installed package offer a data set called mine."""
    monkeypatch.setattr("accupoison.registry.entry_points", lambda *, group: [EntryPoint(loader)])
    for name, value in {"_searched": False, "_aliases": dict(DATA._aliases), "_offers": {}}.items():
        monkeypatch.setattr(DATA, name, value)


def failing(data_dir: Path | None) -> object:
    raise RuntimeError("the server is away")


@pytest.mark.parametrize(
    ("loader", "words"),
    [
        (lambda _: replace(tiny(), train_x=tiny().train_x.float()), "images must be uint8"),
        (lambda _: replace(tiny(), train_y=tiny().train_y.int()), "labels must be int64"),
        (lambda _: replace(tiny(), train_y=tiny().train_y + 50), "outside 0"),
        (lambda _: replace(tiny(), train_x=tiny().train_x[:, :1]), "images must be uint8"),
        (lambda _: 5, "int, not a DataSet"),
        (failing, "failed server away"),
    ],
)
def test_data_of_other_packages_are_checked(
    loader: Callable[[Path | None], object], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(monkeypatch, loader)
    with refuses(words):
        load("mine")


def test_data_of_other_packages_get_the_directory_and_their_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def loader(data_dir: Path | None) -> DataSet:
        asked.append(data_dir)
        return tiny()

    offer(monkeypatch, loader)
    assert load("mine", data_dir=tmp_path).name == "mine"
    assert asked == [tmp_path]
    with refuses("nothing colon use mine"):
        load("mine:more")
    with refuses("data 'other'"):
        load("other")
