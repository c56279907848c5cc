"""An online run: what it records, and that runs which should agree do."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from accupoison.models.factory import ModelSpec, build_model
from accupoison.records import checkpoint
from accupoison.records.ledger import Ledger
from accupoison.records.recorder import read_metrics
from accupoison.runs.base_model import BaseModel
from tests.e2e.conftest import BURNIN, CHECKPOINT, ONLINE, SET, done, outcome, refused
from tests.messages import says


def online(*arguments: str | Path) -> dict[str, Any]:
    """Carry out a tiny run and return its summary."""
    return dict(json.loads(done(*ONLINE, *arguments, "--json").stdout))


def test_what_a_run_records(work: Path) -> None:
    summary = online(SET, "evaluate.images=2", "--med", "OURS")
    run = Path("logs/digits-resnet8-w4-accumulative-eps25.5-OURS-seed0")
    assert summary["run"] == str(run)
    names = {re.sub(r"(tfevents).*", r"\1", path.name) for path in run.iterdir()}
    files = {"config.json", "env.json", "lock", "metrics.jsonl", "state.pt", "summary.json", "events.out.tfevents"}
    assert names == files | {"ledger.npz", "threat.json"}
    stored = json.loads((run / "summary.json").read_text())
    assert {"run": str(run), **stored} == summary
    assert (summary["status"], summary["horizon"], summary["test_images"]) == ("finished", 3, 250)
    assert summary["branches"].keys() == {"adversarial"}
    assert summary["branches"]["adversarial"].keys() == {"after", "end"}
    rows = read_metrics(run / "metrics.jsonl")
    assert [(row["step"], row["branch"]) for row in rows] == [
        (0, ""),
        (1, ""),
        (2, ""),
        (3, ""),
        (4, "adversarial"),
        (5, "adversarial"),
    ]
    assert [row["step"] for row in rows if "test/acc" in row] == [0, 3, 4, 5]
    eps = json.loads((run / "config.json").read_text())["attack"]["eps"]
    assert all(0 < row["attack/linf"] <= eps + 1e-6 for row in rows[1:5])
    assert rows[5]["attack/linf"] == 0
    env = json.loads((run / "env.json").read_text())
    assert {"checkpoint", "early", "data", "torch", "commit", "device"} <= env.keys()
    again = done(*ONLINE, "--med", "OURS")
    assert (
        "wrote logs/digits-resnet8-w4-accumulative-eps25.5-OURS-seed0-2\ncurves:\n  tensorboard --logdir logs\n"
        in again.stdout
    )


def test_the_numbers_are_those_of_the_rows(work: Path) -> None:
    summary = online("--out", "run", "--trigger", "coast,adversarial")
    rows = read_metrics(Path("run/metrics.jsonl"))
    by_step = {(row["step"], row["branch"]): row for row in rows}
    assert summary["start"]["acc"] == by_step[0, ""]["test/acc"]
    assert summary["before"]["acc"] == by_step[3, ""]["test/acc"]
    for name in ("coast", "adversarial"):
        assert summary["branches"][name]["after"]["acc"] == by_step[4, name]["test/acc"]
        assert summary["branches"][name]["end"]["acc"] == by_step[5, name]["test/acc"]
        assert summary["branches"][name]["end"]["distance_from_start"] == by_step[5, name]["optim/distance_from_start"]
    trunk = [row["optim/grad_norm"] for row in rows if row["branch"] == "" and row["step"]]
    assert summary["means"]["optim/grad_norm"] == pytest.approx(sum(trunk) / 3)


def test_the_start_is_the_base_model(work: Path) -> None:
    burnin = json.loads((CHECKPOINT.parent / "summary.json").read_text())
    assert online()["start"]["acc"] == burnin["test_acc"]


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes(work: Path) -> None:
    for out, seed in (("a", "3"), ("b", "3"), ("c", "4")):
        online("--out", out, "--seed", seed, "--med", "OURS", SET, "defense.threshold=0")
    assert outcome(Path("a")) == outcome(Path("b"))
    a, c = (json.loads(Path(out, "summary.json").read_text()) for out in ("a", "c"))
    assert a["clean_ids"] != c["clean_ids"]


@pytest.mark.slow
def test_the_defence_does_not_change_the_data(work: Path) -> None:
    summaries = [online("--out", med, "--med", med) for med in ("ST", "OURS", "FREEZE", "TRADES")]
    assert len({summary["clean_ids"] for summary in summaries}) == 1
    ledgers = [Ledger.load(Path(med, "ledger.npz")).rows for med in ("ST", "OURS", "FREEZE", "TRADES")]
    assert all((rows["id"] == ledgers[0]["id"]).all() for rows in ledgers)
    assert ledgers[0]["used"].all()
    assert not ledgers[2]["used"].any()
    frozen = summaries[2]
    assert frozen["start"] == {key: value for key, value in frozen["before"].items() if key != "distance_from_start"}
    assert frozen["branches"]["adversarial"]["end"]["distance_from_start"] == 0


@pytest.mark.slow
def test_a_neutral_defence_is_standard_training(work: Path) -> None:
    for out, arguments in {
        "st": ["--med", "ST"],
        "dsc": ["--med", "OURS", SET, "defense.threshold=inf"],
        "clip": ["--med", "CLIP", SET, "defense.max_norm=inf"],
        "trades": ["--med", "TRADES", SET, "defense.beta=0"],
    }.items():
        online("--out", out, *arguments)
    losses = {out: _curve(out, "test/loss") for out in ("st", "dsc", "clip", "trades")}
    assert losses["dsc"] == losses["clip"] == losses["st"]
    assert losses["trades"] == pytest.approx(losses["st"])


def _curve(out: str, tag: str) -> list[float]:
    return [row[tag] for row in read_metrics(Path(out, "metrics.jsonl")) if tag in row]


@pytest.mark.slow
def test_a_branch_does_not_depend_on_the_others(work: Path) -> None:
    triggers = ("none", "coast", "clean", "adversarial")
    together = online("--out", "all", "--trigger", ",".join(triggers))["branches"]
    assert {name: online("--out", name, "--trigger", name)["branches"][name] for name in triggers} == together
    assert len({values["end"]["distance_from_start"] for values in together.values()}) == 4


def test_without_ordinary_steps_there_is_the_trigger_alone(work: Path) -> None:
    summary = online("--steps", "0", "--recovery-steps", "0")
    assert summary["horizon"] == 0
    assert summary["before"] == summary["start"]
    assert summary["branches"]["adversarial"]["after"] == summary["branches"]["adversarial"]["end"]
    assert summary["means"] == {}
    nothing = online("--steps", "0", "--recovery-steps", "0", "--trigger", "none")
    assert nothing["branches"] == {}
    assert nothing["status"] == "finished"


@pytest.mark.parametrize(
    ("rule", "horizon"), [("stop.error_above=0", 1), ("stop.error_above=1", 3), ("stop.error_rise=1", 3)]
)
def test_stop_rules(rule: str, horizon: int, work: Path) -> None:
    summary = online(SET, rule, "--out", "run")
    assert summary["horizon"] == horizon
    steps = [(row["step"], row["branch"]) for row in read_metrics(Path("run/metrics.jsonl"))]
    assert steps == [*((t, "") for t in range(horizon + 1)), (horizon + 1, "adversarial"), (horizon + 2, "adversarial")]
    assert summary["before"]["acc"] == _curve("run", "test/acc")[-3]


def test_a_shifting_stream_is_measured_under_its_shift(work: Path) -> None:
    online("--stream", "shift:contrast", "--out", "run", SET, "evaluate.test=every")
    rows = read_metrics(Path("run/metrics.jsonl"))
    assert all("test/shifted_acc" in row for row in rows)
    assert "test/shifted_acc_bn_reestimated" in rows[3]
    assert rows[0]["test/shifted_acc"] == rows[0]["test/acc"]
    assert any(row["test/shifted_acc"] != row["test/acc"] for row in rows)


def test_the_flags_reach_the_run(work: Path) -> None:
    online("--out", "run", "--eps", "8/255", "--bn-mode", "eval", "--clip-norm", "0.01", SET, "optim.lr=0.5")
    rows = read_metrics(Path("run/metrics.jsonl"))[1:]
    assert all(row["attack/linf"] <= 8 / 255 + 1e-6 for row in rows)
    assert all(row["optim/lr"] == 0.5 for row in rows)
    statistics = {name: buffer for name, buffer in BaseModel.load(CHECKPOINT).weights.items() if "running" in name}
    model = checkpoint.load(Path("run/state.pt"), "run-state")["simulation"]["parts"]["learner"]["model"]
    assert all(torch.equal(model[name], buffer) for name, buffer in statistics.items())


@pytest.mark.slow
@pytest.mark.parametrize("prefix", ["module.", ""])
def test_a_released_checkpoint(prefix: str, work: Path) -> None:
    spec = ModelSpec(name="resnet18", width=4)
    weights = {f"{prefix}{name}": value for name, value in build_model(spec, seed=5).state_dict().items()}
    torch.save({"net": weights, "epoch": 40, "acc": 81.5}, "epoch40.pth")
    arguments = ("online", "--config", "tiny.toml", "--model", "resnet18", "--checkpoint", "epoch40.pth", "--quiet")
    text = refused(*arguments)
    says(text, "epoch40.pth learning rate")
    says(text, "optim.lr 0.1")
    summary = json.loads(done(*arguments, SET, "optim.lr=0.1", "--json", "--out", "run").stdout)
    assert summary["status"] == "finished"
    assert all(row["optim/lr"] == 0.1 for row in read_metrics(Path("run/metrics.jsonl"))[1:])
    base = BaseModel.load(Path("epoch40.pth"))
    assert (base.spec.name, base.spec.width, base.spec.num_classes) == ("resnet18", 4, 10)
    assert base.spec.mean == (0.4914, 0.4822, 0.4465)


@pytest.mark.slow
def test_weights_of_ones_own(work: Path) -> None:
    weights = BaseModel.load(CHECKPOINT).weights
    torch.save({"state_dict": {f"module.{name}": value for name, value in weights.items()}}, "mine.pth")
    torch.save(dict(BaseModel.load(CHECKPOINT.with_name("early.pt")).weights), "young.pth")
    (Path("bare.toml")).write_text(Path("tiny.toml").read_text().split("[model]")[0])
    arguments: tuple[str, ...] = (
        "online",
        "--weights",
        "mine.pth",
        "--quiet",
        "--out",
        "run",
        "--med",
        "OURS",
        "--reference",
        "young.pth",
        "--trigger",
        "adversarial",
    )
    says(refused(*arguments, "--config", "bare.toml"), "mine.pth network --model")
    arguments = (*arguments, "--config", "tiny.toml")
    says(refused(*arguments), "mine.pth learning rate")
    arguments = (*arguments, SET, "optim.lr=0.05")
    says(refused(*arguments, "--width", "8"), "resnet8 width 8 conv1.weight [4, 3, 3, 3] [8,")
    result = done(*arguments)
    assert "mine.pth does not say which images it was trained on" in result.stderr
    known = online("--med", "OURS", SET, "optim.lr=0.05", SET, "optim.restore_momentum=false", "--out", "known")
    assert outcome(Path("run"))["rows"] == outcome(Path("known"))["rows"]
    assert known["status"] == "finished"
    assert len(json.loads(Path("run/env.json").read_text())["checkpoint"]) == 64
    assert "member" in done("audit", "--run", "run").stdout
    torch.save(dict(weights), "mine.pth")
    says(refused("online", "--resume", "run"), "checkpoint changed run")


def test_a_frozen_layer_stays_as_it_is(work: Path) -> None:
    own = ("--model", "tests.nets:frozen_net", "--quiet")
    done(*BURNIN, *own, "--out", "base")
    base, first = BaseModel.load(Path("base/final.pt")), build_model(ModelSpec(name="tests.nets:frozen_net"))
    assert not any(p.requires_grad for p in first[0].parameters())  # type: ignore[index]
    early = BaseModel.load(Path("base/early.pt"))
    assert torch.equal(base.weights["0.weight"], early.weights["0.weight"])
    assert not torch.equal(base.weights["9.weight"], early.weights["9.weight"])
    summary = online(*own, "--checkpoint", "base", "--out", "run", "--trigger", "coast,adversarial")
    assert summary["status"] == "finished"
    state = checkpoint.load(Path("run/state.pt"), "run-state")["simulation"]["parts"]["learner"]["model"]
    assert torch.equal(state["0.weight"], base.weights["0.weight"])
    assert not torch.equal(state["9.weight"], base.weights["9.weight"])


def test_a_checkpoint_may_be_named_by_its_directory(work: Path) -> None:
    place = CHECKPOINT.parent.rename("elsewhere")
    assert online("--checkpoint", place, "--med", "OURS")["status"] == "finished"
