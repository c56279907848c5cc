"""One tiny burn-in that the end-to-end tests share, and how they call the command line."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from accupoison.cli import cli
from accupoison.records import checkpoint
from accupoison.records.recorder import read_metrics

ROOT = Path(__file__).parent.parent.parent
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "ACCUPOISON_DATA"} | {
    "PYTHONPATH": str(ROOT),
    "OMP_NUM_THREADS": str(torch.get_num_threads()),
}
"""Of child processes, which must compute as this one does and, like it, know no data directory."""
NAME = "digits-resnet8-w4-batch-demo-2epochs-seed0"
CHECKPOINT = Path("checkpoints") / NAME / "final.pt"

TINY = """
[data]
name = "digits"
burnin = 200
stream = 260
trigger = 20
val = 20
trusted = 40
monitor = 20

[model]
name = "resnet8"
width = 4
norm = "batch"
"""
TRAIN = """
[train]
epochs = 2
batch_size = 20
lr = 0.05
schedule = "constant"
last_epochs = 0
"""
STREAM = """
[stream]
kind = "iid"
batch_size = 10
steps = 3
recovery_steps = 1
augment = "after"

[attack]
eps = 0.1
steps = 1

[optim]
restore_momentum = true

[trigger]
updates = 1

[defense.DSC]
threshold = "none"
slope = 0.0

[evaluate]
test = "milestones"
monitor = true
reestimate = true
images = 0
"""
"""Whatever the tests rely on is said here, so that the presets may change."""
ONLINE = ("online", "--preset", "demo", "--config", "tiny.toml", "--quiet")
SET = "--set"
BURNIN = ("burnin", "--recipe", "demo", "--config", "train.toml", "--quiet")


def call(*arguments: str | Path) -> Result:
    """Run the command line in this process."""
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def done(*arguments: str | Path) -> Result:
    """Run the command line, which must succeed."""
    result = call(*arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    return result


def refused(*arguments: str | Path) -> str:
    """Run the command line, which must refuse in one sentence with exit code 2; return the sentence."""
    result = call(*arguments)
    assert isinstance(result.exception, SystemExit), repr(result.exception)
    return sentence(result.exit_code, result.stderr)


def sentence(code: int, stderr: str) -> str:
    """Return the one error line of a refusal."""
    assert code == 2, (code, stderr)
    assert "Traceback" not in stderr
    lines = stderr.strip().splitlines()
    errors = [line for line in lines if line.startswith("Error: ")]
    assert len(errors) == 1, stderr
    assert lines[-1] == errors[0]
    assert len(lines) == 1 or lines[0].startswith("Usage: "), stderr  # click's own complaints begin with the usage
    return errors[0]


def write_settings(folder: Path) -> None:
    """Write the settings of tiny runs."""
    (folder / "train.toml").write_text(TINY + TRAIN)
    (folder / "tiny.toml").write_text(TINY + STREAM)


def resaved(path: Path, change: Callable[[dict[str, Any]], None], to: str = "other.pt") -> Path:
    """Write a sound base checkpoint that differs from the one at ``path``."""
    payload = checkpoint.load(path, "base-model")
    change(payload)
    checkpoint.save(Path(to), "base-model", payload)
    return Path(to)


class After:
    """Asks a run to stop after a number of steps."""

    def __init__(self, steps: float) -> None:
        self.left = steps

    def __call__(self) -> bool:
        self.left -= 1
        return self.left <= 0


def steps_of(run: str) -> int:
    """Return how many steps a run has saved."""
    return int(checkpoint.load(Path(run) / "state.pt", "run-state")["evaluator"]["steps"])


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a burn-in of digits through the command line and return the directory it was made in."""
    folder = tmp_path_factory.mktemp("base")
    write_settings(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("ACCUPOISON_DATA", raising=False)
        done(*BURNIN)
    return folder


@pytest.fixture
def work(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a fresh directory that holds a copy of the burn-in."""
    write_settings(tmp_path)
    shutil.copytree(base / "checkpoints", tmp_path / "checkpoints")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ACCUPOISON_DATA", raising=False)
    return tmp_path


def cut_down(source: Path, target: Path, train: int, test: int) -> None:
    """Write the first samples of a real data set, so that measuring on it takes a moment."""
    target.parent.mkdir(exist_ok=True)
    with np.load(source, allow_pickle=False) as found:
        limits = {"train_x": train, "train_y": train, "test_x": test, "test_y": test}
        np.savez(target, **{name: found[name][: limits.get(name)] for name in found.files})


def outcome(run: Path) -> dict[str, Any]:
    """Return all that two runs must have in common to be the same bit for bit; wall times are left out."""
    rows = [_timeless(row) for row in read_metrics(run / "metrics.jsonl")]
    summary = json.loads((run / "summary.json").read_text())
    for part in ("means", "release"):
        summary[part] = _timeless(summary.get(part, {}))
    state = checkpoint.load(run / "state.pt", "run-state")
    kept = {name: value for name, value in state.items() if name != "offset"}  # the rows hold wall times
    files = {
        name: (run / name).read_bytes()
        for name in ("config.json", "ledger.npz", "final.pt", "early.pt")
        if (run / name).exists()
    }
    return {"rows": repr(rows), "summary": repr(summary), **files, **_leaves(kept)}


def _timeless(row: dict[str, Any]) -> dict[str, Any]:
    return {tag: value for tag, value in row.items() if not tag.startswith("time/")}


def _leaves(value: object, path: str = "state") -> dict[str, Any]:
    if isinstance(value, torch.Tensor):
        return {path: (str(value.dtype), tuple(value.shape), value.reshape(-1).view(torch.uint8).numpy().tobytes())}
    if isinstance(value, dict):
        found: dict[str, Any] = {}
        for key, item in value.items():
            if not str(key).startswith("time/") and key != "fork":
                found |= _leaves(item, f"{path}.{key}")
        return found
    if isinstance(value, list | tuple):
        return _leaves(dict(enumerate(value)), path)
    return {path: repr(value)}
