"""The burn-in: what it leaves behind, and that it can be stopped anywhere."""

import json
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from accupoison.config.schema import TrainSettings
from accupoison.records import checkpoint
from accupoison.records.recorder import read_metrics
from accupoison.runs.base_model import BaseModel
from accupoison.runs.training_schedule import learning_rate
from tests.e2e.conftest import BURNIN, CHECKPOINT, ENVIRONMENT, SET, call, done, outcome, refused
from tests.messages import says

CPU = torch.device("cpu")


def test_what_a_burn_in_leaves(base: Path) -> None:
    place = base / CHECKPOINT.parent
    names = {re.sub(r"(tfevents).*", r"\1", path.name) for path in place.iterdir()}
    files = {"config.json", "env.json", "lock", "metrics.jsonl", "state.pt", "summary.json", "events.out.tfevents"}
    assert names == files | {"final.pt", "early.pt", "latest.pt"}
    final, early = BaseModel.load(place / "final.pt"), BaseModel.load(place / "early.pt")
    assert (final.spec.name, final.spec.width, final.spec.norm, final.spec.num_classes) == ("resnet8", 4, "batch", 10)
    assert (early.epoch, final.epoch) == (1, 2)
    assert final.lr == 0.05
    assert final.optimizer is not None
    assert len(final.optimizer["state"]) == len([k for k in final.weights if k.endswith(("weight", "bias"))])
    assert int(final.weights["bn1.num_batches_tracked"]) == 20
    assert int(early.weights["bn1.num_batches_tracked"]) == 10
    assert not torch.equal(final.weights["fc.weight"], early.weights["fc.weight"])
    summary = json.loads((place / "summary.json").read_text())
    assert (summary["status"], summary["steps"], summary["epochs"]) == ("finished", 20, 2)
    rows = read_metrics(place / "metrics.jsonl")
    assert [row["step"] for row in rows] == [10, 20]
    assert all({"train/loss", "train/acc", "monitor/acc", "optim/lr"} <= row.keys() for row in rows)


def test_the_summary_is_about_the_weights_in_the_file(base: Path) -> None:
    from accupoison.data import load
    from accupoison.measure.accuracy import evaluate
    from accupoison.models.view import view_of

    place = base / CHECKPOINT.parent
    final, data = BaseModel.load(place / "final.pt"), load("digits")
    view = view_of(final.build(place, CPU))
    accuracy, loss = evaluate(view, data, torch.arange(data.num_train, data.size))
    summary = json.loads((place / "summary.json").read_text())
    assert (summary["test_acc"], summary["test_loss"]) == (accuracy, loss)


@pytest.mark.slow
def test_it_learns(work: Path) -> None:
    falling = (SET, "train.schedule=linear", SET, "train.final_lr=0.01")
    result = done(*BURNIN, "--out", "long", "--epochs", "6", SET, "data.burnin=700", *falling, "--json")
    assert json.loads(result.stdout)["test_acc"] > 0.6
    rows = read_metrics(Path("long/metrics.jsonl"))
    assert rows[-1]["train/loss"] < rows[0]["train/loss"]


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(base: Path, work: Path) -> None:
    done(*BURNIN, "--out", "again")
    done(*BURNIN, "--out", "other", "--seed", "1")
    assert outcome(Path("again")) == outcome(CHECKPOINT.parent)
    assert Path("other/final.pt").read_bytes() != CHECKPOINT.read_bytes()


def test_the_rest_of_an_epoch_the_last_epochs_and_snapshots(work: Path) -> None:
    sets = ["train.batch_size=30", "train.last_epochs=1", "train.last_batch_size=40", "train.snapshots=1,3"]
    result = done(*BURNIN, "--out", "run", "--epochs", "3", *(part for item in sets for part in (SET, item)), "--json")
    assert json.loads(result.stdout)["steps"] == 6 + 6 + 5
    assert int(BaseModel.load(Path("run/epoch1.pt")).weights["bn1.num_batches_tracked"]) == 6
    assert Path("run/epoch3.pt").read_bytes() == Path("run/final.pt").read_bytes()
    assert Path("run/early.pt").read_bytes() == Path("run/epoch1.pt").read_bytes()


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("constant", [0.2, 0.2]),
        ("onecycle", [0.2 * (1 - 9.5 / 20) / 0.8, 0.2 * (0.5 / 20) / 0.8]),
        ("warmup", [0.2 - 0.15 * (done - 0.2) / 0.8 for done in (9.5 / 20, 19.5 / 20)]),
    ],
)
def test_the_rate_is_recorded_and_kept_for_the_stream(schedule: str, rates: list[float], work: Path) -> None:
    done(*BURNIN, "--out", "run", SET, "train.lr=0.2", SET, f"train.schedule={schedule}")
    assert [row["optim/lr"] for row in read_metrics(Path("run/metrics.jsonl"))] == pytest.approx(rates)
    kept = BaseModel.load(Path("run/final.pt")).lr
    assert kept == {"constant": 0.2, "onecycle": None, "warmup": 0.05}[schedule]  # the rate that the stream will have


