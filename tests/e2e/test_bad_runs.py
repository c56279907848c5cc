"""Run directories that cannot be used or resumed, and disks that fill: what was saved stays."""

import errno
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from accupoison.attacks import Noise
from accupoison.defenses import Defense
from accupoison.learner import Learner
from accupoison.records import checkpoint
from accupoison.records.ledger import Ledger
from accupoison.records.recorder import read_metrics
from accupoison.records.run_directory import RunDirectory
from accupoison.runs.online import OnlineRun
from accupoison.types import Batch, Context, ModelView, Step, Verdict
from accupoison.updates import SGD
from tests.e2e.conftest import CHECKPOINT, ENVIRONMENT, ONLINE, SET, call, done, outcome, refused, resaved, sentence
from tests.messages import says


def test_a_place_that_is_taken(work: Path) -> None:
    done(*ONLINE, "--out", "run")
    kept = outcome(Path("run"))
    says(refused(*ONLINE, "--out", "run"), "run already holds run")
    says(refused(*ONLINE, "--out", "."), "holds other files")
    says(refused(*ONLINE, "--out", "tiny.toml"), "tiny.toml File exists")
    Path("logs").write_text("a file where a directory is expected")
    says(refused(*ONLINE), "logs/digits-resnet8-w4-accumulative-eps25.5-ST-seed0 Not a directory")
    with RunDirectory.resume(Path("run")):
        says(refused("online", "--resume", "run"), "run in use wait")
    assert outcome(Path("run")) == kept


def test_resuming_under_another_configuration(work: Path) -> None:
    done(*ONLINE, "--out", "run", "--eps", "8/255")
    kept = outcome(Path("run"))
    for arguments, difference in [
        (["--eps", "0.25"], "attack.eps: stored 0.03137254901960784, given 0.25"),
        (["--attack", "noise"], 'attack.name: stored "accumulative", given "noise"'),
        (["--preset", "released"], 'data.splits: stored "fresh", given "released_split"'),
        ([SET, "stream.recovery_steps=2"], "stream.recovery_steps: stored 1, given 2"),
        (["--seed", "1"], "run.seed: stored 0, given 1"),
    ]:
        says(refused("online", "--resume", "run", *arguments), f"run another configuration {difference}")
    assert outcome(Path("run")) == kept
    done(*ONLINE, "--eps", "8/255", "--resume", "run")  # the same options again are no difference
    assert outcome(Path("run")) == kept


def test_resuming_what_the_other_command_started(work: Path) -> None:
    place = CHECKPOINT.parent
    says(refused("online", "--resume", place), f"{place} burnin cli.py burnin")
    done(*ONLINE, "--out", "run")
    says(refused("burnin", "--resume", "run"), "run online cli.py online")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def flip(path: Path) -> None:
    whole = bytearray(path.read_bytes())
    whole[0] ^= 1
    path.write_bytes(whole)


def zeros(path: Path) -> None:
    """What a crashed file system leaves."""
    path.write_bytes(bytes(path.stat().st_size))


def digit(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"stream/loss": 2', b'"stream/loss": 3', 1))


def swapped(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[1], lines[0], *lines[2:]]))


def key(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"stream/loss", b"stream/lors", 1))


def other_rows(path: Path) -> None:
    ledger = Ledger.load(path)
    ledger._rows["used"] = ~ledger._rows["used"]
    ledger.save(path)


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        ("config.json", cut, "config.json damaged restore"),
        ("config.json", lambda path: path.write_text("[]"), "config.json damaged"),
        ("config.json", Path.unlink, "no run run"),
        ("state.pt", cut, "state.pt readable"),
        ("state.pt", Path.unlink, "lost state.pt"),
        ("metrics.jsonl", cut, "metrics.jsonl bytes fewer"),
        ("metrics.jsonl", Path.unlink, "metrics.jsonl 0 bytes fewer"),
        ("metrics.jsonl", flip, "1 run/metrics.jsonl damaged"),
        ("metrics.jsonl", zeros, "1 run/metrics.jsonl damaged"),
        ("metrics.jsonl", digit, "metrics.jsonl written"),
        ("metrics.jsonl", swapped, "metrics.jsonl written"),
        ("metrics.jsonl", key, "run/metrics.jsonl damaged"),
        ("ledger.npz", Ledger().save, "ledger 0 rows not"),
        ("ledger.npz", other_rows, "ledger.npz written"),
        ("ledger.npz", cut, "ledger.npz readable"),
        ("ledger.npz", Path.unlink, "file run/ledger.npz"),
    ],
)
def test_resuming_a_damaged_run(name: str, spoil: Callable[[Path], None], message: str, work: Path) -> None:
    done(*ONLINE, "--out", "run")
    spoil(Path("run") / name)
    kept = files_of("run")
    says(refused("online", "--resume", "run"), message)
    assert files_of("run") == kept


def files_of(run: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(run).iterdir()}


def test_resuming_from_other_files(work: Path) -> None:
    done(*ONLINE, "--out", "run")
    whole = CHECKPOINT.read_bytes()
    resaved(CHECKPOINT, lambda p: p.update(epoch=3)).replace(CHECKPOINT)
    says(refused("online", "--resume", "run"), "checkpoint changed run")
    CHECKPOINT.write_bytes(whole)
    CHECKPOINT.with_name("early.pt").unlink()
    says(refused("online", "--resume", "run"), "early snapshot changed run")


def test_data_may_move_before_a_resume(work: Path) -> None:
    for name in ("here", "there"):
        Path(name).mkdir()
    done(*ONLINE, "--out", "run", "--data-dir", "here")
    Path("here").rmdir()
    says(refused("online", "--resume", "run"), "data directory here not exist")
    done("online", "--resume", "run", "--data-dir", "there")


