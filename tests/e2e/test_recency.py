"""``audit recency``: the membership AUC of several runs, pooled; and audits in TensorBoard."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from accupoison.audit.online.run import RunAudit, audit_run
from accupoison.audit.roc import roc_summary
from tests.e2e.conftest import BURNIN, ONLINE, SET, done, refused
from tests.messages import says

pytestmark = pytest.mark.slow

FEW = (SET, "data.burnin=60", SET, "evaluate.monitor=false")


@pytest.fixture
def runs(work: Path) -> Path:
    """Make two base models that have learnt 60 images by heart, and a stream for each."""
    for seed in ("0", "1"):
        learnt = (SET, "train.batch_size=10", "--epochs", "30", SET, "train.recipe=few")
        done(*BURNIN, SET, "data.burnin=60", *learnt, "--seed", seed)
        start = (*FEW, SET, "start.recipe=few", SET, f"start.seed={seed}")
        done(*ONLINE, *start, "--attack", "none", "--trigger", "clean", "--out", f"logs/a-{seed}")
    return work


def test_runs_are_pooled_over_base_models(runs: Path) -> None:
    text = done("audit", "recency", "logs", "--quiet").stdout
    assert "95% intervals over base models" in text
    found = json.loads(Path("logs/recency/recency.json").read_text())["aucs"]
    rows = list(csv.DictReader(Path("logs/recency/recency.csv").read_text().splitlines()))
    assert len(rows) == len(found)
    whole = {(one["members"], one["score"]): one for one in found if one["recency"] is None}
    assert set(whole) == {(m, s) for m in ("burn-in", "stream", "never seen") for s in ("loss", "loss_change")}
    audits = [audit_run(Path(f"logs/a-{seed}"), Path("checkpoints")) for seed in (0, 1)]
    groups = [one.groups["burn-in"] for one in audits]
    aucs = [roc_summary(g.probs[np.arange(len(g.labels)), g.labels], g.member).auc for g in groups]
    pooled = whole["burn-in", "loss"]["auc"]
    assert pooled["mean"] == pytest.approx(sum(aucs) / 2, abs=1e-9)
    assert (pooled["burnins"], pooled["runs"], pooled["over"]) == (2, 2, "burn-ins")
    assert pooled["mean"] > 0.55
    assert abs(whole["never seen", "loss"]["auc"]["mean"] - 0.5) < 0.1
    by_recency = audits[0].by_recency("loss_change"), audits[1].by_recency("loss_change")
    pooled_recency = [one for one in found if one["score"] == "loss_change" and one["recency"] == 2]
    mean = sum(point["auc"] for curve in by_recency for point in curve if point["recency"] == 2) / 2
    assert [one["auc"]["mean"] for one in pooled_recency] == [pytest.approx(mean, abs=1e-12)]
    recencies = [one["recency"] for one in found if one["recency"] is not None and one["score"] == "loss"]
    assert recencies == sorted(recencies)
    assert len(recencies) >= 5
    assert Path("logs/recency/recency.png").read_bytes()[:4] == b"\x89PNG"
    again = json.loads(done("audit", "recency", "logs/a-0", "logs/a-1", "--json", "--out", "again").stdout)
    assert again["aucs"] == found
    check_that_never_seen_images_are_nobodys(audits[0])
    check_that_an_audit_is_in_tensorboard_once()


def check_that_never_seen_images_are_nobodys(audit: RunAudit) -> None:
    assert audit.unseen is not None
    unseen = set(audit.unseen.ids[audit.unseen.member].tolist())
    for samples in audit.groups.values():
        assert unseen.isdisjoint(samples.ids.tolist())
    others = set(audit.unseen.ids[~audit.unseen.member].tolist())
    assert others == set(audit.groups["stream"].ids[~audit.groups["stream"].member].tolist())


def check_that_an_audit_is_in_tensorboard_once() -> None:
    for _ in range(2):
        done("audit", "--run", "logs/a-0")
    found = json.loads(Path("logs/a-0/audit/audit.json").read_text())
    assert not list(Path("logs/a-0/audit").rglob("events.*")), "a run is one entry"
    names = [path.name.partition(".audit")[2] for path in Path("logs/a-0").glob("events.*.audit*")]
    assert len(names) == len(set(names)) >= 3
    events = EventAccumulator("logs/a-0", size_guidance={"images": 0}).Reload()
    for group in ("stream", "burn-in"):
        assert {f"audit/{group}/roc", f"audit/{group}/scores"} <= set(events.Tags()["images"])
        assert f"audit/{group}/tables/text_summary" in events.Tags()["tensors"]
    curve = events.Scalars("audit/loss/auc_by_recency")
    assert [(point.step, round(point.value, 6)) for point in curve] == [
        (row["recency"], round(row["auc"], 6)) for row in found["by_recency"]["loss"]
    ]


def test_streams_are_told_apart_and_runs_without_members_left_out(runs: Path) -> None:
    start = (*FEW, SET, "start.recipe=few", "--attack", "none")
    done(*ONLINE, *start, "--trigger", "coast", "--out", "logs/b")
    done(*ONLINE, *start, "--trigger", "clean", "--med", "FREEZE", "--out", "logs/c")
    said = done("audit", "recency", "logs", "--quiet")
    assert "logs/c is left out: FREEZE let nothing be learnt from the stream" in said.output
    found = json.loads(Path("logs/recency/recency.json").read_text())["aucs"]
    assert {one["experiment"] for one in found} == {"none, ST, trigger.types clean", "none, ST, trigger.types coast"}
    says(refused("audit", "recency", "logs/c"), "FREEZE learnt")


def test_directories_without_a_run(work: Path) -> None:
    Path("empty").mkdir()
    says(refused("audit", "recency", "empty"), "empty")
    says(refused("audit", "recency"), "Missing argument")
