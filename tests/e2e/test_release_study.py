"""``audit releases`` on a small set: four stages that go on where they stopped, three attackers, one refusal each."""

import csv
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from accupoison.audit.releases import stages
from accupoison.release import RELEASES, Release
from accupoison.runs.interrupt import Interruption
from tests.e2e.conftest import call, done, refused
from tests.messages import says

SETTINGS = """
[data]
name = "npz:set.npz"
monitor = 10

[model]
name = "memguard-mlp"
width = 3

[train]
epochs = 8
batch_size = 20
lr = 0.1
momentum = 0.9
schedule = "constant"
label_smoothing = 0.0
last_epochs = 0

[parts]
members = "0:60"
defense_nonmembers = "60:120"
nonmembers = "120:180"
shadow_members = "180:220"
shadow_nonmembers = "220:260"

[study]
releases = ["memguard:epochs=2,max_iterations=20", "label-only"]
budgets = [1.0, 0.0]
seeds = 2

[neural]
hidden = [8]
epochs = 2
milestones = []

[private]
noise_multipliers = [0.5]
epochs = 1
batch_size = 20
"""
WORDS = ("audit", "releases", "--config", "study.toml", "--quiet")
MEMGUARD = "memguard:epochs=2,max_iterations=20"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ACCUPOISON_DATA", raising=False)
    rng = np.random.default_rng(0)
    y = rng.integers(0, 4, 300)
    np.savez("set.npz", x=(rng.random((300, 12)) < 0.3 + 0.4 * np.eye(4, 12)[y]).astype(np.uint8), y=y)
    Path("study.toml").write_text(SETTINGS)
    return tmp_path


def outcome(folder: str) -> dict[str, Any]:
    """Return what two studies must have in common, without wall times and memory."""
    found: dict[str, Any] = {}
    for path in sorted(Path(folder, "stages").iterdir()):
        found[path.name] = path.read_bytes()
        if path.suffix == ".json":
            rows = json.loads(path.read_text())["rows"]
            found[path.name] = [{k: v for k, v in row.items() if k != "seconds_per_query"} for row in rows]
    return found | {"csv": Path(folder, "releases.csv").read_text()}


@pytest.mark.slow
def test_stages_one_by_one_and_interrupted_make_the_same_study(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = done(*WORDS, "--out", "whole").stdout
    for title in ("unaware AUC", "adaptive AUC", "label-only AUC", "epsilon", "labels kept", "l1 members"):
        assert title in text
    whole = outcome("whole")
    _closed_forms(json.loads(Path("whole/releases.json").read_text()))
    rows = list(csv.DictReader(Path("whole/releases.csv").read_text().splitlines()))
    assert {row["attacker"] for row in rows} == {"unaware", "adaptive", "informed", "label-only"}
    assert {row["release"] for row in rows if row["attacker"] == "informed"} == {
        f"{MEMGUARD},budget=1",
        f"{MEMGUARD},budget=0",
    }
    assert Path("whole/releases.png").stat().st_size > 10_000
    for name in stages.NAMES:
        done(*WORDS, "--out", "parts", "--stage", name)
    assert outcome("parts") == whole
    for path in Path("whole/stages").iterdir():
        os.utime(path, (0, 0))  # so that one made anew shows
    Path("whole/stages/attacker-001.pt").unlink()
    Path("whole/stages/attack-000.json").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(stages, "attack", _interrupted)
        assert call(*WORDS, "--out", "whole").exit_code == 130
    done(*WORDS, "--out", "whole")
    new = {path.name for path in Path("whole/stages").iterdir() if path.stat().st_mtime_ns}
    assert new == {"attacker-001.pt", "attack-000.json"}
    assert outcome("whole") == whole


def _interrupted(*arguments: object) -> str:
    raise Interruption


def _closed_forms(study: dict[str, Any]) -> None:
    """Budget 0 is the undefended model, bit for bit; labels alone give away the gap in accuracy."""
    rows = study["rows"]
    assert list(rows) == ["identity", f"{MEMGUARD},budget=1", f"{MEMGUARD},budget=0", "label-only", "dpsgd:0.5"]
    for kept, undefended in zip(rows[f"{MEMGUARD},budget=0"], rows["identity"], strict=True):
        informed = kept["attackers"].pop("informed")
        assert kept["attackers"] == undefended["attackers"]
        assert informed == {name: undefended["attackers"]["adaptive"][name] for name in informed}
        assert kept["l1_members"] == kept["l1_others"] == 0
        assert undefended["attackers"]["unaware"] == undefended["attackers"]["adaptive"]
    for name, found in rows.items():
        for row in found:
            gap = row["train_accuracy"] - row["test_accuracy"]
            assert row["attackers"]["label-only"]["correctness"]["auc"] == pytest.approx(0.5 + gap / 2)
            assert name == "dpsgd:0.5" or row["labels_kept"] == 1
    assert rows["identity"][0]["train_accuracy"] > rows["identity"][0]["test_accuracy"]
    assert rows["identity"][0] != rows["identity"][1]
    assert study["broken_promises"] == {}
    assert study["tuned"] == "dpsgd:0.5"


@dataclass(kw_only=True)
class Turned(Release):
    """A release that gives every answer to the next class, and says that it keeps labels."""

    def rewrite(self, probs: Tensor) -> Tensor:
        return probs.roll(1, dims=1)


@pytest.mark.slow
def test_a_changed_label_is_a_failure(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for names in ("_things", "_aliases"):
        monkeypatch.setattr(RELEASES, names, dict(getattr(RELEASES, names)))
    RELEASES.register("turned")(Turned)
    small = ("--set", "study.releases=turned", "--set", "study.seeds=1", "--set", "private.noise_multipliers=")
    result = call(*WORDS, *small, "--out", "a")
    assert result.exit_code == 1
    assert "turned kept 0.0% of the labels" in result.stderr
    assert json.loads(Path("a/releases.json").read_text())["broken_promises"] == {"turned": 0}


def test_refusals(place: Path) -> None:
    says(refused(*WORDS, "--stage", "attacks"), "stage 'attacks' attack")
    says(refused(*WORDS, "--stage", "defense", "--out", "a"), "user-000.pt stage user")
    says(refused(*WORDS, "--seed", "3", "--stage", "user", "--out", "a"), "started configuration")
    says(refused(*WORDS, "--set", "parts.members=0:61", "--out", "b"), "parts.members overlap")
    says(refused(*WORDS, "--set", "parts.shadow_nonmembers=280:301", "--out", "b"), "parts.shadow_nonmembers 300")
    says(refused(*WORDS, "--set", "study.releases=memgard", "--out", "b"), "'memgard' memguard")
    says(refused(*WORDS, "--set", "study.releases=round:x", "--out", "b"), "round x")
    says(refused(*WORDS, "--preset", "location"), "'location' location30")
    assert not Path("b").exists()
    np.savez("set.npz", x=np.ones((300, 12), dtype=np.uint8), y=np.arange(300) % 4)
    says(refused(*WORDS, "--out", "a"), "a contents npz:set.npz")
    assert json.loads(done(*WORDS, "--dry-run").stdout)["parts"]["members"] == "0:60"
    assert torch.is_grad_enabled()
