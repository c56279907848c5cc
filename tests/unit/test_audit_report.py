"""What a report draws of audits that are no run's: their files hold the numbers, and damaged ones are named."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from accupoison.api import report
from accupoison.audit.calibration import Calibration
from accupoison.audit.curves import roc_rows, score_rows
from accupoison.audit.results import Results, evaluate_attack
from accupoison.audit.samples import Samples
from accupoison.audit.writers import write_models, write_results
from accupoison.study.pictures import Missing, Picture
from accupoison.study.report.other_audits import Audited, audited_pictures, read_audited, sentence
from tests.e2e.conftest import done, refused
from tests.messages import says

ATTACKS = {"strong": 2.0, "weak": 0.5, "none": 0.0}


def known(score: NDArray[np.float64], member: NDArray[np.bool_]) -> Calibration:
    return Calibration(score[None], member[None])


def results(seed: int = 0, count: int = 400) -> Results:
    """Return attacks whose scores of members lie so many standard deviations above those of others."""
    rng = np.random.default_rng(seed)
    member = np.arange(count) % 2 == 0
    samples = Samples(np.full((count, 2), 0.5), np.arange(count) % 3, member, np.arange(count))
    scores = {name: rng.normal(size=count) + by * member for name, by in ATTACKS.items()}
    scores["none"][:3] = (np.inf, -np.inf, -1e6)
    return {
        name: evaluate_attack(name, score, samples, (0.5, {}), known(score, member)) for name, score in scores.items()
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make an audit of four models, with a group of its own, and one of a single model."""
    folder, facts = tmp_path_factory.mktemp("audits"), {"images_per_second": 1.0}
    write_models(folder / "offline", [results(seed) for seed in range(4)], facts, {})
    shutil.copytree(folder / "offline", folder / "offline" / "targets")
    write_results(folder / "single", results(), {})
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "audits")


def test_curves_are_means_with_intervals_over_models() -> None:
    models = [results(seed) for seed in range(4)]
    rows = [row for row in roc_rows(models) if row["attack"] == "strong"]
    assert (rows[-1]["fpr"], rows[-1]["tpr"], rows[-1]["half"]) == ("1", "1", "0")
    tenth = min(rows, key=lambda row: abs(float(row["fpr"]) - 0.1))
    reached = []
    for model in models:
        score, member = model["strong"].score, model["strong"].samples.member
        bar = np.sort(score[~member])[::-1][int(float(tenth["fpr"]) * (~member).sum())]
        reached.append((score[member] > bar).mean())
    assert float(tenth["tpr"]) == pytest.approx(np.mean(reached), abs=0.011)
    assert float(tenth["half"]) == pytest.approx(3.182 * np.std(reached, ddof=1) / 2, abs=0.02)
    assert "half" not in roc_rows(models[:2])[0]


def test_histograms_hold_every_score() -> None:
    rows = score_rows([results(0), results(1)])
    for name in ATTACKS:
        some = [row for row in rows if row["attack"] == name]
        assert sum(int(row["members"]) for row in some) == sum(int(row["others"]) for row in some) == 400
        assert all(float(row["low"]) < float(row["high"]) < 6 for row in some)
    alike = {
        "same": evaluate_attack(
            "same", np.zeros(400), results()["weak"].samples, (0.5, {}), known(np.zeros(400), np.arange(400) % 2 == 0)
        )
    }
    assert sum(int(row["members"]) for row in score_rows([alike])) == 200


def test_audits_are_found_and_drawn(folder: Path) -> None:
    said: list[str] = []
    audits = read_audited([folder], said.append)
    assert [audit.path.name for audit in audits] == ["offline", "targets", "single"]
    assert said == []
    assert list(audits[0].aucs) == ["strong", "weak", "none"]
    pictures = list(audited_pictures(audits))
    assert len({picture.name for picture in pictures}) == 6
    roc, hist = (picture for picture in pictures[:2] if isinstance(picture, Picture))
    assert f"strong: AUC {audits[0].aucs['strong']:.3f}" in roc.alt
    curve = next(line for line in roc.figure.axes[0].lines if line.get_gid() == "s0")
    drawn = np.asarray(curve.get_xydata())
    assert (drawn[:, 0].min() >= 1e-3, drawn[-1].tolist()) == (True, [1.0, 1.0])
    assert roc.figure.axes[0].get_xscale() == roc.figure.axes[0].get_yscale() == "log"
    assert [series.label for series in hist.series] == ["members (800)", "others (800)"]


