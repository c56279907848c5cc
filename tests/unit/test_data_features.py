"""Feature vectors: read, scaled, divided and streamed like images, but neither cropped nor rounded."""

from pathlib import Path

import numpy as np
import pytest
import torch

from accupoison.data import SplitSizes, load, make_stream, split
from accupoison.testing import check_data
from tests.messages import refuses

Arrays = dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]]
RNG = np.random.default_rng(0)


def arrays() -> Arrays:
    return {
        "train_x": RNG.normal(size=(12, 5)),
        "train_y": np.arange(12) % 3,
        "test_x": RNG.normal(size=(4, 5)),
        "test_y": np.arange(4) % 3,
    }


def saved(folder: Path, content: Arrays, name: str = "a.npz") -> str:
    np.savez(folder / name, **content)  # type: ignore[arg-type]
    return f"npz:{folder / name}"


def test_features_are_scaled_by_their_least_and_largest_value(tmp_path: Path) -> None:
    content = arrays()
    content["train_x"][:, 2] = content["test_x"][:, 2] = 7.0  # a constant
    data = load(saved(tmp_path, content))
    assert (data.features, data.kind, data.shape, data.flip) == (True, "features", (5,), False)
    both = np.concatenate([content["train_x"], content["test_x"]]).astype(np.float64)
    spread = np.ptp(both, axis=0)
    expected = (both - both.min(0)) / np.where(spread > 0, spread, 1)
    np.testing.assert_allclose(torch.cat([data.train_x, data.test_x]), expected, atol=1e-6)
    assert data.train_x.dtype == torch.float32
    assert float(data.train_x[:, 2].abs().max()) == 0
    check_data(lambda _: load(f"npz:{tmp_path / 'a.npz'}"))


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.uint8, np.bool_])
def test_what_is_in_range_stays_as_it_is(tmp_path: Path, dtype: type) -> None:
    content = arrays() | {"train_x": np.eye(12, 5).astype(dtype), "test_x": np.zeros((4, 5), dtype)}
    data = load(saved(tmp_path, content))
    assert torch.equal(data.train_x, torch.eye(12, 5))
    assert torch.equal(data.batch(torch.tensor([1, 13])).x, torch.eye(12, 5)[[1, 11]])


def test_statistics_are_a_features_own(tmp_path: Path) -> None:
    data = load(saved(tmp_path, arrays()))
    mean, std = data.channel_stats(torch.tensor([0, 3, 14]))
    rows = data.inputs(torch.tensor([0, 3, 14])).double()
    assert mean == pytest.approx(rows.mean(0).tolist())
    assert std == pytest.approx(rows.std(0, correction=0).tolist())


def test_a_file_without_a_division_is_divided_by_place(tmp_path: Path) -> None:
    x = np.arange(24).reshape(12, 2) / 24
    data = load(saved(tmp_path, {"x": x, "y": np.arange(12) % 2}))
    np.testing.assert_allclose(data.test_x, x[[4, 9]], atol=1e-6)
    np.testing.assert_allclose(data.train_x, np.delete(x, [4, 9], axis=0), atol=1e-6)
    assert data.test_y.tolist() == [0, 1]
    images: Arrays = {"x": np.zeros((5, 8, 8, 1), np.uint8), "y": np.arange(5) % 2}
    assert load(saved(tmp_path, images, "b.npz")).shape == (3, 8, 8)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"x": np.zeros((6, 2)), "y": np.zeros(5, int)}, "y 5 labels 6 x"),
        ({"x": np.zeros((4, 2)), "y": np.zeros(4, int)}, "4 samples 5"),
        ({"x": np.zeros((6, 2)), "train_y": np.zeros(6, int)}, "lacks train_x, test_x, test_y"),
    ],
)
def test_files_that_cannot_be_divided(tmp_path: Path, content: Arrays, words: str) -> None:
    with refuses(words):
        load(saved(tmp_path, content))


def test_location30_is_read_from_the_data_directory(tmp_path: Path) -> None:
    with refuses("Location-30 put location30.npz"):
        load("location30", data_dir=tmp_path)
    saved(tmp_path, {"x": np.eye(20, 6, dtype=np.uint8), "y": np.arange(20) % 4}, "location30.npz")
    data = load("location30", data_dir=tmp_path)
    assert (data.name, data.num_classes, data.num_train, data.shape) == ("location30", 4, 16, (6,))


def test_a_shift_needs_images(tmp_path: Path) -> None:
    data = load(saved(tmp_path, arrays()))
    parts = split(data, sizes=SplitSizes(burnin=4, stream=4, trigger=1, val=1, trusted=1, monitor=1))
    assert len(make_stream("iid", data, parts, batch_size=1, length=2, seed=0)[1].x) == 1
    with refuses("npz: features iid"):
        make_stream("shift:fog", data, parts, batch_size=1, length=2, seed=0)
