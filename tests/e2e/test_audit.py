"""``audit`` as its user runs it: on a run, and on a file of predictions."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from accupoison.audit.metric import scores
from accupoison.audit.online.run import audit_run
from accupoison.audit.roc import roc_summary
from accupoison.records.recorder import read_metrics
from tests.e2e.conftest import BURNIN, CHECKPOINT, ONLINE, SET, call, done, refused, resaved
from tests.messages import says


def write(path: Path, **changes: Any) -> None:  # noqa: ANN401
    """Write a file of predictions of a model that is surer of its members, with a shadow."""
    rng, arrays = np.random.default_rng(0), dict[str, Any]()
    for prefix in ("", "shadow_"):
        labels, member = rng.integers(0, 4, 1200), np.arange(1200) % 2
        z = (1 + 3 * member[:, None]) * np.eye(4)[labels] + rng.normal(size=(1200, 4))
        probs = np.exp(z) / np.exp(z).sum(1, keepdims=True)
        arrays |= {f"{prefix}probs": probs, f"{prefix}labels": labels, f"{prefix}member": member}
    np.savez(path, **{name: value for name, value in {**arrays, **changes}.items() if value is not None})


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_run_tells_its_members_by_group_and_by_recency(work: Path) -> None:
    """A model that has seen 60 images for 40 epochs gives them away; those of one late step it knows less well."""
    few = (SET, "data.burnin=60", SET, "train.batch_size=10", "--epochs", "40", SET, "train.recipe=few")
    done(*BURNIN, "--width", "8", *few)
    online = (*ONLINE, "--width", "8", SET, "data.burnin=60", SET, "start.recipe=few", "--attack", "none")
    done(*online, "--trigger", "coast,clean", "--out", "run")
    found = json.loads(done("audit", "--run", "run", "--json").stdout)
    assert found == json.loads(Path("run/audit/audit.json").read_text())
    assert (found["trigger"], found["steps"]) == ("clean", 5)
    by_name = {one["attack"]: one["roc"] for one in found["groups"]["burn-in"]}
    assert by_name["loss"]["intervals"]["auc"][0] > 0.5
    assert by_name["loss"]["auc"] > {one["attack"]: one["roc"] for one in found["groups"]["stream"]}["loss"]["auc"]
    assert [row["recency"] for row in found["by_recency"]["loss"]] == [0, 1, 2, 3, 4]
    assert [row["members"] for row in found["by_recency"]["loss_change"]] == [10, 10, 10, 10, 10]
    for group in ("burn-in", "stream"):
        controls = found["controls"][group]
        assert controls["loss_ratio"]["shadows"] == []
        assert not any(one["flagged"] for one in controls["null"].values())
    assert found["controls"]["burn-in"]["loss_ratio"]["targets"][0] < 0.9
    assert [len(found["controls"][group]["blind"]) for group in ("burn-in", "stream")] == [1, 1]
    for name in ("burn-in/audit.csv", "burn-in/controls.csv", "stream/roc.png", "recency.png"):
        assert (Path("run/audit") / name).exists()


@pytest.mark.slow
def test_members_of_the_burn_in_are_those_of_the_base_model(work: Path) -> None:
    """The released split calls all training images the burn-in's; this base model has seen 200 of them."""
    done(*ONLINE, SET, "data.splits=released_split", "--out", "run")
    found = json.loads(done("audit", "--run", "run", "--json").stdout)
    (members,) = {one["roc"]["members"] for one in found["groups"]["burn-in"]}
    assert 50 < members < 150  # a half of 200, less those in the stream


def test_an_option_in_front_of_a_command_is_refused() -> None:
    write(Path("mine.npz"))
    says(refused("audit", "--json", "predictions", "mine.npz"), "--json --run")


def test_a_run_that_cannot_be_audited(work: Path) -> None:
    says(refused("audit", "--run", "nowhere"), "no run nowhere")
    done("burnin", "--recipe", "demo", "--data", "digits", "--epochs", "1", "--out", "half", "--quiet")
    Path("half/final.pt").unlink()
    says(refused("audit", "--run", "half"), "half not ended burnin --resume half")
    done(*ONLINE, "--med", "FREEZE", "--out", "frozen")
    says(refused("audit", "--run", "frozen"), "FREEZE no members")
    done(*ONLINE, "--out", "run")
    resaved(CHECKPOINT, lambda p: p.update(epoch=3)).replace(CHECKPOINT)
    says(refused("audit", "--run", "run"), "checkpoint changed run")
    says(refused("audit"), "--run logs/RUN")


def test_a_file_with_a_shadow_gives_tables_and_figures() -> None:
    write(Path("mine.npz"))
    text = done("audit", "predictions", "mine.npz").stdout
    assert "thresholds from the shadow model" in text
    assert "TPR at 0.1% FPR is withheld: 600 non-members are fewer than 10000" in text
    found = json.loads(Path("mine/audit.json").read_text())
    by_name = {one["attack"]: one for one in found["attacks"]}
    assert by_name["confidence"]["roc"]["auc"] > 0.75
    assert by_name["modified_entropy"]["balanced_accuracy"] > 0.65
    assert by_name["neural"]["roc"]["auc"] > 0.7
    assert len(by_name["confidence"]["auc_by_class"]) == 4
    rows = list(csv.DictReader(Path("mine/audit.csv").read_text().splitlines()))
    assert [row["attack"] for row in rows] == list(by_name)
    assert by_name["loss"]["realised_fpr"]["0.01"] is None  # the shadow has 600 others
    rate = by_name["loss"]["realised_fpr"]["0.1"]
    assert rate["interval"][0] < rate["target"] < rate["interval"][1]
    assert 0.05 < by_name["loss"]["worst_decile"]["members"] <= 1
    assert found["controls"]["flags"] == []
    assert len(found["controls"]["loss_ratio"]["shadows"]) == 1
    for line in ("| blind baseline, AUC |", "| permuted membership, AUC of", "| loss on members / on others |"):
        assert line in text
    for picture in ("roc.png", "scores.png"):
        assert (Path("mine") / picture).read_bytes()[:4] == b"\x89PNG"


