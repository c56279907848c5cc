"""Damaged files of data: refused in one line, or read as they were. More damages: ``pytest --fuzz 5000``."""

import io
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from accupoison.audit.challenge.safe_pickle import read_pickle
from accupoison.audit.samples import read_predictions
from accupoison.data import load
from accupoison.records.ledger import COLUMNS, ROW, Ledger
from accupoison.runs.replay import load_batch
from tests.damage import outcomes

RNG = np.random.default_rng(0)
SAVES = (np.savez, np.savez_compressed)


def contents(name: str) -> Callable[[], object]:
    return lambda: load(name).fingerprint()


@pytest.mark.parametrize("save", SAVES)
@pytest.mark.parametrize("divided", [True, False])
def test_archives_of_data(tmp_path: Path, save: Callable[..., None], divided: bool, fuzz_rounds: int) -> None:
    path, y = tmp_path / "a.npz", np.arange(20) % 4
    x = RNG.integers(0, 256, (20, 4, 4, 1), dtype=np.uint8) if divided else RNG.normal(size=(20, 3))
    halves = {"train_x": x[:12], "train_y": y[:12], "test_x": x[12:], "test_y": y[12:]}
    save(path, **(halves if divided else {"x": x, "y": y}), classes=np.array(list("abcd")))
    found = outcomes(path, fuzz_rounds, 0, contents(f"npz:{path}"))
    assert not found["other"]
    assert found["refused"] > 0.5 * fuzz_rounds


@pytest.mark.parametrize("save", SAVES)
def test_predictions(tmp_path: Path, save: Callable[..., None], fuzz_rounds: int) -> None:
    path, probs = tmp_path / "a.npz", RNG.dirichlet(np.ones(4), 30)
    arrays = {"probs": probs, "labels": np.arange(30) % 4, "member": np.arange(30) % 2, "ids": np.arange(30)}
    save(path, **arrays, **{f"shadow_{name}": value for name, value in arrays.items()})

    def read() -> object:
        return [s and [a.tobytes() for a in (s.probs, s.labels, s.member, s.ids)] for s in read_predictions(path)]

    found = outcomes(path, fuzz_rounds, 1, read)
    assert not found["other"]
    assert found["refused"] > 0.5 * fuzz_rounds


def test_batches_and_ledgers(tmp_path: Path, fuzz_rounds: int) -> None:
    batch, ledger = tmp_path / "batches" / "000000.npz", tmp_path / "ledger.npz"
    batch.parent.mkdir()
    ids = np.arange(6)
    np.savez(batch, x=RNG.integers(0, 256, (6, 3, 4, 4), dtype=np.uint8), y=ids, ids=ids, clean_ids=ids)
    found = outcomes(
        batch, fuzz_rounds, 2, lambda: {k: v.numpy().tobytes() for k, v in load_batch(tmp_path, 0).items()}
    )
    assert not found["other"]
    made = Ledger()
    made.save(ledger)
    with np.load(ledger) as stored:
        columns = {name: np.zeros(5, ROW[name]) for name in COLUMNS}
        np.savez(ledger, **{**stored, **columns, "branches": np.array(["", "clean"])})
    found += outcomes(
        ledger, fuzz_rounds, 3, lambda: (Ledger.load(ledger).rows.tobytes(), Ledger.load(ledger).branches)
    )
    assert not found["other"]
    assert found["refused"] > 0.5 * 2 * fuzz_rounds


@pytest.mark.parametrize("protocol", [2, 4])
def test_pickles(tmp_path: Path, protocol: int, fuzz_rounds: int) -> None:
    """A pickle has no checksum, so its numbers can change; nothing else is to happen."""
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps({"x": RNG.normal(size=(5, 3)), "y": [1, 2.5, "three", (4, None)]}, protocol))

    def read() -> object:
        read_pickle(path)
        return None

    found = outcomes(path, fuzz_rounds, 4, read)
    assert found["refused"] > 0.3 * fuzz_rounds


def grey16() -> Image.Image:
    return Image.fromarray(RNG.integers(0, 65536, (9, 8)).astype(np.uint16))


def colours() -> Image.Image:
    return Image.fromarray(RNG.integers(0, 256, (9, 8, 3), dtype=np.uint8))


def write_folder(root: Path, suffix: str, image: Image.Image) -> Path:
    buffer = io.BytesIO()
    image.save(buffer, format={".jpg": "JPEG", ".tif": "TIFF"}.get(suffix, suffix[1:].upper()))
    for name in ("train/a/1", "train/b/1", "test/a/2", "test/b/2"):
        path = (root / name).with_suffix(suffix)
        path.parent.mkdir(parents=True)
        path.write_bytes(buffer.getvalue())
    return root / f"train/b/1{suffix}"


@pytest.mark.parametrize(
    "image", [grey16, colours, lambda: colours().convert("P"), lambda: colours().convert("RGBA")], ids=range(4)
)
def test_pngs_have_checksums_and_these_hold(tmp_path: Path, image: Callable[[], Image.Image], fuzz_rounds: int) -> None:
    path = write_folder(tmp_path, ".png", image())
    found = outcomes(path, fuzz_rounds, 5, contents(f"folder:{tmp_path}"))
    assert not found["other"]
    assert found["refused"] > 0.5 * fuzz_rounds


@pytest.mark.parametrize("suffix", [".bmp", ".jpg", ".webp", ".ppm", ".tif"])
def test_images_without_checksums_keep_their_shape(tmp_path: Path, suffix: str, fuzz_rounds: int) -> None:
    """A changed byte of theirs may be another colour, which nobody can tell."""
    path = write_folder(tmp_path, suffix, colours())
    found = outcomes(path, fuzz_rounds, 6, lambda: load(f"folder:{tmp_path}").train_x.shape)
    assert not found["other"]
    assert found["refused"] > 0.1 * fuzz_rounds


@pytest.mark.parametrize("damaged", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
def test_raw_files_of_mnist(tmp_path: Path, damaged: str, fuzz_rounds: int) -> None:
    """They have no checksum: a pixel, or a label among the ten, may change."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for half, count in (("train", 20), ("t10k", 10)):
        x, y = RNG.integers(0, 256, (count, 28, 28), dtype=np.uint8), (np.arange(count) % 10).astype(np.uint8)
        sizes = b"".join(n.to_bytes(4, "big") for n in x.shape)
        (raw / f"{half}-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03" + sizes + x.tobytes())
        (raw / f"{half}-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01" + sizes[:4] + y.tobytes())

    def read() -> object:
        data = load("mnist", data_dir=tmp_path, offline=True)
        data.check()
        return data.train_x.shape, data.test_x.shape

    found = outcomes(raw / damaged, fuzz_rounds, 7, read)
    assert not found["other"]
    assert found["refused"] > 0.1 * fuzz_rounds
