"""``audit offline`` on digits: it goes on where it stopped, and the same seed gives the same bytes."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.e2e.conftest import ENVIRONMENT, SET, call, done, refused, sentence
from tests.messages import says

OFFLINE = (
    *("audit", "offline", "--data", "digits", "--model", "convnet", "--width", "4", "--size", "300", "--shadows", "6"),
    *("--target-models", "2", "--epochs", "3", SET, "train.batch_size=50", SET, "train.milestones=2", "--quiet"),
    *(SET, "shadows.population=50", SET, "shadows.queries=plain,up"),
)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ACCUPOISON_DATA", raising=False)
    return tmp_path


@pytest.mark.slow
def test_models_are_made_once_and_the_tables_written(place: Path) -> None:
    text = done(*OFFLINE, "--out", "a").stdout
    assert "means and standard deviations over 2 target models, 6 shadows" in text
    names = {path.name for path in Path("a/signals").iterdir()}
    assert names == {f"shadows-00{i}.npz" for i in range(6)} | {"target_models-000.npz", "target_models-001.npz"}
    found = json.loads(Path("a/audit.json").read_text())
    attacks = {one["attack"] for one in found["attacks"]}
    assert {"loss", "correctness", "neural", "lira_online", "lira_offline_fixed_variance", "rmia"} <= attacks
    assert all(len(one["auc"]) == 2 and 0 <= min(one["auc"]) <= max(one["auc"]) <= 1 for one in found["attacks"])
    assert all(0.1 < value <= 1 for value in found["test_accuracy"])
    assert set(found["by_class"]) == {str(label) for label in range(10)}
    assert all(one["id"] >= 1437 for one in found["most_vulnerable"])  # test samples
    assert found["share_of_ceiling"] > 0
    for one in found["attacks"]:
        for target, auc in zip(one["target_models"], one["auc"], strict=True):
            low, high = target["roc"]["intervals"]["auc"]
            assert low <= target["roc"]["auc"] == auc <= high
            assert set(target["roc"]["tpr_at_fpr"]) == {"0.1", "0.01", "0.001"}
            assert set(target["predictive_value"]) == {"0.5", "0.1", "0.01"}
            assert target["epsilon"] >= 0
            assert 0 <= target["balanced_accuracy_per_class"] <= 1
            assert len(set(target["most_vulnerable"])) == 20
            assert all(0 <= value <= 1 for value in target["auc_by_class"].values())
            assert set(target["realised_fpr"]) == {"0.1", "0.01", "0.001"}
    rows = list(csv.DictReader(Path("a/audit.csv").read_text().splitlines()))
    assert len(rows) == len(attacks)
    threat = json.loads(Path("a/threat.json").read_text())
    assert threat["line"].startswith("no attacker; defender (ST)")
    assert {one["id"] for one in threat["ids"]} == {"NISTAML.03", "NISTAML.033", "AML.T0024.000", "ML04:2023"}
    assert {"TPR at 1.0% FPR (pooled)", "TPR at 1.0% FPR (per-sample calibrated)"} <= set(rows[0])
    controls = found["controls"]
    assert controls["shadows"]["count"] == 6
    assert [len(controls["loss_ratio"][side]) for side in ("targets", "shadows")] == [2, 6]
    assert len(controls["blind"]) == 2
    for line in ("| shadows | 6 models trained on a pool that no target learns from", "| variance | per sample: lira"):
        assert line in text
    said = {row["control"] for row in csv.DictReader(Path("a/controls.csv").read_text().splitlines())}
    assert {"shadows", "variance", "loss on members / on others", "blind baseline, AUC (model 1)"} <= said
    before = {path.name: path.read_bytes() for path in Path("a/signals").iterdir()}
    for path in Path("a/signals").iterdir():
        os.utime(path, (0, 0))  # so that one made anew shows, however fast
    Path("a/signals/target_models-001.npz").unlink()
    done(*OFFLINE, "--out", "a", "--json")
    for path in Path("a/signals").iterdir():
        made_anew = path.name == "target_models-001.npz"
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
    found = json.loads(
        done(*OFFLINE, *private, "--out", "dp", "--shadows", "6", "--target-models", "1", "--json").stdout
    )
    assert 1 < found["epsilon"] < 2
    assert found["attacks"]["loss"]["auc"][0] < 0.65


def test_other_settings_and_sizes_are_refused(place: Path) -> None:
    says(refused(*OFFLINE, "--size", "30"), "shadows.size 30")
    assert not Path("logs").exists()
    done(*OFFLINE, "--epochs", "1", SET, "train.milestones=1", "--out", "a")
    says(refused(*OFFLINE, "--out", "a"), "started configuration")
    assert json.loads(done(*OFFLINE, "--dry-run").stdout)["shadows"]["size"] == 300
    assert call("audit", "--seed", "3", *OFFLINE[1:]).exit_code == 2


def test_a_directory_goes_on_with_the_same_contents_alone(place: Path) -> None:
    def write(seed: int) -> None:
        rng = np.random.default_rng(seed)
        parts = {"train_x": 400, "test_x": 100}
        arrays = {name: rng.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8) for name, count in parts.items()}
        np.savez("set.npz", allow_pickle=False, **arrays, train_y=np.arange(400) % 4, test_y=np.arange(100) % 4)

    words = (
        *OFFLINE,
        "--data",
        "npz:set.npz",
        "--size",
        "100",
        "--epochs",
        "1",
        SET,
        "train.milestones=1",
        "--out",
        "a",
    )
    write(0)
    done(*words)
    kept = {path.name: path.read_bytes() for path in Path("a/signals").iterdir()}
    write(1)
    says(refused(*words), "a contents npz:set.npz")
    Path("a/signals/shadows-003.npz").unlink()
    says(refused(*words), "a contents npz:set.npz")
    write(0)
    done(*words)
    found = {path.name: path.read_bytes() for path in Path("a/signals").iterdir()}
    assert {name for name in kept if found[name] != kept[name]} <= {"shadows-003.npz"}  # it holds the time it took


KILLED = """
import os, signal
from accupoison.audit.offline import shadow_models as offline
from accupoison.cli import main
def train_model(*arguments):
    os.kill(os.getpid(), signal.SIGKILL)
offline.train_model = train_model
if __name__ == "__main__":
    main()
"""


@pytest.mark.slow
def test_a_worker_that_is_killed_is_one_sentence(place: Path) -> None:
    Path("killed.py").write_text(KILLED)
    words = [sys.executable, "killed.py", *OFFLINE, "--out", "a", "--jobs", "2"]
    child = subprocess.run(words, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    text = sentence(child.returncode, child.stderr)
    assert text.startswith(
        "Error: a worker process was killed, most likely for lack of memory; the same command goes on"
    )
    says(text, "fewer jobs")
