"""A run that compares the discrepancy with other detectors: what it records, and that nothing else changes."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from accupoison.records.recorder import read_metrics
from accupoison.records.tags import AGAINST, AUCS, DETECTORS
from accupoison.runs.online import OnlineRun
from tests.e2e.conftest import ONLINE, SET, After, call, done, outcome, refused
from tests.e2e.test_resume import go, settings
from tests.messages import says

pytestmark = pytest.mark.slow

FILE = "detectors.csv"
ALL = ("--detectors", ",".join(DETECTORS))
EVERY: dict[str, Any] = {"evaluate": {"detectors": list(DETECTORS)}}


def table(run: str) -> list[dict[str, str]]:
    return list(csv.DictReader((Path(run) / FILE).read_text().splitlines()))


def of_step(rows: list[dict[str, str]], step: int) -> dict[str, list[dict[str, str]]]:
    return {kind: [r for r in rows if int(r["step"]) == step and r["kind"] == kind] for kind in ("sent", *AGAINST)}


def test_scores_of_rows_and_their_aucs(work: Path) -> None:
    done(*ONLINE, *ALL, SET, "attack.ratio=0.5", "--out", "run", "--trigger", "coast,adversarial")
    rows, metrics = table("run"), read_metrics(Path("run/metrics.jsonl"))
    assert list(rows[0]) == ["step", "branch", "kind", "id", "poisoned", "discrepancy", *DETECTORS]
    for step in (1, 2, 3, 4):
        found = of_step(rows, step)
        (row,) = (one for one in metrics if one["step"] == step and one["branch"] in ("", "adversarial"))
        assert [len(found[kind]) for kind in found] == [10, 10, 10]
        poisoned = [one["poisoned"] == "1" for one in found["sent"]]
        assert sum(poisoned) == (10 if step == 4 else 5)  # the trigger is the attacker's, whole
        names = {f"detectors/{name}": name for name in DETECTORS} | {"defense/discrepancy": "discrepancy"}
        for tag, column in names.items():
            for kind in AGAINST:
                ours, others = (
                    [float(r[column]) for r, is_poison in zip(found[which], poisoned, strict=True) if is_poison]
                    for which in ("sent", kind)
                )
                auc = roc_auc_score([1] * len(ours) + [0] * len(others), ours + others)
                assert row[f"{tag}_auc_{kind}"] == pytest.approx(auc, abs=1e-9)
    assert not any(of_step(rows, 5)[kind] for kind in AGAINST)  # the recovery is clean
    assert {one["branch"] for one in rows} == {"", "coast", "adversarial"}
    summary = json.loads(Path("run/summary.json").read_text())
    tag = "detectors/gda_auc_noise"
    assert summary["means"][tag] == pytest.approx(np.mean([row[tag] for row in metrics if 1 <= row["step"] <= 3]))


def test_a_run_is_the_same_with_them(work: Path) -> None:
    done(*ONLINE, "--out", "without")
    done(*ONLINE, *ALL, "--out", "with")
    assert not Path("without", FILE).exists()
    without, along = (read_metrics(Path(run, "metrics.jsonl")) for run in ("without", "with"))
    assert any(AUCS.keys() & row.keys() for row in along)
    for row in (*without, *along):
        for tag in [tag for tag in row if tag.startswith("time/") or tag in AUCS]:
            del row[tag]
    assert without == along
    assert Path("without/ledger.npz").read_bytes() == Path("with/ledger.npz").read_bytes()
    weights = [
        {key: value for key, value in outcome(Path(run)).items() if key.startswith("state.simulation")}
        for run in ("without", "with")
    ]
    assert len(weights[0]) > 10
    assert weights[0] == weights[1]


def test_resumed_after_every_step(work: Path) -> None:
    sections = {**EVERY, "trigger": {"types": ["coast", "adversarial"]}}
    config = settings("accumulative", "DSC", sections)
    go(config, "whole")
    status = go(config, "parts", stop=After(1))
    while status == "interrupted":
        status = go(config, "parts", resume=True, stop=After(1))
    assert outcome(Path("parts")) == outcome(Path("whole"))
    assert Path("parts", FILE).read_bytes() == Path("whole", FILE).read_bytes()
    go(config, "whole", resume=True)  # has nothing left to do
    assert Path("parts", FILE).read_bytes() == Path("whole", FILE).read_bytes()


def test_rows_after_the_last_save_are_written_anew(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(run: OnlineRun) -> None:
        raise RuntimeError

    done(*ONLINE, *ALL, SET, "run.save_every=2", "--out", "whole")
    monkeypatch.setattr(OnlineRun, "_close", fail)
    assert isinstance(call(*ONLINE, *ALL, SET, "run.save_every=2", "--out", "run").exception, RuntimeError)
    monkeypatch.undo()
    monkeypatch.chdir(work)
    left = Path("run", FILE).read_bytes()
    Path("run", FILE).write_bytes(left.replace(b"sent", b"seen"))
    says(refused("online", "--resume", "run"), f"{FILE} is not as the run has written it")
    Path("run", FILE).write_bytes(left + b"half a li")
    done("online", "--resume", "run")
    assert Path("run", FILE).read_bytes() == Path("whole", FILE).read_bytes()


def test_a_run_of_before_there_were_detectors_goes_on(work: Path) -> None:
    config = settings("accumulative", "ST")
    go(config, "run", stop=After(2))
    path = Path("run/config.json")
    stored = json.loads(path.read_text())
    assert stored["evaluate"].pop("detectors") == []
    path.write_text(json.dumps(stored))
    assert go(config, "run", resume=True) == "finished"
    says(refused("online", "--resume", "run", *ALL), "evaluate.detectors")


def test_where_nobody_poisons_there_are_scores_alone(work: Path) -> None:
    done(*ONLINE, *ALL, "--attack", "none", "--trigger", "clean", "--out", "run")
    assert {(row["kind"], row["poisoned"]) for row in table("run")} == {("sent", "0")}
    assert not any(AUCS.keys() & row.keys() for row in read_metrics(Path("run/metrics.jsonl")))


def test_what_is_refused(work: Path) -> None:
    says(refused(*ONLINE, "--detectors", "kd,lids"), "--detectors 'lids' did you mean lid")
    (early,) = Path("checkpoints").glob("*/early.pt")
    early.unlink()
    says(refused(*ONLINE, "--detectors", "loss,kd", "--out", "run"), "--detectors kd,loss early snapshot --reference")
    assert not Path("run").exists()