def test_a_schedule_with_warmup_rises_falls_and_stays() -> None:
    train = TrainSettings(schedule="warmup", lr=0.8, final_lr=0.05, epochs=10, last_epochs=2)
    found = [learning_rate(train, step, 100, step // 10) for step in range(100)]
    assert found[:20] == pytest.approx([0.8 * (step + 0.5) / 20 for step in range(20)])
    assert found[20:80] == pytest.approx([0.8 - 0.75 * (step + 0.5) / 60 for step in range(60)])
    assert found[80:] == [pytest.approx(0.05)] * 20
    short = replace(train, epochs=1, last_epochs=1)
    found = [learning_rate(short, step, 100, 0) for step in range(100)]
    assert found[20:60] == pytest.approx([0.8 - 0.75 * (step + 0.5) / 40 for step in range(40)])
    assert found[60:] == [pytest.approx(0.05)] * 40


def test_milestones_lower_the_rate_after_their_epochs(work: Path) -> None:
    step = (SET, "train.schedule=step", SET, "train.milestones=1,3", SET, "train.decay=0.5", SET, "train.lr=0.2")
    done(*BURNIN, "--out", "run", "--epochs", "4", *step)
    assert [row["optim/lr"] for row in read_metrics(Path("run/metrics.jsonl"))] == pytest.approx([0.2, 0.1, 0.1, 0.05])


@pytest.mark.parametrize("kind", ["l2", "linf"])
def test_a_clipped_step_is_as_long_as_the_bound(kind: str, work: Path) -> None:
    sets = (SET, "train.momentum=0", SET, "train.weight_decay=0", SET, "update.clip_norm=1e-3", SET, "train.lr=1")
    one = (SET, "train.batch_size=200", SET, f"update.clip_kind={kind}")
    done(*BURNIN, "--out", "one", "--epochs", "1", *sets, *one)
    done(*BURNIN, "--out", "two", "--epochs", "2", *sets, *one, SET, "train.snapshots=1")
    first, second = (BaseModel.load(Path(path)).weights for path in ("two/epoch1.pt", "two/final.pt"))
    names = [name for name in first if "running" not in name and "num_batches" not in name]
    moved = torch.cat([(second[name] - first[name]).flatten().double() for name in names])
    length = moved.abs().max() if kind == "linf" else moved.norm()
    assert float(length) == pytest.approx(1e-3, rel=1e-2)


def test_patience_ends_a_burn_in_and_keeps_its_best_model(work: Path) -> None:
    """At a rate of almost zero nothing improves, so the first epoch is the best."""
    still = (SET, "train.lr=1e-12", SET, "train.patience=2", SET, "train.weight_decay=0", SET, "train.early=1")
    result = done(*BURNIN, "--out", "run", "--epochs", "9", *still, SET, "train.snapshots=1,2,3", "--json")
    rows = [row["monitor/acc"] for row in read_metrics(Path("run/metrics.jsonl"))]
    best = rows.index(max(rows))
    assert json.loads(result.stdout)["epochs"] == len(rows) == best + 3 < 9
    assert best < 3, "the kept model must be among the snapshots"
    assert Path("run/final.pt").read_bytes() == Path(f"run/epoch{best + 1}.pt").read_bytes()
    assert json.loads(result.stdout)["best_epoch"] == best + 1
    assert Path("run/early.pt").exists() == (best + 1 > 1)  # early means before the model that is kept
    assert json.loads(Path("run/summary.json").read_text())["test_acc"] == json.loads(result.stdout)["test_acc"]
    done("burnin", "--resume", "run", "--quiet")  # nothing is left to do
    assert len(read_metrics(Path("run/metrics.jsonl"))) == len(rows)


def test_classes_held_out_of_the_burn_in_come_with_the_stream(work: Path) -> None:
    held = (SET, "data.novel_classes=3,7")
    result = done(*BURNIN, *held, "--out", "run", "--json")
    assert "no images of 3, 7" in json.loads(result.stdout)["note"]
    stream = ("online", "--preset", "demo", "--config", "tiny.toml", "--checkpoint", "run/final.pt", "--quiet")
    says(refused(*stream, SET, "data.novel_classes=3"), "data.novel_classes 3,7")
    done(*stream, "--attack", "none", "--out", "logs/new")  # takes them over
    rows = read_metrics(Path("logs/new/metrics.jsonl"))
    assert rows[0]["test/novel_classes_acc"] == 0.0  # never seen, never said
    assert 0 <= json.loads(Path("logs/new/summary.json").read_text())["start"]["novel_classes_acc"] <= 1
    says(refused(*stream, *held, SET, "stream.pool=burnin"), "classes burn-in")
    says(
        refused(*stream, SET, "data.splits=released_split", SET, "data.novel_classes=3"),
        "trained with data.novel_classes 3,7",
    )
    old = (*stream[:-2], str(CHECKPOINT), "--quiet")
    says(refused(*old, *held), "data.novel_classes 3,7")


def test_a_rate_of_almost_zero_is_not_gone_on_with(work: Path) -> None:
    done(*BURNIN, "--out", "run", SET, "train.schedule=onecycle")
    arguments = ("online", "--preset", "demo", "--config", "tiny.toml", "--checkpoint", "run/final.pt", "--quiet")
    says(refused(*arguments), "optim.lr 0.1")
    done(*arguments, SET, "optim.lr=0.05")


def test_a_model_of_ones_own(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = (*BURNIN, "--model", "tests.nets:tiny_net")
    done(*arguments)
    place = Path("checkpoints/digits-tests.nets.tiny_net-w4-batch-demo-2epochs-seed0")
    assert BaseModel.load(place / "final.pt").spec.name == "tests.nets:tiny_net"
    done("online", "--preset", "demo", "--config", "tiny.toml", "--model", "tests.nets:tiny_net", "--quiet")


STOPPED = """
import os, signal, sys
from accupoison.cli import main
from accupoison.runs.trainer import Burnin
number, count = int(sys.argv.pop(1)), int(sys.argv.pop(1))
original, calls = Burnin._train_step, []
def stopping(self, ids):
    calls.append(ids)
    if len(calls) == count:
        os.kill(os.getpid(), number)
    return original(self, ids)
Burnin._train_step = stopping
main()
"""


def stopped(number: int, count: int, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run the command line in a process that gets a signal in training step ``count``."""
    command = [sys.executable, "-c", STOPPED, str(number), str(count), *arguments]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_ctrl_c_saves_in_the_middle_of_an_epoch(work: Path) -> None:
    child = stopped(signal.SIGINT, 14, *BURNIN, "--out", "my run")
    assert child.returncode == 130
    assert "Traceback" not in child.stderr
    assert "stopping after this step; press Ctrl-C again to stop at once" in child.stderr
    assert child.stderr.endswith("go on with: python cli.py burnin --resume 'my run'\n")
    assert checkpoint.load(Path("my run/state.pt"), "run-state")["step"] == 14
    assert json.loads(Path("my run/summary.json").read_text())["status"] == "interrupted"
    assert not Path("my run/final.pt").exists()
    done("burnin", "--resume", "my run", "--quiet")
    assert same_training(Path("my run"), CHECKPOINT.parent)


@pytest.mark.slow
def test_a_killed_burn_in_goes_on_at_its_last_epoch(work: Path) -> None:
    child = stopped(signal.SIGKILL, 14, *BURNIN, "--out", "run")
    assert child.returncode == -signal.SIGKILL
    assert checkpoint.load(Path("run/state.pt"), "run-state")["step"] == 10
    done("burnin", "--resume", "run", "--quiet")
    assert same_training(Path("run"), CHECKPOINT.parent)


def same_training(run: Path, other: Path) -> bool:
    mine, its = outcome(run), outcome(other)
    return all(mine[key] == its[key] for key in {*mine, *its})


@pytest.mark.slow
@pytest.mark.parametrize("every", [1, 7, 10])
def test_stopped_and_resumed_again_and_again(every: int, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from accupoison.runs import burnin

    asked = stop_every(every)
    original = burnin.run_burnin

    def impatient(*arguments: Any, **options: Any) -> dict[str, Any]:  # noqa: ANN401
        return original(*arguments, **{**options, "should_stop": asked})

    monkeypatch.setattr(burnin, "run_burnin", impatient)
    result, count = call(*BURNIN, "--out", "run"), 1
    while result.exit_code == 130:
        result, count = call("burnin", "--resume", "run", "--quiet"), count + 1
    assert result.exit_code == 0
    assert count > 1
    assert same_training(Path("run"), CHECKPOINT.parent)


def stop_every(steps: int) -> Any:  # noqa: ANN401
    """Return a function that asks to stop at every ``steps``-th time it is asked."""
    times = 0

    def ask() -> bool:
        nonlocal times
        times += 1
        return times % steps == 0

    return ask


def test_resuming_a_finished_burn_in_changes_nothing(work: Path) -> None:
    before, metrics = outcome(CHECKPOINT.parent), (CHECKPOINT.parent / "metrics.jsonl").read_bytes()
    done(*BURNIN, "--resume", CHECKPOINT.parent)
    assert outcome(CHECKPOINT.parent) == before
    assert (CHECKPOINT.parent / "metrics.jsonl").read_bytes() == metrics
    text = refused("burnin", "--resume", CHECKPOINT.parent, "--epochs", "3")
    says(text, "train.epochs 2 3")
