"""Checkpoints and data that are missing, damaged, foreign or do not fit."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from accupoison.records import checkpoint
from tests.e2e.conftest import CHECKPOINT, ONLINE, SET, done, refused, resaved
from tests.messages import says


class Evil:
    """Leaves a file behind when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, ("executed",))


def damage(kind: str, path: Path) -> None:
    whole = path.read_bytes()
    if kind == "missing":
        path.unlink()
    elif kind == "truncated":
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "flipped":
        payload = checkpoint.load(path, "base-model")
        weights = payload["weights"]["conv1.weight"].numpy().tobytes()
        position = whole.index(weights) + 5
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
    elif kind == "foreign":
        torch.save({"state_dict": {"w": torch.ones(1)}}, path)
    elif kind == "malicious":
        path.write_bytes(pickle.dumps(Evil()))
    elif kind == "malicious zip":
        torch.save({"net": Evil()}, path)
    elif kind == "run state":
        checkpoint.save(path, "run-state", {"a": 1})
    elif kind == "released of another network":
        torch.save({"net": {"module.weight": torch.ones(3)}}, path)
    elif kind == "released without shapes":
        torch.save({"net": {"module.conv1.weight": torch.tensor(1.0), "module.fc.weight": torch.tensor(1.0)}}, path)
    elif kind == "released with parts missing":
        torch.save({"net": {"conv1.weight": torch.ones(4, 3, 3, 3), "fc.weight": torch.ones(10, 32)}}, path)


@pytest.mark.parametrize("which", ["final.pt", "early.pt"])
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "there is no"),
        ("truncated", "not a readable checkpoint"),
        ("flipped", "not a readable checkpoint"),
        ("foreign", "resnet8 width 4 conv1.weight missing (it has w)"),
        ("malicious", "not a readable checkpoint"),
        ("malicious zip", "posix.mkdir"),
        ("run state", "run-state base-model"),
        ("released of another network", "resnet8 4 conv1.weight missing"),
        ("released without shapes", "conv1.weight [] [4, 3, 3, 3]"),
        ("released with parts missing", "resnet8 4 bn1.weight missing"),
    ],
)
def test_a_damaged_or_foreign_checkpoint(kind: str, message: str, which: str, work: Path) -> None:
    path = CHECKPOINT.with_name(which)
    damage(kind, path)
    text = refused(*ONLINE, "--checkpoint", CHECKPOINT, "--reference", CHECKPOINT.with_name("early.pt"))
    says(text, message)
    assert str(path) in text
    assert not Path("executed").exists()
    assert not Path("logs").exists()


def test_a_missing_checkpoint_is_made_by_the_command_in_the_message(work: Path) -> None:
    CHECKPOINT.unlink()
    text = refused(*ONLINE, "--data", "digits")
    usual = str(CHECKPOINT).replace("-2epochs", "")
    command = "python cli.py burnin --data digits --model resnet8 --width 4 --norm batch --recipe demo"
    assert text == f"Error: there is no checkpoint {usual}; make it with: {command}"
    assert refused(*ONLINE, "--data", "npz:my file.npz").endswith(
        "--data 'npz:my file.npz' --model resnet8 --width 4 --norm batch --recipe demo"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "convnet"], "name resnet8 convnet"),
        (["--data", "npz:five.npz"], "10 classes npz:five.npz 5 --data"),
        (["--data", "npz:ten.npz"], "digits contents npz:ten.npz"),
        ([SET, "data.split_seed=1"], "data.split_seed 0 1 data.split_seed=0"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_checkpoint_of_something_else(arguments: list[str], message: str, work: Path) -> None:
    write_npz("five.npz", labels=5)
    write_npz("ten.npz")
    says(refused(*ONLINE, "--checkpoint", CHECKPOINT, *arguments), f"{CHECKPOINT} {message}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p["spec"].update(width=8), "width 8 4"),
        (lambda p: p["spec"].update(name="convnet"), "name convnet resnet8"),
        (lambda p: p["spec"].update(norm="group"), "norm group batch"),
        (lambda p: p["spec"].update(num_classes=9), "num_classes 9 10"),
        (lambda p: p["data"].update(fingerprint="x"), "digits contents"),
        (lambda p: p["weights"].popitem(), "resnet8 4"),
    ],
)
def test_an_early_snapshot_of_something_else(
    change: Callable[[dict[str, Any]], None], message: str, work: Path
) -> None:
    text = refused(*ONLINE, "--med", "OURS", "--reference", resaved(CHECKPOINT, change))
    says(text, "other.pt")
    says(text, message)


