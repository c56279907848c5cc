"""Every data set and every model goes through a burn-in and two poisoned steps."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from accupoison.data.sources import DATA, PATHS
from accupoison.data.torchvision_sets import PUBLISHED
from accupoison.models.factory import MODELS
from accupoison.records.ledger import Ledger
from accupoison.records.recorder import read_metrics
from tests.e2e.conftest import SET, done, refused
from tests.messages import says
from tests.nets import FEATURE_MODELS

PARTS = {"burnin": 60, "stream": 24, "trigger": 8, "val": 12, "trusted": 16, "monitor": 8}
SIZES = [part for name, count in PARTS.items() for part in (SET, f"data.{name}={count}")]
TRAIN = ["--epochs", "1", SET, "train.batch_size=20", SET, "train.last_epochs=0", "--quiet"]
STREAM = [
    "--steps",
    "2",
    "--recovery-steps",
    "0",
    SET,
    "stream.batch_size=8",
    SET,
    "attack.steps=1",
    "--quiet",
    "--json",
]
RNG = np.random.default_rng(0)


def images(folder: Path, name: str) -> None:
    """Write a tiny data set with the layout of a published one, in place of the real one."""
    known = PUBLISHED[name]
    side, channels = known.shape[1], 1 if "mnist" in name else 3

    def half(count: int) -> dict[str, NDArray[np.generic]]:
        y = np.arange(count) % known.num_classes
        return {"x": RNG.integers(0, 256, (count, side, side, channels), np.uint8), "y": y}

    train, test = half(128), half(max(20, known.num_classes))
    arrays = {f"{part}_{key}": value for part, h in (("train", train), ("test", test)) for key, value in h.items()}
    np.savez(folder / f"{name}.npz", **arrays)  # type: ignore[arg-type]


def tiny_imagenet(folder: Path, name: str) -> None:
    from PIL import Image

    root, classes = folder / "tiny-imagenet-200", ("n01", "n02")
    lines = []
    for kind in classes:
        place = root / "train" / kind / "images"
        place.mkdir(parents=True)
        for i in range(64):
            Image.fromarray(RNG.integers(0, 256, (64, 64, 3), np.uint8)).save(place / f"{i}.png")
    (root / "val" / "images").mkdir(parents=True)
    for i in range(10):
        Image.fromarray(RNG.integers(0, 256, (64, 64, 3), np.uint8)).save(root / "val" / "images" / f"{i}.png")
        lines.append(f"{i}.png\t{classes[i % 2]}\t0\t0\t1\t1")
    (root / "wnids.txt").write_text("\n".join(classes))
    (root / "val" / "val_annotations.txt").write_text("\n".join(lines))


def folders(folder: Path, name: str) -> None:
    from PIL import Image

    for half, count in (("train", 64), ("test", 5)):
        for kind in ("cats", "dogs"):
            place = folder / half / kind
            place.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(RNG.integers(0, 256, (20, 24, 3), np.uint8)).save(place / f"{i}.png")


def features(folder: Path, name: str) -> None:
    np.savez(folder / f"{name}.npz", x=RNG.integers(0, 2, (170, 30)), y=np.arange(170) % 3)


def nothing(folder: Path, name: str) -> None: ...


MADE: dict[str, tuple[Callable[[Path, str], None], str]] = {
    **dict.fromkeys(PUBLISHED, (images, "convnet")),
    "tiny-imagenet": (tiny_imagenet, "convnet"),
    "location30": (features, "mlp"),
    "digits": (nothing, "convnet"),
    "npz": (features, "mlp"),
    "folder": (folders, "convnet"),
}


DEEP = ("wrn28-10", "densenet121")
"""Networks that take long; one norm has to do here."""


def carry_out(data: str, model: str, norm: str = "batch") -> None:
    """Make a burn-in and a poisoned stream, and look at what they left."""
    width = "1" if model == "wrn28-10" else "4"  # it is ten times as wide
    network = ["--model", model, "--width", width, "--norm", norm]
    common = ["--data", data, "--data-dir", "data", "--offline", *network, *SIZES]
    done("burnin", *common, *TRAIN)
    result = done("online", *common, *STREAM, "--med", "OURS", "--out", "run")
    summary = json.loads(result.stdout)
    assert summary["status"] == "finished"
    rows = [row for row in read_metrics(Path("run/metrics.jsonl")) if "attack/linf" in row]
    assert len(rows) == 3
    assert all(0.05 < row["attack/linf"] <= 16 / 255 + 1e-6 for row in rows)
    assert all(row["optim/update_norm"] > 0 for row in rows)
    assert all(row["defense/discrepancy_sent"] >= 0 for row in rows)
    ledger = Ledger.load(Path("run/ledger.npz")).rows
    assert len(ledger) == 24
    assert ledger["changed"].mean() > (
        0.1 if model in FEATURE_MODELS else 0.8
    )  # a narrow ReLU net is flat around some vectors, and a deep one after three steps is sure of some images
    assert ledger["used"].all()


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ACCUPOISON_DATA", raising=False)
    (tmp_path / "data").mkdir()
    return tmp_path


def test_every_data_set_is_tried() -> None:
    assert set(MADE) == set(DATA.names())


@pytest.mark.parametrize("name", DATA.names())
def test_every_data_set(empty: Path, name: str) -> None:
    make, model = MADE[name]
    make(empty / "data", "mine" if name in PATHS else name)
    carry_out({"npz": "npz:data/mine.npz", "folder": "folder:data"}.get(name, name), model)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "norm"),
    [(name, norm) for name in MODELS.names() for norm in ("batch", "group") if norm == "batch" or name not in DEEP],
)
def test_every_model(empty: Path, name: str, norm: str) -> None:
    data = "digits"
    if name in FEATURE_MODELS:
        features(empty / "data", "mine")
        data = "npz:data/mine.npz"
    carry_out(data, name, norm)


def test_auxiliary_statistics(empty: Path) -> None:
    carry_out("digits", "convnet", "auxiliary")


def test_features_need_a_model_for_features(empty: Path) -> None:
    features(empty / "data", "mine")
    common = ["--data", "npz:data/mine.npz", "--width", "4", *SIZES]
    says(refused("burnin", *common, *TRAIN), "model mlp")
    text = refused("burnin", "--data", "digits", "--model", "mlp", "--width", "4", *SIZES, *TRAIN)
    says(text, "mlp [B, D]")


def test_a_run_on_features_says_so(empty: Path) -> None:
    features(empty / "data", "mine")
    common = ["--data", "npz:data/mine.npz", "--model", "mlp", "--width", "4", *SIZES]
    done("burnin", *common, *TRAIN)
    result = done("online", *common, *STREAM, "--out", "run")
    assert "perturbs every sample" in json.loads(result.stdout)["threat_model"]
    assert "features, neither cropped nor rounded" in json.loads(result.stdout)["threat_model"]
    assert "no crop, no flip and no rounding" in json.loads(Path("run/env.json").read_text())["note"]
