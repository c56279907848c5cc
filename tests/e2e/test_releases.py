"""``--release`` as its user gives it: to a run, to its audit, and to a file of predictions."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from accupoison.audit.online.run import audit_run
from accupoison.config.releases import parse_release
from accupoison.release import RELEASES
from tests.e2e.conftest import ONLINE, SET, After, call, done, outcome, refused
from tests.e2e.test_audit import write
from tests.e2e.test_resume import go
from tests.messages import says

pytestmark = pytest.mark.slow

SMALL = "hidden=16,epochs=40,lr=0.1,max_iterations=60,cap=10"
CHECKPOINTS = Path("checkpoints")


def test_a_run_says_what_its_release_costs_and_its_audit_takes_it(work: Path) -> None:
    done(*ONLINE, "--release", f"memguard:budget=0.5,{SMALL}", "--out", "run")
    stored, summary = (json.loads(Path("run", name).read_text()) for name in ("config.json", "summary.json"))
    assert (stored["release"]["name"], stored["release"]["budget"], stored["release"]["hidden"]) == (
        "memguard",
        0.5,
        [16],
    )
    assert summary["threat_model"].endswith(
        "; answers are released by "
        + parse_release(f"memguard:0.5,{SMALL}").spec
        + (", which knows members of the burn-in and the trusted images")
    )
    cost = summary["release"]
    assert cost["accuracy"] == cost["accuracy_undefended"]
    assert cost["labels_kept"] == 1
    assert 0 < cost["l1_members"] <= 0.6
    assert 0 < cost["l1_others"] <= 0.6
    assert 0 < cost["time/query_s"] < 1
    found = json.loads(done("audit", "--run", "run", "--json").stdout)
    assert found["release"] == cost["spec"]
    for group in ("burn-in", "stream"):
        of = found["attackers"][group]
        assert of.keys() == {"undefended", "unaware", "label-only", "release"}
        assert [one["attack"] for one in of["label-only"]] == ["correctness"]
        assert of["release"]["labels_kept"] == 1
        assert of["release"]["l1_members"] > 0
        assert Path("run/audit", group, "attackers.csv").exists()
    (members,) = {one["roc"]["members"] for one in found["attackers"]["burn-in"]["undefended"]}
    assert 60 <= members <= 100  # a half of the 200 less the 40 that the defender knows


def test_what_the_release_learns_from_is_not_audited(work: Path) -> None:
    done(*ONLINE, "--out", "run")
    spec = f"memguard:budget=1,{SMALL}"
    defended, plain = (audit_run(Path("run"), CHECKPOINTS, release=parse_release(r)) for r in (spec, "identity"))
    ids = [set(audit.groups["burn-in"].ids[audit.groups["burn-in"].member].tolist()) for audit in (defended, plain)]
    assert len(ids[1] - ids[0]) == 40
    assert ids[0] < ids[1]
    others = [audit.groups["burn-in"].ids[~audit.groups["burn-in"].member] for audit in (defended, plain)]
    assert np.array_equal(others[0], others[1])
    assert defended.undefended.keys() == defended.groups.keys()
    own, released = (groups["burn-in"].probs for groups in (defended.undefended, defended.groups))
    assert np.array_equal(own.argmax(1), released.argmax(1))
    assert not np.array_equal(own, released)
    again = audit_run(Path("run"), CHECKPOINTS, release=parse_release(spec))
    assert np.array_equal(again.groups["burn-in"].probs, released)


def test_a_release_that_learns_nothing_leaves_the_groups_alone(work: Path) -> None:
    done(*ONLINE, "--release", "round:1", "--out", "run")
    audited = audit_run(Path("run"), CHECKPOINTS)
    assert audited.release == "round:digits=1"
    probs = audited.groups["stream"].probs
    assert np.allclose(probs, np.round(probs, 1), atol=1e-12)
    assert len(audited.groups["burn-in"].member) > 200
    cost = json.loads(Path("run/summary.json").read_text())["release"]
    assert cost["labels_kept"] == 1


def test_a_run_of_before_releases_is_read_as_identity(work: Path) -> None:
    done(*ONLINE, "--out", "run")
    path = Path("run/config.json")
    stored = json.loads(path.read_text())
    assert stored.pop("release") == {"name": "identity"}
    assert "release" not in json.loads(Path("run/summary.json").read_text())
    before = audit_run(Path("run"), CHECKPOINTS)
    path.write_text(json.dumps(stored))
    after = audit_run(Path("run"), CHECKPOINTS)
    assert after.release == before.release == "identity"
    assert after.undefended == {}
    assert np.array_equal(after.groups["stream"].probs, before.groups["stream"].probs)
    done("online", "--resume", "run", "--quiet")
    says(refused("online", "--resume", "run", "--release", "round:1"), "release.name nothing round")


def test_what_cannot_be_released_is_refused_before_the_run(work: Path) -> None:
    for spec, words in (
        ("memgard", "'memgard' memguard"),
        ("memguard:budget=3", "release.budget 3 [0, 2]"),
        ("round:digit=2", "release.round.digit digits"),
    ):
        says(refused(*ONLINE, "--release", spec, "--out", "run"), words)
    released = (SET, "data.splits=released_split")
    says(refused(*ONLINE, "--release", "memguard", *released, "--out", "run"), "memguard 100 0 20 data.splits=fresh")
    done(*ONLINE, "--out", "run", *released)
    says(refused("audit", "--run", "run", "--release", "defenmi"), "defenmi 100 0 20 data.splits=fresh")
    says(refused("audit", "--release", "round:2", "predictions", "mine.npz"), "--release --run")
    done(*ONLINE, "--out", "rounded", "--release", "round:2")
    text = call("audit", "shadow-replays", "--run", "rounded", "--poison", "transfer").stderr
    assert "the models themselves are asked: round:digits=2" in text
    assert not Path("run/audit").exists()


@pytest.mark.parametrize("spec", [f"defenmi:budget=1,{SMALL}", "top-k:2"])
def test_a_resumed_run_releases_the_same(spec: str, work: Path) -> None:
    from tests.e2e.test_resume import settings

    config = settings(
        "accumulative", "ST", {"release": {**parse_release(spec).settings, "name": spec.partition(":")[0]}}
    )
    assert go(config, "whole") == "finished"
    assert go(config, "parts", stop=After(3)) == "interrupted"
    assert "release" not in json.loads(Path("parts/summary.json").read_text())
    assert go(config, "parts", resume=True) == "finished"
    assert outcome(Path("parts")) == outcome(Path("whole"))
    assert json.loads(Path("whole/summary.json").read_text())["release"]["labels_kept"] == 1


def test_a_file_of_predictions_is_released(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("mine.npz"))
    found: dict[str, Any] = json.loads(
        done("audit", "predictions", "mine.npz", "--release", "temperature:3", "--json").stdout
    )
    accuracy = {
        who: {one["attack"]: one["balanced_accuracy"] for one in found["attackers"][who]}
        for who in ("undefended", "unaware")
    }
    adaptive = {one["attack"]: one["balanced_accuracy"] for one in found["attacks"]}
    assert accuracy["unaware"]["max_confidence"] < adaptive["max_confidence"] - 0.1
    assert accuracy["unaware"]["correctness"] == adaptive["correctness"] == accuracy["undefended"]["correctness"]
    assert found["release"]["labels_kept"] == 1
    text = done("audit", "predictions", "mine.npz", "--release", "label-only").stdout
    assert "correctness (label-only)" in text
    assert "released by label-only: l1 change" in text
    for spec in ("memguard", "defenmi:budget=0.5"):
        says(refused("audit", "predictions", "mine.npz", "--release", spec), f"{spec.partition(':')[0]} file round:2")


def test_every_release_is_listed() -> None:
    listed = json.loads(done("list", "--json").stdout)["releases"]
    assert listed.keys() == set(RELEASES.names())
    assert torch.tensor([len(text) > 20 for text in listed.values()]).all()