def test_ours_without_an_early_snapshot(work: Path) -> None:
    CHECKPOINT.with_name("early.pt").unlink()
    early = CHECKPOINT.with_name("early.pt")
    text = refused(*ONLINE, "--med", "OURS")
    assert (
        text
        == f"Error: the defence DSC compares with an early snapshot and there is no {early}; give one with --reference"
    )
    done(*ONLINE, "--med", "ST")
    says(refused(*ONLINE, "--reference", "nowhere.pt"), "file nowhere.pt")


def test_a_checkpoint_that_does_not_say_its_rate(work: Path) -> None:
    path = resaved(CHECKPOINT, lambda p: p.update(lr=None))
    says(refused(*ONLINE, "--checkpoint", path), "optim.lr 0.1")
    done(*ONLINE, "--checkpoint", path, SET, "optim.lr=0.1")


def write_npz(name: str, labels: int = 10, size: int = 8, **changes: object) -> None:
    """Write a sound data set, or one with some arrays replaced."""
    rng = np.random.default_rng(0)
    parts: dict[str, Any] = {}
    for half, count in (("train", 300), ("test", 50)):
        parts[f"{half}_x"] = rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
        parts[f"{half}_y"] = np.arange(count) % labels
    np.savez(name, **{**parts, **changes})


NPZ = ("burnin", "--config", "train.toml", "--data", "npz:own.npz", SET, "train.recipe=own", "--quiet")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_x": np.zeros((300, 8, 8, 3))}, "train_x own.npz float64 multiply"),
        ({"classes": np.array(["a", "b"])}, "own.npz 9 2 2"),
        ({"test_x": np.array([None])}, "own.npz readable test_x Python"),
    ],
)
def test_a_data_file(changes: dict[str, object], message: str, work: Path) -> None:
    write_npz("own.npz", **changes)  # type: ignore[arg-type]
    says(refused(*NPZ, "--model", "convnet"), message)
    assert not Path("logs").exists()


def test_images_that_the_model_cannot_take(work: Path) -> None:
    write_npz("own.npz", size=4)
    text = refused(*NPZ, "--model", "convnet")
    says(text, "model convnet take [3, 4, 4]")
    done(*NPZ, "--model", "resnet8", SET, "train.epochs=1")


def test_data_that_change_under_a_burn_in(work: Path) -> None:
    write_npz("own.npz")
    done(*NPZ, "--model", "convnet", "--out", "own")
    write_npz("own.npz", train_y=(np.arange(300) + 1) % 10)
    says(refused("burnin", "--resume", "own", "--quiet"), "own contents npz:own.npz")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([SET, "stream.batch_size=0"], "stream.batch_size 0 1 number 100"),
        ([SET, "stream.batch_size=300"], "batch 300 stream split 260"),
        (["--steps", "40"], "stream.kind=iid 420 260 26 stream.kind=cycling"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_stream_longer_than_its_images(arguments: list[str], message: str, work: Path) -> None:
    says(refused(*ONLINE, *arguments), message)
    assert not Path("logs").exists()


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("stream", "split empty 10"),
        ("trigger", "split empty 10"),
        ("val", "empty attacker's data.val 1"),
        ("monitor", "split empty data.monitor 1 evaluate.monitor=false"),
    ],
)
def test_an_empty_part_of_the_data(part: str, message: str, work: Path) -> None:
    path = resaved(CHECKPOINT, lambda p: p["data"].update({part: 0}))
    arguments = (*ONLINE, "--checkpoint", path, SET, f"data.{part}=0")
    says(refused(*arguments), message)
    if part == "monitor":
        done(*arguments, SET, "evaluate.monitor=false")


def test_no_trusted_images(work: Path) -> None:
    path = resaved(CHECKPOINT, lambda p: p["data"].update(trusted=0))
    arguments = (*ONLINE, "--checkpoint", path, "--reference", path, SET, "data.trusted=0")
    text = refused(*arguments, "--med", "OURS")
    assert text.endswith("on 20 trusted batches and got 0; set defense.threshold instead")
    done(*arguments, "--med", "OURS", SET, "defense.threshold=0.5")