def test_classes_that_tell_members_are_flagged() -> None:
    write(Path("mine.npz"), labels=np.where(np.arange(1200) % 2, 0, np.arange(1200) % 4))
    text = done("audit", "predictions", "mine.npz").stdout
    assert "FLAGGED: the blind baseline tells members without asking the model" in text
    (row,) = [
        r
        for r in csv.DictReader(Path("mine/controls.csv").read_text().splitlines())
        if r["control"] == "blind baseline, AUC"
    ]
    assert row["verdict"] == "FLAGGED"


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes_and_json_goes_to_stdout() -> None:
    write(Path("mine.npz"), shadow_probs=None, shadow_labels=None, shadow_member=None)
    one = json.loads(done("audit", "predictions", "mine.npz", "--json", "--out", "one").stdout)
    done("audit", "predictions", "mine.npz", "--out", "two")
    assert one["attacks"] == json.loads(Path("one/audit.json").read_text())["attacks"]
    for name in ("audit.json", "audit.csv", "controls.csv", "roc.png"):
        assert (Path("one") / name).read_bytes() == (Path("two") / name).read_bytes()
    done("audit", "predictions", "mine.npz", "--out", "three", "--seed", "1")
    assert Path("three/audit.json").read_bytes() != Path("one/audit.json").read_bytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": None}, "mine.npz lacks labels"),
        ({"shadow_member": None}, "mine.npz lacks shadow_member"),
        ({"probs": np.full((1200, 4), 0.5)}, "row 0 probs sums 2 1"),
        ({"probs": np.full((1200, 4), np.nan)}, "not finite"),
        ({"probs": np.zeros((3, 4))}, "do not fit"),
        ({"labels": np.full(1200, 4)}, "labels range 4 4 probs 4"),
        ({"labels": np.zeros(1200)}, "dtype float64 integers"),
        ({"member": np.full(1200, 2)}, "member mine.npz 0 or 1"),
        ({"member": np.ones(1200)}, "1200 1200 samples members"),
        ({"ids": np.zeros(3, int)}, "ids mine.npz whole number 1200"),
        ({"probs": np.array([None])}, "mine.npz readable .npz"),
        ({"probs": np.full((1200, 4), "0.25")}, "dtype <U4"),
        ({"probs": np.full((1200, 4), 0.25 + 0j)}, "dtype complex128"),
        ({"member": np.full(1200, "0")}, "member mine.npz 0 or 1"),
    ],
)
def test_a_file_that_cannot_be_used(changes: dict[str, Any], message: str) -> None:
    write(Path("mine.npz"), **changes)
    says(refused("audit", "predictions", "mine.npz"), message)
    assert not Path("mine").exists()


def test_no_file_and_no_archive() -> None:
    says(refused("audit", "predictions", "nowhere.npz"), "file nowhere.npz")
    for content in (b"not an archive", b"", b"\x93NUMPY" + bytes(200), b"PK\x03\x04" + bytes(99)):
        Path("text.npz").write_bytes(content)
        says(refused("audit", "predictions", "text.npz"), "text.npz readable .npz")
    assert call("audit", "-h").exit_code == 0


def test_a_file_without_suffix_is_audited_beside_itself() -> None:
    write(Path("mine.npz"), shadow_probs=None, shadow_labels=None, shadow_member=None)
    content = Path("mine.npz").read_bytes()
    Path("mine.npz").rename("mine")
    assert "Wrote mine-audit" in done("audit", "predictions", "mine").stdout
    assert Path("mine-audit/audit.json").exists()
    assert Path("mine").read_bytes() == content


def test_members_are_followed_while_the_stream_goes_on(work: Path) -> None:
    """Every second step, on the path the run is on; the last value is what the audit of the run makes of its loss."""
    done(*ONLINE, "--audit-every", "2", "--out", "logs/a", "--attack", "none", "--trigger", "coast,clean")
    rows = read_metrics(Path("logs/a/metrics.jsonl"))
    asked = [(row["step"], row["branch"]) for row in rows if "audit/auc" in row]
    assert asked == [(2, ""), (4, "coast"), (4, "clean")]
    assert all(0 <= row[tag] <= 1 for row in rows for tag in ("audit/auc", "audit/auc_burnin") if tag in row)
    done(*ONLINE, "--audit-every", "5", "--out", "logs/b", "--attack", "none", "--trigger", "clean")
    (last,) = [row for row in read_metrics(Path("logs/b/metrics.jsonl")) if "audit/auc" in row]
    samples = audit_run(Path("logs/b"), Path("checkpoints")).groups
    for tag, group in (("audit/auc", "stream"), ("audit/auc_burnin", "burn-in")):
        score = scores(samples[group].probs, samples[group].labels)["loss"]
        assert last[tag] == pytest.approx(roc_summary(score, samples[group].member).auc, abs=2e-3)
