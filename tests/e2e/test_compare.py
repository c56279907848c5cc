"""Defences side by side by one command."""

from pathlib import Path

import pytest

from accupoison.cli.output import TENSORBOARD, UNTICK
from accupoison.records.files import read_json
from tests.e2e.conftest import call, done, refused
from tests.messages import says

pytestmark = pytest.mark.slow
COMPARE = ("compare", "--preset", "demo", "--recipe", "demo", "--config", "both.toml", "--quiet")


@pytest.fixture
def both(work: Path) -> Path:
    text = Path("tiny.toml").read_text()
    Path("both.toml").write_text(text + Path("train.toml").read_text().partition("[train]")[2].join(["[train]", ""]))
    return work


def test_a_table_a_sentence_and_a_report(both: Path) -> None:
    first = done(*COMPARE, "--med", "ST,OURS", "--seeds", "0,1")
    (logs,) = Path("logs").iterdir()
    assert logs.name == "digits-resnet8-w4-accumulative-eps25.5-compare"
    names = {path.name for path in logs.iterdir() if path.is_dir()}
    kinds = ["clean-accumulative-ST", "clean-defended-accumulative-OURS", "clean-FREEZE-accumulative-ST"]
    kinds += ["noise-accumulative-ST", "FREEZE-accumulative-ST"]
    controls = {f"control-{name}-b0-s{s}" for name in kinds for s in (0, 1)}
    assert names == controls | {f"accumulative-{name}-b0-s{s}" for name in ("ST", "OURS") for s in (0, 1)}
    lines = first.stdout.splitlines()
    rows = [line.split("  ")[0] for line in lines]
    assert [row for row in rows if row.startswith(("ST, clean", "ST, noise", "FREEZE", "ST, acc", "OURS (DSC)"))]
    assert "On digits, accumulative poisoning of the iid stream with the adversarial trigger costs" in first.stdout
    assert f"report: {logs}/report.html" in lines
    assert "about" in first.stderr, "it says beforehand how long it takes"
    assert "by a trial of" in first.stderr
    stamps = {path: path.stat().st_mtime_ns for path in logs.glob("*/summary.json")}
    again = done(*COMPARE, "--med", "ST,OURS,CLIP", "--seeds", "0,1")
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps, "what is finished is left alone"
    assert "CLIP, accumulative" in again.stdout
    other = done(*COMPARE, "--med", "ST", "--seeds", "0", "--eps", "0.05", "--dry-run").stdout
    assert "eps12.8-compare/accumulative-ST-b0-s0\n" in other
    assert "(made already)\n" in other, "the base model"
    assert "left to do: 0 base models and 5 runs" in other
    other = done(*COMPARE, "--med", "ST", "--seeds", "0", "--steps", "2", "--dry-run").stdout
    assert "eps25.5-compare-2/accumulative-ST-b0-s0" in other, "other settings, another directory"


def test_one_base_model_of_ones_own(both: Path) -> None:
    base = next(Path("checkpoints").iterdir())
    base.rename("mine")
    few = ("--med", "FREEZE", "--seeds", "0", "--set", "stream.steps=1", "--quiet")
    result = done("compare", "--checkpoint", "mine", *few, "--out", "side by side")
    curves = ["curves:", "  tensorboard --logdir 'side by side'", f"  {TENSORBOARD}", f"  {UNTICK}"]
    assert result.stdout.splitlines()[-4:] == curves
    assert not list(Path("checkpoints").iterdir())
    run = Path("side by side/accumulative-FREEZE-b0-s0")
    config = read_json(run / "config.json")
    assert config["start"]["checkpoint"] == "mine"
    assert config["data"]["stream"] == 260, "the division of the base model"


def test_what_is_no_comparison(both: Path) -> None:
    says(refused("compare", "--seeds", "0;1"), "--seeds 0;1 0,1,2")
    says(refused("compare", "--med", ","), "--med ST,OURS")
    says(refused("compare", "--med", "OUR"), "OUR ours")
    says(refused("compare", "--seed", "1"), "--seed --seeds")
    assert "--after" not in refused("compare", "--triger", "coast"), "an old name is not suggested"
    trained = done(*COMPARE, "--med", "ST", "--epochs", "3", "--dry-run").stdout
    assert "3epochs" in trained.splitlines()[0]
    failed = call(*COMPARE, "--med", "ST", "--seeds", "0", "--set", "stream.batch_size=10000")
    assert failed.exit_code in (1, 2)
    assert "10000" in failed.stderr