def test_the_groups_of_a_run_are_not_drawn_apart(folder: Path) -> None:
    run = folder / "run" / "audit"
    shutil.copytree(folder / "single", run / "stream")
    (run / "audit.json").write_text(json.dumps({"trigger": "clean", "groups": {"stream": []}}))
    said: list[str] = []
    assert not read_audited([folder / "run"], said.append)
    (run / "audit.json").write_text(json.dumps({"epochs": 2, "groups": {"stream": []}}))  # of a burn-in
    assert [audit.title for audit in read_audited([folder / "run"], said.append)] == ["audit/stream"]


def test_an_audit_alone_is_a_report(folder: Path) -> None:
    text = done("report", folder / "offline", "--format", "html,json,csv,svg").stdout
    assert "AUC (pooled)" in text
    page = (folder / "offline" / "report.html").read_text()
    assert "Members are told best in" in page
    assert "Threat model" not in page
    assert "Where the numbers come from" not in page
    content = json.loads((folder / "offline" / "report.json").read_text())
    assert len(content["tables"]["audits"]) == 2 * len(ATTACKS)
    rows = list(csv.DictReader((folder / "offline" / "report-audits.csv").read_text().splitlines()))
    assert rows[0]["attack"] == "strong"
    assert {"audit-0-roc.svg", "audit-1-scores.svg"} <= {path.name for path in (folder / "offline").iterdir()}
    before = (folder / "offline" / "report.html").read_bytes()
    done("report", folder / "offline")
    assert (folder / "offline" / "report.html").read_bytes() == before
    (again,) = report([folder / "offline"], folder / "again", formats="csv")
    assert again.read_bytes() == (folder / "offline" / "report-audits.csv").read_bytes()


def test_of_attacks_with_one_curve_the_first_is_drawn_and_room_is_left_for_others() -> None:
    rates = np.linspace(0.01, 1, 5)
    curves = {f"attack {k}": {"fpr": rates, "tpr": rates ** (0.2 + 0.1 * max(k, 3))} for k in range(12)}
    bins = {name: {"low": rates, "high": rates + 1, "members": rates, "others": rates} for name in curves}
    audit = Audited(Path("a/b"), 1, {name: 0.9 - 0.01 * k for k, name in enumerate(curves)}, (), curves, bins)
    roc, _ = audited_pictures([audit])
    assert isinstance(roc, Picture)
    assert [series.label.partition(" (")[0] for series in roc.series] == [f"attack {k}" for k in (0, 4, 5, 6, 7, 8)]


def test_a_control_that_fails_is_said_with_the_finding_and_the_figure(folder: Path) -> None:
    content = json.loads((folder / "single" / "audit.json").read_text())
    content["controls"]["flags"] = ["the blind baseline tells members"]
    (folder / "single" / "audit.json").write_text(json.dumps(content))
    audits = read_audited([folder / "single"], print)
    roc, _ = audited_pictures(audits)
    assert isinstance(roc, Picture)
    for text in (roc.note, sentence(audits)):
        assert text.endswith(" FLAGGED: the blind baseline tells members.")


def test_what_older_versions_and_broken_disks_leave(folder: Path) -> None:
    (folder / "offline" / "scores.csv").unlink()
    shutil.copytree(folder / "single", folder / "empty")
    for name, attacks in (("single", '[{"attack": 3}]'), ("empty", "[]")):
        (folder / name / "audit.json").write_text(f'{{"attacks": {attacks}}}')
    (folder / "offline" / "targets" / "roc.csv").write_text("attack,fpr,tpr\nstrong,a,b\n")
    said: list[str] = []
    audits = read_audited([folder], said.append)
    assert [audit.path.name for audit in audits] == ["offline"]
    assert len(said) == 3
    missing = list(audited_pictures(audits))
    assert all(isinstance(one, Missing) and "give the audit's command again" in one.reason for one in missing)
    for name in ("offline", "single", "empty"):
        shutil.rmtree(folder / name)
    says(refused("report", folder), "no run has ended")
