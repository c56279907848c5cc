"""``audit offline`` on digits: it goes on where it stopped, and the same seed gives the same bytes."""

import csv
import json
import os
from pathlib import Path

import pytest

from tests.e2e.conftest import SET, call, done, refused

OFFLINE = (
    *("audit", "offline", "--data", "digits", "--model", "convnet", "--width", "4", "--size", "300", "--shadows", "6"),
    *("--victims", "2", "--epochs", "3", SET, "train.batch_size=50", SET, "train.milestones=2", "--quiet"),
    *(SET, "shadows.population=50", SET, "shadows.queries=plain,up"),
)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ACCUPOISON_DATA", raising=False)
    return tmp_path


def test_models_are_made_once_and_the_tables_written(place: Path) -> None:
    text = done(*OFFLINE, "--out", "a").stdout
    assert "means and standard deviations over 2 victims, 6 shadows" in text
    names = {path.name for path in Path("a/worlds").iterdir()}
    assert names == {f"shadows-00{i}.npz" for i in range(6)} | {"victims-000.npz", "victims-001.npz"}
    found = json.loads(Path("a/audit.json").read_text())
    attacks = {one["attack"] for one in found["attacks"]}
    assert {"loss", "correctness", "neural", "lira_online", "lira_offline_fixed_variance", "rmia"} <= attacks
    assert all(len(one["auc"]) == 2 and 0 <= min(one["auc"]) <= max(one["auc"]) <= 1 for one in found["attacks"])
    assert all(0.1 < value <= 1 for value in found["test_accuracy"])
    assert set(found["by_class"]) == {str(label) for label in range(10)}
    assert all(one["id"] >= 1437 for one in found["most_exposed"])  # test samples
    assert found["share_of_ceiling"] > 0
    for one in found["attacks"]:
        for victim, auc in zip(one["victims"], one["auc"], strict=True):
            low, high = victim["roc"]["intervals"]["auc"]
            assert low <= victim["roc"]["auc"] == auc <= high
            assert set(victim["roc"]["tpr_at_fpr"]) == {"0.1", "0.01", "0.001"}
            assert set(victim["predictive_value"]) == {"0.5", "0.1", "0.01"}
            assert victim["epsilon"] >= 0
    rows = list(csv.DictReader(Path("a/audit.csv").read_text().splitlines()))
    assert len(rows) == len(attacks)
    before = {path.name: path.read_bytes() for path in Path("a/worlds").iterdir()}
    for path in Path("a/worlds").iterdir():
        os.utime(path, (0, 0))  # so that one made anew shows, however fast
    Path("a/worlds/victims-001.npz").unlink()
    done(*OFFLINE, "--out", "a", "--json")
    for path in Path("a/worlds").iterdir():
        made_anew = path.name == "victims-001.npz"
        assert (path.stat().st_mtime_ns != 0) == made_anew
        if not made_anew:
            assert path.read_bytes() == before[path.name]
    again = json.loads(Path("a/audit.json").read_text())
    assert again["attacks"] == found["attacks"]


def test_private_models_say_their_epsilon(place: Path) -> None:
    private = (
        "--norm",
        "group",
        "--update",
        "dpsgd",
        "--noise-multiplier",
        "3",
        "--epochs",
        "1",
        SET,
        "train.milestones=1",
    )
    found = json.loads(done(*OFFLINE, *private, "--out", "dp", "--shadows", "6", "--victims", "1", "--json").stdout)
    assert 1 < found["epsilon"] < 2
    assert found["attacks"]["loss"]["auc"][0] < 0.65


def test_other_settings_and_sizes_are_refused(place: Path) -> None:
    assert "shadows.size 30 does not fit" in refused(*OFFLINE, "--size", "30")
    assert not Path("logs").exists()
    done(*OFFLINE, "--epochs", "1", SET, "train.milestones=1", "--out", "a")
    assert "was started with another configuration" in refused(*OFFLINE, "--out", "a")
    assert json.loads(done(*OFFLINE, "--dry-run").stdout)["shadows"]["size"] == 300
    assert call("audit", "--seed", "3", *OFFLINE[1:]).exit_code == 2
