"""The main job on real CIFAR-10, small."""

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from accupoison.cli import cli
from tests.e2e.conftest import cut_down

DATA = Path(os.environ.get("ACCUPOISON_DATA", "data")).resolve()

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(
        not (DATA / "cifar10.npz").exists(),
        reason="cifar10.npz is not in the directory that ACCUPOISON_DATA names",
    ),
]

SIZES = {"burnin": 3000, "stream": 1000, "trigger": 200, "val": 500, "trusted": 500, "monitor": 300}
PARTS = [part for name, count in SIZES.items() for part in ("--set", f"data.{name}={count}")]


def run(*arguments: str) -> dict[str, object]:
    result = CliRunner().invoke(cli, [*arguments, *PARTS, "--data-dir", "data", "--width", "8", "--offline", "--json"])
    assert result.exit_code == 0, result.output
    found: dict[str, object] = json.loads(result.stdout)
    return found


def test_burn_in_learns_and_poison_costs_more_than_no_poison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cut_down(DATA / "cifar10.npz", tmp_path / "data" / "cifar10.npz", 6000, 2000)
    burnin = run("burnin", "--epochs", "4", "--set", "train.batch_size=50", "--set", "train.last_batch_size=50")
    assert float(str(burnin["test_acc"])) > 0.3

    short = ["--recovery-steps", "0", "--eps", "0.1", "--set", "evaluate.reestimate=false"]
    runs = {
        name: run("online", "--out", f"logs/{name}", *short, *options)
        for name, options in {
            "clean": ["--attack", "none", "--trigger", "none", "--steps", "8"],
            "poisoned": ["--attack", "direct", "--eps", "0.3", "--trigger", "none", "--steps", "8"],
            "accumulative": ["--med", "ST", "--steps", "2"],
            "ours": ["--med", "OURS", "--steps", "2"],
            "frozen": ["--med", "FREEZE", "--trigger", "none", "--steps", "2"],
        }.items()
    }
    before = {name: found["before"]["acc"] for name, found in runs.items()}  # type: ignore[index]
    assert before["poisoned"] < before["clean"] - 0.02  # greedy: a few accumulative steps are within the noise
    assert runs["accumulative"]["means"]["optim/grad_norm"] != runs["clean"]["means"]["optim/grad_norm"]  # type: ignore[index]
    assert runs["frozen"]["before"] == {**runs["frozen"]["start"], "distance_from_start": 0.0}  # type: ignore[dict-item]
    assert runs["clean"]["clean_ids"] == runs["poisoned"]["clean_ids"]
    assert runs["accumulative"]["clean_ids"] == runs["ours"]["clean_ids"] == runs["frozen"]["clean_ids"]
    assert float(runs["ours"]["means"]["defense/inner_steps"]) >= 0  # type: ignore[index]
