"""The main job on real CIFAR-10, small."""

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from accupoison.cli import cli

DATA = Path(os.environ.get("ACCUPOISON_DATA", "data"))

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(
        not ((DATA / "cifar10.npz").exists() or (DATA / "cifar-10-batches-py").exists()),
        reason="CIFAR-10 is not in the directory that ACCUPOISON_DATA names",
    ),
]

PARTS = ["--set", "data.burnin=3000", "--set", "data.trusted=500", "--set", "data.monitor=300"]


def run(*arguments: str) -> dict[str, object]:
    result = CliRunner().invoke(
        cli, [*arguments, *PARTS, "--data-dir", str(DATA), "--width", "8", "--offline", "--json"]
    )
    assert result.exit_code == 0, result.output
    found: dict[str, object] = json.loads(result.stdout)
    return found


def test_burn_in_learns_and_poison_costs_more_than_no_poison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = DATA.resolve()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tests.e2e.test_cifar.DATA", data)
    burnin = run("burnin", "--epochs", "4", "--set", "train.batch_size=50", "--set", "train.last_batch_size=50")
    assert float(str(burnin["test_acc"])) > 0.3

    short = ["--steps", "4", "--after", "1", "--eps", "0.1", "--set", "evaluate.reestimate=false"]
    runs = {
        name: run("online", "--out", f"logs/{name}", *short, *options)
        for name, options in {
            "clean": ["--attack", "none", "--trigger", "clean"],
            "poisoned": ["--attack", "direct", "--eps", "0.2"],
            "accumulative": ["--med", "ST"],
            "ours": ["--med", "OURS"],
            "frozen": ["--med", "FREEZE"],
        }.items()
    }
    before = {name: found["before"]["acc"] for name, found in runs.items()}  # type: ignore[index]
    assert before["poisoned"] < before["clean"] - 0.02  # greedy: four accumulative steps are within the noise
    assert runs["accumulative"]["means"]["optim/grad_norm"] != runs["clean"]["means"]["optim/grad_norm"]  # type: ignore[index]
    assert runs["frozen"]["before"] == {**runs["frozen"]["start"], "drift": 0.0}  # type: ignore[dict-item]
    assert runs["clean"]["clean_ids"] == runs["poisoned"]["clean_ids"] == runs["ours"]["clean_ids"]
    assert float(runs["ours"]["means"]["defense/inner_steps"]) >= 0  # type: ignore[index]
