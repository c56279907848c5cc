"""What a run rests on is checked by content before anything of it is touched, and what a kill leaves is cleared."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

from accupoison.records import checkpoint
from accupoison.runs.online import OnlineRun
from tests.e2e.conftest import ONLINE, SET, call, done, outcome, refused, resaved
from tests.e2e.test_bad_runs import cut, digit, files_of, flip, swapped, zeros
from tests.e2e.test_sweep import GRID
from tests.messages import says

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (zeros, "ledger.rows written"),
        (flip, "ledger.rows written"),
        (lambda path: path.write_bytes(path.read_bytes()[::-1]), "ledger.rows written"),
        (cut, "ledger rows not"),
    ],
)
def test_resuming_a_run_whose_ledger_is_damaged(
    spoil: Callable[[Path], None], message: str, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(run: OnlineRun) -> None:
        raise RuntimeError

    monkeypatch.setattr(OnlineRun, "_close", fail)
    assert isinstance(call(*ONLINE, SET, "run.save_every=2", "--out", "run").exception, RuntimeError)
    monkeypatch.undo()
    monkeypatch.chdir(work)
    spoil(Path("run/ledger.rows"))
    kept = files_of("run")
    says(refused("online", "--resume", "run"), message)
    assert files_of("run") == kept


def test_a_run_from_before_there_were_digests(work: Path) -> None:
    done(*ONLINE, "--out", "whole")
    config = (*ONLINE, "--out", "run")
    done(*config)
    state = checkpoint.load(Path("run/state.pt"), "run-state")
    del state["ledger"]["digest"]
    state["offset"] = state["offset"]["bytes"]
    checkpoint.save(Path("run/state.pt"), "run-state", state)
    done("online", "--resume", "run")
    assert outcome(Path("run")) == outcome(Path("whole"))


def test_what_a_kill_leaves_behind_is_cleared(work: Path) -> None:
    done(*ONLINE, "--out", "run", "--save-batches")
    places = [Path("run/.state.pt.1.ab.tmp"), Path("run/batches/.000001.npz.1.ab.tmp")]
    for place in places:
        place.write_text("half")
    Path("run/.kept.tmp").mkdir()
    done("online", "--resume", "run")
    assert not any(place.exists() for place in places)
    assert Path("run/.kept.tmp").is_dir()


def test_a_run_on_a_disk_that_cannot_be_written_is_audited(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done(*ONLINE, "--out", "run")
    kept = files_of("run")

    def read_only(path: Path) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("accupoison.records.run_directory.lock_directory", read_only)  # root writes to any directory
    done("audit", "--run", "run", "--out", "elsewhere")
    assert Path("elsewhere/audit.json").exists()
    assert files_of("run") == kept


def test_the_verdict_is_shown_also_after_a_kill(work: Path) -> None:
    done(*ONLINE, "--out", "run")
    for path in (Path("run/summary.json"), *Path("run").glob("events*")):  # as if killed before it was written
        path.unlink()
    done("online", "--resume", "run")
    events = EventAccumulator("run").Reload()
    assert "about/1 verdict/text_summary" in events.Tags()["tensors"]
    assert "_hparams_/session_end_info" in events.Tags()["tensors"]


def test_a_sweep_does_not_mix_what_was_made_from_other_files(work: Path) -> None:
    Path("grid.toml").write_text(GRID.split('[[runs]]\nname = "noise"')[0].replace("seeds = [0, 1]", "seeds = [0]", 1))
    done("sweep", "grid.toml", "--quiet")
    base = next(Path("checkpoints").glob("*seed0/final.pt"))
    whole = base.read_bytes()
    resaved(base, lambda payload: payload.update(epoch=3)).replace(base)
    done("sweep", "grid.toml", "--quiet")  # nothing is left to be set beside them
    Path("logs/grid/clean-ST-b0-s0/summary.json").unlink()
    text = refused("sweep", "grid.toml", "--quiet")
    says(text, "changed logs/grid/clean-FREEZE-b0-s0")
    base.write_bytes(whole)
    done("sweep", "grid.toml", "--quiet")


@pytest.mark.parametrize("spoil", [digit, swapped, zeros, lambda path: path.write_bytes(b"")])
def test_a_report_draws_no_curve_of_rows_that_a_run_has_not_written(spoil: Callable[[Path], None], work: Path) -> None:
    for name in ("one", "two"):
        done(*ONLINE, "--out", f"logs/{name}", "--eps", {"one": "0.1", "two": "0.2"}[name])
    spoil(Path("logs/one/metrics.jsonl"))
    result = done("report", "logs")
    (note,) = result.stderr.splitlines()
    assert "logs/one/metrics.jsonl" in note
    assert Path("logs/curves.png").exists()
