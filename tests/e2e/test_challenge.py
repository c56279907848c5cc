"""``audit challenge``: made, answered and held to the truth; and pickles that would do harm."""

import csv
import json
import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from accupoison.audit.challenge.answer import METRICS
from accupoison.audit.challenge.safe_pickle import read_pickle
from accupoison.audit.roc import clopper_pearson
from accupoison.records.foreign import load_weights
from tests.e2e.conftest import SET, done, refused
from tests.messages import refuses, says

pytestmark = pytest.mark.slow

CELLS = ("resnet34_cifar10", "mobilenetv2_cifar10", "vgg16_cifar10")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a challenge whose labels are random, so that only members can be known; the VGG learns them by heart."""
    folder = tmp_path_factory.mktemp("challenge")
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (140, 2, 2, 3), np.uint8).repeat(16, 1).repeat(16, 2), rng.integers(0, 10, 140)
    y[:10] = y[-10:] = np.arange(10)
    np.savez(folder / "cifar10.npz", train_x=x[:120], train_y=y[:120], test_x=x[120:], test_y=y[120:])
    options = ("--data", "cifar10", "--data-dir", folder, "--width", "8", "--size", "60", "--quiet")
    train = (SET, "train.batch_size=20", SET, "train.lr=0.05")
    make = ("audit", "challenge", "make", folder / "root", *options, *train)
    done(*make, "--epochs", "40", "--networks", "vgg16")
    done(*make, "--epochs", "1", "--networks", "resnet34,mobilenetv2")
    return folder / "root"


def test_what_is_made_is_laid_out_as_the_challenge_is(root: Path) -> None:
    rows: Any = read_pickle(root / "datasets" / "eval" / "cifar10_resnet34.p")
    assert len(rows) == 60
    assert all(x.shape == (3, 32, 32) and 0 <= float(x.min()) <= float(x.max()) <= 1 for x, _, _ in rows)
    assert sum(member for _, _, member in rows) == 30
    tests: Any = read_pickle(root / "datasets" / "test" / "cifar10_resnet34.p")
    assert {len(row) for row in tests} == {2}
    truth = np.load(root / "truth" / "cifar10_resnet34.npy")
    assert (len(truth), int(truth.sum())) == (60, 30)
    assert load_weights(root / "models" / "resnet34_cifar10.pth")["conv1.weight"].shape == (8, 3, 3, 3)


def test_the_answers_are_right_more_often_than_not(root: Path, tmp_path: Path) -> None:
    text = done("audit", "challenge", root, "--out", tmp_path / "a").stdout
    assert "cross-validated" in text
    assert "held to the truth" in text
    result = json.loads((tmp_path / "a" / "result.json").read_text())
    assert set(result) == {"resnet34", "mobilenetv2", "vgg16"}
    for cell in CELLS:
        model, _, dataset = cell.partition("_")
        metrics = result[model][dataset]
        assert set(metrics) == set(METRICS)
        assert all(m["cross_validated_acc"] <= m["max_acc"] <= 1 for m in metrics.values())
        truth = np.load(root / "truth" / f"{dataset}_{model}.npy")
        answers = [np.load(tmp_path / "a" / f"task{task}_{cell}.npy") for task in (1, 2, 3)]
        assert all(answer.dtype == np.bool_ and answer.shape == truth.shape for answer in answers)
        assert np.array_equal(answers[0], answers[1])
        if model == "vgg16":
            assert max(m["cross_validated_acc"] for m in metrics.values()) > 0.65
            assert float((answers[0] == truth).mean()) > 0.6
            check_scored(tmp_path / "a", answers[0] == truth)
            assert float(answers[2][truth].mean()) > float(answers[2][~truth].mean()) + 0.2
        assert (tmp_path / "a" / f"accuracy_{cell}.png").stat().st_size > 1000
    done("audit", "challenge", root, "--out", tmp_path / "b", "--json")
    made = [path for path in (tmp_path / "a").rglob("*") if path.is_file() and "tfevents" not in path.name]
    assert len(made) > 9 * len(CELLS)
    for path in made:
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()


def check_scored(folder: Path, right: NDArray[np.bool_]) -> None:
    """The row of the VGG has the accuracy of its answers, and its AUC is that of the file that report draws."""
    rows = list(csv.DictReader((folder / "scored.csv").read_text().splitlines()))
    (row,) = [row for row in rows if row["model"] == "vgg16"]
    assert len(rows) == len(CELLS)
    low, high = clopper_pearson(int(right.sum()), len(right))
    assert row["accuracy"] == f"{right.mean():.3f} [{low:.3f}, {high:.3f}]"
    assert row["TPR at 10% FPR"] == "withheld"  # 30 non-members are too few to tell
    content = json.loads((folder / "vgg16_cifar10" / "audit.json").read_text())
    auc = next(attack["roc"]["auc"] for attack in content["attacks"] if attack["attack"] == row["metric"])
    assert row["AUC"].startswith(f"{auc:.3f} [")
    assert auc > 0.6
    points = list(csv.DictReader((folder / "vgg16_cifar10" / "roc.csv").read_text().splitlines()))
    assert (points[-1]["fpr"], points[-1]["tpr"]) == ("1", "1")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (np.ones(60), "60 members of 60"),
        (np.zeros(59), "float64 [59] 0 or 1 60"),
        (np.full(60, 2), "int64 [60] 0 or 1"),
        (np.array(["a"] * 60), "<U1 [60] 0 or 1"),
        (b"\x93NUMPY\x01\x00", "cannot be read numpy.save"),
        (pickle.dumps([1]), "cannot be read numpy.save"),
    ],
)
def test_a_truth_that_is_none_is_refused(content: NDArray[Any] | bytes, words: str, root: Path, tmp_path: Path) -> None:
    (tmp_path / "truth").mkdir()
    path = tmp_path / "truth" / "cifar10_vgg16.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content)
    says(refused("audit", "challenge", root, "--truth", tmp_path / "truth", "--out", tmp_path / "out"), words)
    says(refused("audit", "challenge", root, "--truth", tmp_path), "no truth cifar10_resnet34.npy")


def test_a_factory_stands_for_another_implementation(root: Path, tmp_path: Path) -> None:
    says(
        refused("audit", "challenge", _with_weights(root, tmp_path, {"layer.weight": torch.ones(2, 3, 3, 3)})),
        "no resnet34",
    )
    says(refused("audit", "challenge", root, "--network", "resnet34=tests.nets:tiny_net"), "resnet34")
    for option, words in (("resnet34", "NAME="), ("resnet50=a:b", "network 'resnet50'")):
        says(refused("audit", "challenge", root, "--network", option), words)
    net = __import__("tests.nets").nets.tiny_net()
    place = _with_weights(root, tmp_path / "tiny", net.state_dict())
    done("audit", "challenge", place, "--network", "resnet34=tests.nets:tiny_net", "--out", tmp_path / "out")
    assert (tmp_path / "out" / "task1_resnet34_cifar10.npy").exists()


def _with_weights(root: Path, place: Path, weights: dict[str, torch.Tensor]) -> Path:
    for part in ("eval", "test"):
        (place / "datasets" / part).mkdir(parents=True)
        source = root / "datasets" / part / "cifar10_resnet34.p"
        (place / "datasets" / part / source.name).write_bytes(source.read_bytes())
    (place / "models").mkdir()
    torch.save(weights, place / "models" / "resnet34_cifar10.pth")
    return place


class Harm:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_nothing_is_executed(root: Path, tmp_path: Path) -> None:
    place = _with_weights(root, tmp_path / "copy", {"a": torch.ones(1)})
    trap = tmp_path / "trap"
    for content, words in (
        (pickle.dumps([(Harm(trap), 1, 0)]), "posix.mkdir"),
        (pickle.dumps([(torch.nn.Linear(1, 1), 1, 0)]), "torch.nn.modules.linear.Linear"),
        (pickle.dumps(np.array([Harm(trap)], dtype=object)), "posix.mkdir"),
    ):
        (place / "datasets" / "eval" / "cifar10_resnet34.p").write_bytes(content)
        says(refused("audit", "challenge", place), words)
        assert not trap.exists()
    torch.save({"a": Harm(trap)}, tmp_path / "weights.pth")
    with refuses("asks for posix.mkdir"):
        load_weights(tmp_path / "weights.pth")
    storage = b"".join(
        [b"ctorch.storage\n_load_from_bytes\n(", pickle.BINBYTES, len(pickle.dumps(Harm(trap))).to_bytes(4, "little")]
    )
    (tmp_path / "nested.p").write_bytes(storage + pickle.dumps(Harm(trap)) + b"tR.")
    with refuses("cannot be read"):
        read_pickle(tmp_path / "nested.p")
    assert not trap.exists()


def test_numbers_are_not_taken_for_pointers(tmp_path: Path) -> None:
    """A data type of objects that says it is plain bytes: numpy would follow them to wherever they point."""
    content = pickle.dumps(np.array([None]), protocol=2)
    flags = content.index(b"K?t")
    data = content.index(b"]", flags)
    raw = pickle.BINBYTES + (8).to_bytes(4, "little") + b"A" * 8
    (tmp_path / "a.p").write_bytes(content[:flags] + b"K\x00" + content[flags + 2 : data] + raw + b"tb.")
    with refuses("cannot be read"):
        read_pickle(tmp_path / "a.p")


@pytest.mark.parametrize(
    "value",
    [
        [(torch.rand(3, 2, 2), 1, 0), (torch.rand(3, 2, 2), 2, 1)],
        [(np.ones((3, 2, 2), np.float32), np.int64(1), 0)],
        {"a": OrderedDict(b=(1, 2.5, "x", b"y", None, True))},
        torch.arange(6).view(2, 3).t(),
    ],
)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_contents_come_back(value: object, protocol: int, tmp_path: Path) -> None:
    (tmp_path / "a.p").write_bytes(pickle.dumps(value, protocol))
    assert repr(read_pickle(tmp_path / "a.p")) == repr(value)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], r"is not a list of \(image \[3, H, W\], label, member 0 or 1\)"),
        ([(torch.rand(3, 4, 4), 1)], "is not a list of"),
        ([(torch.rand(1, 4, 4), 1, 0)], "is not a list of"),
        ([(torch.rand(3, 4, 4), 1, 7)], "is not a list of"),
        (5, "is not a list of"),
    ],
)
def test_other_contents_are_refused(rows: object, words: str, root: Path, tmp_path: Path) -> None:
    place = _with_weights(root, tmp_path / "copy", {"a": torch.ones(1)})
    (place / "datasets" / "eval" / "cifar10_resnet34.p").write_bytes(pickle.dumps(rows))
    assert __import__("re").search(words, refused("audit", "challenge", place))


def test_what_cannot_be_made_or_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    says(refused("audit", "challenge", "none"), "no cell challenge datasets/eval/DATASET_MODEL.p")
    make = ("audit", "challenge", "make", "root", "--quiet")
    says(refused(*make, "--data", "digits"), "data 'digits' cifar10")
    says(refused(*make, "--networks", "resnet43"), "network 'resnet43' resnet34")
