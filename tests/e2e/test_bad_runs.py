"""Run directories that cannot be used or resumed, and disks that fill: what was saved stays."""

import errno
import json
import os
import re
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


def test_a_place_that_is_taken(work: Path) -> None:
    done(*ONLINE, "--out", "run")
    kept = outcome(Path("run"))
    assert "run already holds a run; resume it or choose another name" in refused(*ONLINE, "--out", "run")
    assert ". holds other files, such as " in refused(*ONLINE, "--out", ".")
    assert "cannot write tiny.toml (File exists)" in refused(*ONLINE, "--out", "tiny.toml")
    Path("logs").write_text("a file where a directory is expected")
    assert "cannot write logs/digits-accumulative-ST-seed0 (Not a directory)" in refused(*ONLINE)
    with RunDirectory.resume(Path("run")):
        assert "run is in use by another run; wait for it to end" in refused("online", "--resume", "run")
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
        text = refused("online", "--resume", "run", *arguments)
        assert text.startswith("Error: run was started with another configuration (")
        assert difference in text
    assert outcome(Path("run")) == kept
    done(*ONLINE, "--eps", "8/255", "--resume", "run")  # the same options again are no difference
    assert outcome(Path("run")) == kept


def test_resuming_what_the_other_command_started(work: Path) -> None:
    place = CHECKPOINT.parent
    assert f"{place} was started by burnin; resume it with: python cli.py burnin" in refused(
        "online", "--resume", place
    )
    done(*ONLINE, "--out", "run")
    assert "run was started by online; resume it with: python cli.py online" in refused("burnin", "--resume", "run")


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
    path.write_bytes(path.read_bytes().replace(b'"loss/stream": 2', b'"loss/stream": 3', 1))


def swapped(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[1], lines[0], *lines[2:]]))


def key(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"loss/stream", b"stream/lors", 1))


def other_rows(path: Path) -> None:
    ledger = Ledger.load(path)
    ledger._rows["used"] = ~ledger._rows["used"]
    ledger.save(path)


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        ("config.json", cut, "config.json is damaged; restore a copy or start the run anew"),
        ("config.json", lambda path: path.write_text("[]"), "config.json is damaged; restore a copy or start"),
        ("config.json", Path.unlink, "there is no run in run; check the path"),
        ("state.pt", cut, "state.pt is not a readable checkpoint .*; make it anew"),
        ("state.pt", Path.unlink, "run has lost its state.pt; restore a copy or start the run anew"),
        (
            "metrics.jsonl",
            cut,
            r"metrics.jsonl has \d+ bytes, fewer than the \d+ of the checkpoint; start the run anew",
        ),
        ("metrics.jsonl", Path.unlink, r"metrics.jsonl has 0 bytes, fewer than the \d+ of the checkpoint; start"),
        ("metrics.jsonl", flip, "line 1 of run/metrics.jsonl is damaged; restore a copy or run again"),
        ("metrics.jsonl", zeros, "line 1 of run/metrics.jsonl is damaged; restore a copy or run again"),
        ("metrics.jsonl", digit, "metrics.jsonl is not as the run has written it; restore a copy or start the run"),
        ("metrics.jsonl", swapped, "metrics.jsonl is not as the run has written it; restore a copy or start the run"),
        ("metrics.jsonl", key, r"line \d of run/metrics.jsonl is damaged; restore a copy or run again"),
        ("ledger.npz", Ledger().save, r"the ledger has 0 rows, not the \d+ of the checkpoint; start the run anew"),
        ("ledger.npz", other_rows, "ledger.npz is not as the run has written it; restore a copy or start the run anew"),
        ("ledger.npz", cut, "ledger.npz is not a readable ledger .*; restore a copy or run again"),
        ("ledger.npz", Path.unlink, "there is no file run/ledger.npz; check the path"),
    ],
)
def test_resuming_a_damaged_run(name: str, spoil: Callable[[Path], None], message: str, work: Path) -> None:
    done(*ONLINE, "--out", "run")
    spoil(Path("run") / name)
    kept = files_of("run")
    assert re.match(f"Error: (run/)?{message}", refused("online", "--resume", "run"))
    assert files_of("run") == kept


def files_of(run: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(run).iterdir()}


def test_resuming_from_other_files(work: Path) -> None:
    done(*ONLINE, "--out", "run")
    whole = CHECKPOINT.read_bytes()
    resaved(CHECKPOINT, lambda p: p.update(epoch=3)).replace(CHECKPOINT)
    assert "the checkpoint has changed since run was started; bring the old one back" in refused(
        "online", "--resume", "run"
    )
    CHECKPOINT.write_bytes(whole)
    CHECKPOINT.with_name("early.pt").unlink()
    assert "the early snapshot has changed since run was started" in refused("online", "--resume", "run")


def test_data_may_move_before_a_resume(work: Path) -> None:
    for name in ("here", "there"):
        Path(name).mkdir()
    done(*ONLINE, "--out", "run", "--data-dir", "here")
    Path("here").rmdir()
    assert "the data directory here does not exist" in refused("online", "--resume", "run")
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


@pytest.mark.parametrize(
    ("limit", "error", "message"),
    [
        (50_000, 0, "cannot write run/state.pt (File too large); free space there or choose another directory"),
        (0, errno.ENOSPC, "cannot write run/ledger.rows (No space left on device); free space there or choose"),
    ],
)
def test_a_disk_that_fills_in_the_middle(limit: int, error: int, message: str, work: Path) -> None:
    arguments = (*ONLINE, "--steps", "5", SET, "run.save_every=2")
    done(*arguments, "--out", "whole")
    with pytest.MonkeyPatch.context() as patch:
        shrinking_disk(patch, limit, error)
        try:
            assert message in refused(*arguments, "--out", "run")
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


def test_a_disk_that_fills_under_tensorboard(work: Path) -> None:
    arguments = (*ONLINE, "--steps", "5", SET, "run.save_every=2", SET, "evaluate.images=8")
    child = subprocess.run(
        [sys.executable, "-c", FULL_DISK, *arguments, "--out", "run"], env=ENVIRONMENT, capture_output=True, text=True
    )
    text = sentence(child.returncode, child.stderr)
    assert text == "Error: cannot write run (File too large); free space there or choose another directory"
    done("online", "--resume", "run", "--quiet")
    done(*arguments, "--out", "whole")
    assert outcome(Path("run")) == outcome(Path("whole"))


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
    assert re.match("Error: attack Noise moved a pixel by .* over its eps; mend it, or choose another", text)
