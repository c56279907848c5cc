"""Checkpoints and data that are missing, damaged, foreign or do not fit."""

import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from accupoison.records import checkpoint
from tests.e2e.conftest import CHECKPOINT, ONLINE, SET, done, refused, resaved


class Evil:
    """Leaves a file behind when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, ("executed",))


def damage(kind: str, path: Path) -> None:
    whole = path.read_bytes()
    if kind == "missing":
        path.unlink()
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "truncated":
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "flipped":
        payload = checkpoint.load(path, "base-model")
        weights = payload["weights"]["conv1.weight"].numpy().tobytes()
        position = whole.index(weights) + 5
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
    elif kind == "text":
        path.write_text("not a checkpoint")
    elif kind == "foreign":
        torch.save({"state_dict": {"w": torch.ones(1)}}, path)
    elif kind == "no state dict":
        torch.save({"parameters": [torch.ones(1)]}, path)
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
        ("empty", "not a readable checkpoint"),
        ("truncated", "not a readable checkpoint"),
        ("flipped", "not a readable checkpoint"),
        ("text", "not a readable checkpoint"),
        (
            "foreign",
            "do not fit a resnet8 of width 4 and batch norm: conv1.weight is missing .it has w.; name their net",
        ),
        ("no state dict", "holds no state dict, neither as it is nor under net"),
        ("malicious", "not a readable checkpoint"),
        ("malicious zip", "asks for posix.mkdir, which could do anything"),
        ("run state", "holds a run-state where a base-model is needed"),
        ("released of another network", "do not fit a resnet8 of width 4 and batch norm: conv1.weight is missing"),
        ("released without shapes", r"conv1.weight is \[\] where the network has \[4, 3, 3, 3\]"),
        ("released with parts missing", "do not fit a resnet8 of width 4 and batch norm: bn1.weight is missing"),
    ],
)
def test_a_damaged_or_foreign_checkpoint(kind: str, message: str, which: str, work: Path) -> None:
    path = CHECKPOINT.with_name(which)
    damage(kind, path)
    text = refused(*ONLINE, "--checkpoint", CHECKPOINT, "--reference", CHECKPOINT.with_name("early.pt"))
    assert re.search(message, text)
    assert str(path) in text
    assert not Path("executed").exists()
    assert not Path("logs").exists()


def test_a_missing_checkpoint_is_made_by_the_command_in_the_message(work: Path) -> None:
    CHECKPOINT.unlink()
    text = refused(*ONLINE, "--data", "digits")
    command = "python cli.py burnin --data digits --model resnet8 --width 4 --recipe demo"
    assert text == f"Error: there is no checkpoint {CHECKPOINT}; make it with: {command}"
    assert refused(*ONLINE, "--data", "npz:my file.npz").endswith(
        "--data 'npz:my file.npz' --model resnet8 --width 4 --recipe demo"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "convnet"], "holds a model with name resnet8 and this run asks for convnet; drop the option or"),
        (["--width", "8"], "holds a model with width 4 and this run asks for 8; drop the option or"),
        (["--norm", "group"], "holds a model with norm batch and this run asks for group; drop the option or"),
        (
            ["--data", "npz:five.npz"],
            "tells 10 classes apart and npz:five.npz has 5; give the --data it was trained on",
        ),
        (["--data", "npz:ten.npz"], "was trained on digits with other contents than npz:ten.npz has here; give the"),
        (
            [SET, "data.split_seed=1"],
            "was trained with data.split_seed 0 and this run says 1, .*; set data.split_seed=0",
        ),
        ([SET, "data.burnin=100"], "was trained with data.burnin 200 and this run says 100, .*; set data.burnin=200"),
        ([SET, "data.stream=0"], "was trained with data.stream 260 and this run says 0, .*; set data.stream=260"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_checkpoint_of_something_else(arguments: list[str], message: str, work: Path) -> None:
    write_npz("five.npz", labels=5)
    write_npz("ten.npz")
    assert re.match(f"Error: {CHECKPOINT} {message}", refused(*ONLINE, "--checkpoint", CHECKPOINT, *arguments))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p["spec"].update(width=8), "holds a model with width 8 and the checkpoint one with 4; give the"),
        (
            lambda p: p["spec"].update(name="convnet"),
            "holds a model with name convnet and the checkpoint one with resn",
        ),
        (lambda p: p["spec"].update(norm="group"), "holds a model with norm group and the checkpoint one with batch"),
        (lambda p: p["spec"].update(num_classes=9), "holds a model with num_classes 9 and the checkpoint one with 10"),
        (lambda p: p["data"].update(fingerprint="x"), "was trained on digits with other contents"),
        (lambda p: p["weights"].popitem(), "do not fit a resnet8 of width 4"),
    ],
)
def test_an_early_snapshot_of_something_else(
    change: Callable[[dict[str, Any]], None], message: str, work: Path
) -> None:
    text = refused(*ONLINE, "--med", "OURS", "--reference", resaved(CHECKPOINT, change))
    assert "other.pt" in text
    assert message in text


def test_ours_without_an_early_snapshot(work: Path) -> None:
    CHECKPOINT.with_name("early.pt").unlink()
    early = CHECKPOINT.with_name("early.pt")
    text = refused(*ONLINE, "--med", "OURS")
    assert (
        text
        == f"Error: the defence DSC compares with an early snapshot and there is no {early}; give one with --reference"
    )
    done(*ONLINE, "--med", "ST")
    assert "there is no file nowhere.pt" in refused(*ONLINE, "--reference", "nowhere.pt")


def test_a_checkpoint_that_does_not_say_its_rate(work: Path) -> None:
    path = resaved(CHECKPOINT, lambda p: p.update(lr=None))
    assert "give one with --set optim.lr=0.1" in refused(*ONLINE, "--checkpoint", path)
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
        ({"train_x": np.zeros((300, 8, 8, 3))}, "train_x in own.npz has dtype float64; .*; multiply values in"),
        ({"test_x": np.full((50, 8, 8, 3), np.nan)}, "test_x in own.npz has dtype float64; images must be uint8"),
        ({"train_x": np.zeros((300, 8, 8), np.uint8)}, "train_x in own.npz has shape .*; give grey images a last axis"),
        ({"train_x": np.zeros((300, 3, 8, 8), np.uint8)}, "train_x in own.npz has shape .*; move the channels"),
        ({"train_y": np.arange(299)}, "train_y in own.npz has 299 labels for 300 samples in train_x; give one"),
        ({"train_y": np.arange(300) - 1}, "train_y in own.npz has the label -1; number the classes from 0"),
        ({"classes": np.array(["a", "b"])}, "own.npz has the label 9 but 2 names in classes; labels must be below 2"),
        ({"test_y": np.full(50, np.nan)}, "test_y in own.npz has dtype float64; labels must be integers"),
        (
            {"test_x": np.array([None])},
            r"own.npz is not a readable .* \(test_x: an array of Python objects\)",
        ),
    ],
)
def test_a_data_file(changes: dict[str, object], message: str, work: Path) -> None:
    write_npz("own.npz", **changes)  # type: ignore[arg-type]
    assert re.match(f"Error: {message}", refused(*NPZ, "--model", "convnet"))
    assert not Path("logs").exists()


def test_images_that_the_model_cannot_take(work: Path) -> None:
    write_npz("own.npz", size=4)
    text = refused(*NPZ, "--model", "convnet")
    assert re.match(r"Error: model convnet cannot take images of shape \[3, 4, 4\] \(.*\); choose another model", text)
    done(*NPZ, "--model", "resnet8", SET, "train.epochs=1")


def test_data_that_change_under_a_burn_in(work: Path) -> None:
    write_npz("own.npz")
    done(*NPZ, "--model", "convnet", "--out", "own")
    write_npz("own.npz", train_y=(np.arange(300) + 1) % 10)
    assert "own was started on other contents of npz:own.npz; bring those back" in refused(
        "burnin", "--resume", "own", "--quiet"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([SET, "stream.batch_size=0"], "stream.batch_size 0 is below 1; give a number of images such as 100"),
        (
            [SET, "stream.batch_size=300"],
            "a batch of 300 images is larger than the stream split of 260; use a batch of",
        ),
        ([SET, "stream.batch_size=30"], "a batch of 30 images is larger than the trigger split of 20; use a batch of"),
        (
            ["--steps", "40"],
            "stream.kind=iid needs 420 images .* has 260; use at most 26 steps in all or .* .* stream.kind=cycling",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_stream_longer_than_its_images(arguments: list[str], message: str, work: Path) -> None:
    assert re.match(f"Error: {message}", refused(*ONLINE, *arguments))
    assert not Path("logs").exists()


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("stream", "the stream split is empty; give it at least 10 images"),
        ("trigger", "the trigger split is empty; give it at least 10 images"),
        ("val", "the val split is empty and its images are the attacker's own; give data.val 1 or more"),
        ("monitor", "the monitor split is empty .*; give data.monitor 1 or more, or set evaluate.monitor=false"),
    ],
)
def test_an_empty_part_of_the_data(part: str, message: str, work: Path) -> None:
    path = resaved(CHECKPOINT, lambda p: p["data"].update({part: 0}))
    arguments = (*ONLINE, "--checkpoint", path, SET, f"data.{part}=0")
    assert re.match(f"Error: {message}", refused(*arguments))
    if part == "monitor":
        done(*arguments, SET, "evaluate.monitor=false")


def test_no_trusted_images(work: Path) -> None:
    path = resaved(CHECKPOINT, lambda p: p["data"].update(trusted=0))
    arguments = (*ONLINE, "--checkpoint", path, "--reference", path, SET, "data.trusted=0")
    text = refused(*arguments, "--med", "OURS")
    assert text.endswith("on 20 trusted batches and got 0; set defense.threshold instead")
    done(*arguments, "--med", "OURS", SET, "defense.threshold=0.5")
