"""What was sent, sent again to another defence, model and seed."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from accupoison.config.schema import online_config
from accupoison.records.ledger import Ledger
from accupoison.records.recorder import read_metrics
from accupoison.runs.online import OnlineRun
from tests.e2e.conftest import BURNIN, ONLINE, SET, done, outcome, refused
from tests.messages import says

pytestmark = pytest.mark.slow

SAVED = (*ONLINE, "--save-batches", "--out", "source")
QUIET = ("online", "--quiet", "--out", "again", "--replay", "source")


def batches(run: str = "source") -> dict[str, dict[str, NDArray[np.generic]]]:
    found = {}
    for path in sorted(Path(run, "batches").iterdir()):
        with np.load(path) as file:
            found[path.name] = {name: file[name] for name in file.files}
    return found


def test_what_is_kept_is_what_was_sent(work: Path) -> None:
    done(*SAVED, "--med", "OURS")
    kept = batches()
    assert list(kept) == ["000000.npz", "000001.npz", "000002.npz", "trigger.npz"]
    sent = Ledger.load(Path("source/ledger.npz")).rows
    for t, batch in enumerate(kept.values()):
        rows = sent[(sent["step"] == t) & sent["sent"]]
        assert batch["ids"].tolist() == batch["clean_ids"].tolist() == rows["id"].tolist()
        assert batch["y"].tolist() == rows["label"].tolist()
        assert batch["x"].dtype == np.uint8  # on the 8-bit grid, before crop and flip


def test_a_replay_under_the_same_settings_is_the_same_run(work: Path) -> None:
    done(*SAVED)
    done(*QUIET)
    mine, theirs = (
        [{k: v for k, v in row.items() if not k.startswith("time/") and k != "attack/alignment"} for row in rows]
        for rows in (read_metrics(Path("again/metrics.jsonl")), read_metrics(Path("source/metrics.jsonl")))
    )
    assert mine == theirs
    assert (
        "sees nothing of this model and sends what it made in source"
        in json.loads(Path("again/summary.json").read_text())["threat_model"]
    )


@pytest.mark.parametrize("augment", ["after", "before", "none"])
def test_another_defence_and_another_model_get_the_same_poison(work: Path, augment: str) -> None:
    done(*SAVED, SET, f"stream.augment={augment}", SET, "stream.quantise=false")
    done(*BURNIN, "--model", "convnet", "--width", "4")
    done(*QUIET, "--med", "FREEZE")
    done("online", "--quiet", "--out", "other", "--replay", "source", "--model", "convnet", "--save-batches")
    first, second = batches(), batches("other")
    assert list(first) == list(second)
    for name in first:
        assert all(np.array_equal(first[name][key], second[name][key]) for key in first[name])
    rows = {run: Ledger.load(Path(run, "ledger.npz")).rows for run in ("source", "again", "other")}
    assert all((rows["source"][key] == rows["again"][key]).all() for key in ("id", "sent", "changed"))
    config = json.loads(Path("again/config.json").read_text())
    assert (config["defense"]["name"], config["attack"]["eps"], config["stream"]["steps"]) == ("FREEZE", 0.1, 3)


def test_an_interrupted_replay_goes_on_bit_for_bit(work: Path) -> None:
    done(*SAVED)
    done(*QUIET, "--med", "OURS")
    config = online_config([json.loads(Path("again/config.json").read_text())])
    stopped = OnlineRun(config, Path("checkpoints"), Path("stopped"), resume=False)
    assert stopped.run(lambda *_: None, lambda: True)["status"] == "interrupted"
    done("online", "--quiet", "--resume", "stopped")
    assert outcome(Path("stopped")) == outcome(Path("again"))


def test_a_replay_is_not_resumed_on_other_batches(work: Path) -> None:
    done(*SAVED)
    done(*QUIET)
    path, batch = Path("source/batches/000001.npz"), batches()["000001.npz"]
    np.savez(path, **(batch | {"x": batch["x"] // 2}))  # type: ignore[arg-type]
    says(refused("online", "--resume", "again"), "replayed run changed again")


def test_replays_that_do_not_fit_are_refused(work: Path) -> None:
    says(refused(*QUIET), "no run source")
    done(*ONLINE, "--out", "source")
    says(refused(*QUIET), "source 0 3 --save-batches")
    done(*SAVED[:-1], "kept", "--trigger", "clean")
    replay = (*QUIET[:4], "--replay", "kept")
    for options, words in (
        (("--seed", "5"), "other samples --data, --seed"),
        (("--attack", "direct"), "poisoned accumulative"),
        (("--eps", "0.05"), "poisoned accumulative"),
        (("--trigger", "adversarial"), "kept adversarial clean"),
        ((SET, "stream.augment=before"), "kept cropped after before"),
        (("--steps", "4"), "kept 3 4 --steps 3"),
        (("--resume", "kept"), "--resume exclude"),
    ):
        says(refused(*replay, *options), words)
    damaged = Path("kept/batches/000001.npz")
    damaged.write_bytes(damaged.read_bytes()[:100])
    says(refused(*replay), "000001.npz readable")
    says(refused(*QUIET[:4], "--replay", "checkpoints/digits-resnet8-w4-batch-demo-2epochs-seed0"), "burnin nothing")


def test_batches_that_are_none_are_refused(work: Path) -> None:
    done(*SAVED)
    path, batch = Path("source/batches/000001.npz"), batches()["000001.npz"]
    far = batch["x"].astype(np.float32)
    for changes, words in (
        ({"y": np.full(10, 99)}, "000001.npz label 99 digits 0 9"),
        ({"y": -1 - batch["y"]}, "000001.npz label -"),
        ({"y": batch["y"][:3]}, "000001.npz int64 [3] [10, 3, 16, 16] restore"),
        ({"ids": batch["ids"].astype(float)}, "000001.npz ids float64"),
        ({"x": far}, "000001.npz x [0, 1] restore"),
        ({"x": far * np.nan}, "000001.npz x [0, 1] restore"),
        ({"x": batch["x"].astype(str)}, "000001.npz x <U3"),
        ({"clean_ids": batch["clean_ids"] + 10**6}, "000001.npz sample"),
        ({"x": batch["x"][..., :8]}, "000001.npz [3, 16, 8] digits [3, 16, 16]"),
    ):
        np.savez(path, **(batch | changes))
        says(refused(*QUIET), words)
    path.unlink()
    path.mkdir()
    says(refused(*QUIET), "source/batches/000001.npz")


def test_a_file_in_the_place_of_the_batches(work: Path) -> None:
    done(*SAVED)
    config = online_config([json.loads(Path("source/config.json").read_text())])
    OnlineRun(config, Path("checkpoints"), Path("stopped"), resume=False).run(lambda *_: None, lambda: True)
    for run in ("source", "stopped"):
        shutil.rmtree(f"{run}/batches")
        Path(run, "batches").write_text("not a directory")
    says(refused(*QUIET), "source 0 3 --save-batches")
    text = refused("online", "--quiet", "--resume", "stopped")
    says(text, "stopped/batches/ .npz free")


def test_poison_of_the_training_code_is_never_sent(work: Path) -> None:
    says(refused(*SAVED, SET, "attack.channel=code"), "nothing --save-batches")
    done(*ONLINE, "--out", "source", SET, "attack.channel=code")
    says(refused(*QUIET), "source training code")


def test_poison_of_another_stream_is_refused(work: Path) -> None:
    done(*SAVED)
    says(refused(*QUIET, "--stream", "shift:contrast"), "stream iid")
    done(*SAVED[:-1], "shifting", "--stream", "shift:contrast")
    replay = (*QUIET[:4], "--replay", "shifting")
    says(refused(*replay, "--steps", "2"), "stream shift:contrast 3 steps 1")
    says(refused(*replay, "--recovery-steps", "2"), "which this run's are not")
    done(*replay)
    budget = [row["attack/linf"] for row in read_metrics(Path("again/metrics.jsonl")) if "attack/linf" in row]
    assert max(budget) <= 0.1 + 1e-6


def test_a_dry_run_looks_for_the_batches(work: Path) -> None:
    done(*SAVED)
    done(*QUIET, "--dry-run")
    Path("source/batches/trigger.npz").unlink()
    says(refused(*QUIET, "--dry-run"), "kept trigger.npz")