def shrinking_disk(monkeypatch: pytest.MonkeyPatch, limit: int, error: int) -> None:
    """From step 3 on, no file may grow beyond ``limit`` bytes, or nothing can be written any more."""
    record = OnlineRun._record

    def filling(run: OnlineRun, step: Step) -> None:
        if run.evaluator.summary.steps == 2 and limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        elif run.evaluator.summary.steps == 2:
            monkeypatch.setattr(os, "fsync", full)
        record(run, step)

    def full(descriptor: int) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(OnlineRun, "_record", filling)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limit", "error", "message"),
    [
        (50_000, 0, "run/state.pt File too large"),
        (0, errno.ENOSPC, "run/ledger.rows No space left on device"),
    ],
)
def test_a_disk_that_fills_in_the_middle(limit: int, error: int, message: str, work: Path) -> None:
    arguments = (*ONLINE, "--steps", "5", SET, "run.save_every=2")
    done(*arguments, "--out", "whole")
    with pytest.MonkeyPatch.context() as patch:
        shrinking_disk(patch, limit, error)
        try:
            says(refused(*arguments, "--out", "run"), message)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    state = checkpoint.load(Path("run/state.pt"), "run-state")
    assert state["simulation"]["t"] == 2
    assert not list(Path("run").glob("*.tmp")) + list(Path("run").glob(".*.tmp"))
    done("online", "--resume", "run", "--quiet")
    assert outcome(Path("run")) == outcome(Path("whole"))


FULL_DISK = """
import resource
from accupoison.cli import main
from accupoison.records.ledger import Ledger
from accupoison.runs.online import OnlineRun
record = OnlineRun._record
def filling(run, step):
    if run.evaluator.summary.steps == 2:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, resource.RLIM_INFINITY))
    record(run, step)
OnlineRun._record = filling
main()
"""


@pytest.mark.slow
def test_a_disk_that_fills_under_tensorboard(work: Path) -> None:
    arguments = (*ONLINE, "--steps", "5", SET, "run.save_every=2", SET, "evaluate.images=8")
    child = subprocess.run(
        [sys.executable, "-c", FULL_DISK, *arguments, "--out", "run"], env=ENVIRONMENT, capture_output=True, text=True
    )
    text = sentence(child.returncode, child.stderr)
    says(text, "run (File too large) free space")
    done("online", "--resume", "run", "--quiet")
    done(*arguments, "--out", "whole")
    assert outcome(Path("run")) == outcome(Path("whole"))


@pytest.mark.slow
@pytest.mark.parametrize("rate", ["1e20", "1e12"])
@pytest.mark.parametrize(("attack", "defense"), [("accumulative", "OURS"), ("direct", "AT"), ("none", "TRADES")])
def test_divergence_is_a_result(attack: str, defense: str, rate: str, work: Path) -> None:
    arguments = ["--attack", attack, "--med", defense, SET, f"optim.lr={rate}", "--out", "run"]
    result = done(*ONLINE, *arguments)
    assert "diverged: weights or gradients are no longer finite numbers" in result.stdout
    kept = outcome(Path("run"))
    assert json.loads(Path("run/summary.json").read_text())["status"] == "diverged"
    assert checkpoint.load(Path("run/state.pt"), "run-state")["diverged"] is True
    again = json.loads(done("online", "--resume", "run", "--json").stdout, parse_constant=pytest.fail)
    assert again["status"] == "diverged"
    assert outcome(Path("run")) == kept


def test_a_trigger_that_breaks_the_model_leaves_the_others(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = (*ONLINE, "--json")
    sound = json.loads(done(*arguments, "--trigger", "coast").stdout)
    step = SGD.step

    def breaking(rule: SGD, learner: Learner, defense: Defense, batch: Batch, ctx: Context) -> Verdict:
        verdict = step(rule, learner, defense, batch, ctx)
        if ctx.t == sound["horizon"]:
            next(learner.model.parameters()).data.fill_(float("nan"))
        return verdict

    monkeypatch.setattr(SGD, "step", breaking)
    found = json.loads(done(*arguments, "--trigger", "adversarial,coast,clean", "--out", "run").stdout)
    assert found["status"] == "diverged"
    assert found["branches"]["coast"] == sound["branches"]["coast"]
    assert set(found["branches"]["adversarial"]) == set(found["branches"]["clean"]) == {"after"}
    assert {row["branch"] for row in read_metrics(Path("run/metrics.jsonl"))} == {"", "adversarial", "coast", "clean"}


def test_a_checkpoint_that_diverged(work: Path) -> None:
    def spoil(payload: dict[str, Any]) -> None:
        payload["weights"]["conv1.weight"].fill_(float("nan"))

    path = resaved(CHECKPOINT, spoil)
    for attack in ("accumulative", "noise"):
        result = done(*ONLINE, "--checkpoint", path, "--attack", attack, "--json")
        assert json.loads(result.stdout)["status"] == "diverged"


def test_a_bug_in_a_component_keeps_its_traceback(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(attack: Noise, view: ModelView, batch: Batch, ctx: Context) -> Tensor:
        raise ValueError("a bug of its author")

    monkeypatch.setattr(Noise, "perturb", broken)
    error = call(*ONLINE, "--attack", "noise").exception
    assert isinstance(error, ValueError)
    assert str(error) == "a bug of its author"


def test_a_component_that_breaks_its_word_is_one_sentence(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Noise, "perturb", lambda attack, view, batch, ctx: batch.x * 0)
    text = refused(*ONLINE, "--attack", "noise")
    says(text, "Noise budget 0.1")
