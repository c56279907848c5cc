"""Privacy attacks and noisy-label defences by the command line: burn-ins, streams and their audits."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from accupoison.config.schema import burnin_config
from accupoison.data import load
from accupoison.data.fabricated import source_ids
from accupoison.records.checkpoint import load as load_checkpoint
from accupoison.records.files import read_json
from accupoison.records.ledger import Ledger
from accupoison.records.recorder import read_metrics
from accupoison.runs.burnin import run_burnin
from tests.e2e.conftest import BURNIN, CHECKPOINT, ONLINE, SET, After, done, outcome, refused
from tests.messages import says

pytestmark = pytest.mark.slow

PLAIN = (SET, "train.label_smoothing=0")
SMALL = {
    "dirty-label": ("attack.ratio=0.05",),
    "targeted": ("attack.count=20", "attack.copies=2"),
    "clean-label": ("attack.ratio=0.1", "attack.iterations=2", f"attack.encoder={CHECKPOINT}"),
    "backdoor": ("attack.ratio=0.1", "attack.patch=2"),
    "code": (),
}


def sets(*pairs: str) -> tuple[str, ...]:
    return tuple(word for pair in pairs for word in (SET, pair))


def weights(run: str) -> list[bytes]:
    return [w.numpy().tobytes() for w in load_checkpoint(Path(run) / "final.pt", "base-model")["weights"].values()]


@pytest.mark.parametrize("attack", SMALL)
@pytest.mark.parametrize("defense", ["ST", "NLL-DYNAMIC"])
def test_a_poisoned_burn_in_is_recorded_and_resumed(attack: str, defense: str, work: Path) -> None:
    nll = sets("defense.min_samples=50", "defense.min_separation=0") if defense != "ST" else ()
    command = (*BURNIN, *PLAIN, "--attack", attack, "--med", defense, *sets(*SMALL[attack]), *nll)
    done(*command, "--out", "whole")
    config = burnin_config([read_json(Path("whole/config.json"))])
    stopped = run_burnin(config, Path("parts"), resume=False, progress=lambda *_: None, should_stop=After(13))
    assert stopped["status"] == "interrupted"
    done("burnin", "--resume", "parts", "--quiet")
    assert outcome(Path("parts")) == outcome(Path("whole"))
    rows = Ledger.load(Path("whole/ledger.npz")).rows
    data = load("digits")
    ids = torch.from_numpy(rows["id"].copy())
    own = rows["id"] < 0
    true = data.labels(source_ids(ids)).numpy()
    counts = {"dirty-label": (10, 0), "targeted": (0, 40), "clean-label": (0, 20), "backdoor": (20, 0)}
    changed = int((rows["changed"] & ~own).sum())
    assert (changed, int(own.sum())) == counts.get(attack, (0, 200))  # code: a twin for each
    if attack in ("dirty-label", "targeted"):
        assert bool(((rows["label"] != true) == rows["changed"]).all())
    assert "attacker" in json.loads(Path("whole/summary.json").read_text())["threat_model"]
    found = Path("whole/suspects.csv")
    assert found.exists() == (defense != "ST")
    if defense != "ST":
        table = list(csv.DictReader(found.read_text().splitlines()))
        assert {int(row["id"]) for row in table} <= set(rows["id"].tolist())
        assert sum(int(row["poisoned"]) for row in table) <= changed + int(own.sum())
        assert [float(row["score"]) for row in table] == sorted((float(row["score"]) for row in table), reverse=True)


@pytest.mark.parametrize(
    "neutral",
    [
        ("--attack", "dirty-label", SET, "attack.ratio=0"),
        ("--attack", "targeted", SET, "attack.copies=0", SET, "attack.count=10"),
        ("--attack", "code", SET, "attack.ratio=0"),
        ("--med", "MIXUP", SET, "defense.alpha=0"),
        ("--med", "NLL-STATIC", SET, "defense.alpha=0", SET, "defense.max_b=0"),
        ("--med", "NLL-DYNAMIC", SET, "defense.alpha=0", SET, "defense.max_b=0"),
    ],
)
def test_neutral_settings_train_the_same_weights(neutral: tuple[str, ...], work: Path) -> None:
    done(*BURNIN, *PLAIN, "--out", "clean")
    done(*BURNIN, *PLAIN, "--out", "neutral", *neutral)
    assert weights("neutral") == weights("clean")


def test_the_clean_place_is_not_taken_by_a_poisoned_burn_in(work: Path) -> None:
    before = CHECKPOINT.read_bytes()
    text = done(*BURNIN, *PLAIN, "--attack", "dirty-label").stdout
    assert "demo-2epochs-dirty-label-ST-seed0" in text
    assert CHECKPOINT.read_bytes() == before


def test_wrong_labels_are_found_in_a_training(work: Path) -> None:
    nll = ("--med", "NLL-DYNAMIC", *sets("defense.mixture=margin", "defense.min_samples=100", "train.epochs=14"))
    poison = ("--attack", "dirty-label", *sets("attack.target_class=none", "attack.ratio=0.2"))
    sizes = sets("data.burnin=900", "model.width=8", "train.lr=0.05")
    done(*BURNIN, *PLAIN, *poison, *nll, *sizes, "--out", "nll")
    summary = json.loads(Path("nll/summary.json").read_text())
    rows = read_metrics(Path("nll/metrics.jsonl"))
    assert summary["suspects"]["poisoned"] == 180
    assert summary["suspects"]["auc"] == rows[-1]["defense/noisy_auc"]
    apart = [row for row in rows if row["defense/mixture_separation"] >= 2]
    assert apart  # the losses show two groups sooner or later
    assert all(row["defense/noisy_auc"] > 0.9 and 0.1 < row["defense/noise_rate"] < 0.4 for row in apart)
    together = [row for row in rows if row["defense/mixture_separation"] < 2]
    assert all(row["defense/noise_rate"] == 0 and row["defense/noisy_auc"] == 0.5 for row in together)
    assert "train/acc" not in rows[-1]


def test_twins_give_members_away_and_nothing_else_does(work: Path) -> None:
    sizes = sets("data.burnin=300", "model.width=8", "train.epochs=30", "train.lr=0.1")
    done(*BURNIN, *PLAIN, "--attack", "code", *sizes, "--norm", "auxiliary", "--out", "code")
    found = json.loads(done("audit", "--run", "code", "--attack", "twin", "--json").stdout)
    aucs = {row["attack"]: row["roc"]["auc"] for row in found["groups"]["burn-in"]}
    assert aucs["twin"] > 0.97
    assert max(auc for name, auc in aucs.items() if name != "twin") < 0.9
    assert found["accuracy"]["burn-in"]["members"] > 0.9
    clean = json.loads(done("audit", "--run", CHECKPOINT.parent, "--attack", "twin", "--json").stdout)
    control = next(row["roc"] for row in clean["groups"]["burn-in"] if row["attack"] == "twin")
    low, high = control["intervals"]["auc"]
    assert low < 0.5 < high


def test_the_audit_of_a_burn_in_leaves_poisoned_samples_out(work: Path) -> None:
    done(*BURNIN, *PLAIN, "--attack", "dirty-label", *sets("attack.target_class=3", "attack.ratio=0.05"), "--out", "d")
    text = done("audit", "--run", "d").stdout
    says(text.splitlines()[0], "burn-in members against test images")
    assert "class 3 members against test images" in text
    found = json.loads(Path("d/audit/audit.json").read_text())
    assert set(found["groups"]) == {"burn-in", "class 3"}
    rows = Ledger.load(Path("d/ledger.npz")).rows
    changed, data = rows["changed"], load("digits")
    of_class = data.labels(torch.from_numpy(rows["id"].copy())).numpy() == 3
    poisoned = set(rows["id"][changed].tolist())
    for group in found["groups"].values():
        assert poisoned.isdisjoint(group[0]["most_vulnerable"])
    samples = json.loads(Path("d/audit/class-3/audit.json").read_text())["samples"]
    assert samples == int((of_class & ~changed).sum()) + int((data.test_y == 3).sum())  # the whole class
    assert {"audit.json", "audit.csv", "roc.png"} <= {path.name for path in Path("d/audit/class-3").iterdir()}


def test_targets_of_a_stream_are_a_group_of_their_own(work: Path) -> None:
    stream = sets("stream.steps=8", "attack.count=60", "data.stream=260")
    done(*ONLINE, "--attack", "targeted", "--trigger", "none", *stream, "--out", "run")
    found = json.loads(done("audit", "--run", "run", "--json").stdout)
    assert set(found["groups"]) == {"burn-in", "stream", "targets"}
    summary = json.loads(Path("run/summary.json").read_text())
    assert "attacker (targeted) sees nothing of the model, adds 8 rows for each of 60 images" in summary["threat_model"]
    ledger = Ledger.load(Path("run/ledger.npz")).rows
    assert int((ledger["id"] < 0).sum()) == 480
    targets = np.unique(source_ids(torch.from_numpy(ledger["id"][ledger["id"] < 0].copy())).numpy())
    learnt = np.intersect1d(targets, ledger["id"][ledger["used"]])
    assert 10 < len(learnt) < 50
    reported = json.loads(Path("run/audit/targets/audit.json").read_text())["samples"]
    assert reported == 60


def test_worlds_of_targets_attack_each_other(work: Path) -> None:
    command = (
        *("audit", "offline", "--data", "digits", "--model", "convnet", "--width", "4", "--size", "400"),
        *("--shadows", "8", "--leave-one-out", "--epochs", "2", "--attack", "targeted", "--quiet", "--out", "worlds"),
        *sets("train.batch_size=50", "train.milestones=1", "shadows.population=50", "attack.count=60"),
    )
    text = done(*command).stdout
    assert "targets, which targeted is after" in text
    assert "8 models, each attacked by the others" in text
    found = json.loads(done(*command, "--json").stdout)
    assert set(found["groups"]) == {"targets"}
    targets = found["groups"]["targets"]
    assert len(targets["lira_online"]["auc"]) == 8
    assert targets["lira_online"]["auc_per_sample"] is None  # its fits leave one model out, which biases them
    assert 0 <= targets["loss"]["auc_per_sample"] <= 1
    assert set(found["focus"]) == {"targets"}


def test_what_cannot_be_is_said(work: Path) -> None:
    smoothed = refused(*BURNIN, "--med", "MIXUP", SET, "train.label_smoothing=0.1", "--out", "x")
    says(smoothed, "train.label_smoothing 0.1 MIXUP train.label_smoothing=0")
    says(refused(*BURNIN, "--attack", "accumulative"), "accumulative --attack dirty-label")
    says(refused(*BURNIN, "--med", "OURS"), "DSC snapshot trusted-unlabelled choose another")
    says(refused(*BURNIN, "--med", "FREEZE"), "FREEZE choose another")
    says(refused(*BURNIN, *PLAIN, "--attack", "clean-label"), "clean-label attack.encoder")
    says(
        refused(*BURNIN, "--attack", "clean-label", SET, "attack.target_class=none"), "attack.target_class none number"
    )
    private = ("--update", "dpsgd", "--norm", "group", *PLAIN)
    says(refused(*BURNIN, *private, "--med", "NLL-STATIC"), "NLL-STATIC DP-SGD update.coupled=true")
    says(refused(*BURNIN, *private, "--attack", "code"), "code DP-SGD update.coupled=true")
    says(refused(*ONLINE, "--attack", "targeted", SET, "attack.count=20"), "targeted --trigger none, coast or clean")
    says(refused("audit", "--run", CHECKPOINT.parent, "--release", "round:2"), "--release round:2 burn-in drop")
    assert not Path("x").exists()
