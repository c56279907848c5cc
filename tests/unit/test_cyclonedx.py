"""The bill of materials of a report, from made-up runs: what it claims, and that it is as CycloneDX 1.7 wants it."""

import hashlib
import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from accupoison.study.groups import Group
from accupoison.study.report.audits import Audit
from accupoison.study.report.cyclonedx import bill_of_materials
from accupoison.study.report.formats import write_report
from accupoison.study.report.page import html_page
from accupoison.study.report.study import Report, Table
from accupoison.study.tables import Row
from tests.unit.test_html_report import EVIL, Page, curves, report, study

__all__ = ["curves"]


def complaint(text: str) -> str:
    """Return the first line of what the official schema has against a bill of materials, or ""."""
    found = JsonStrictValidator(SchemaVersion.V1_7).validate_str(text)
    return str(found).partition("\n")[0] if found else ""


@cache
def of(seeds: int = 3) -> Report:
    """Return the report of made-up runs; its figures take a second."""
    return report(study(seeds))


def made(found: Report) -> dict[str, Any]:
    bom = bill_of_materials(found)
    assert complaint(json.dumps(bom)) == ""
    return bom


def models(bom: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in bom["components"] if one["type"] == "machine-learning-model"}


def test_the_validator_complains() -> None:
    bom = made(of())
    bom["components"][0]["modelCard"]["modelParameters"]["task"] = 1
    assert "1 is not of type 'string'" in complaint(json.dumps(bom))


def test_an_experiment_has_a_model_card_with_intervals() -> None:
    bom = made(of())
    card = models(bom)["ST, accumulative"]["modelCard"]
    metrics = {(one["type"], one.get("slice")): one for one in card["quantitativeAnalysis"]["performanceMetrics"]}
    harm = metrics["harm H", "trigger adversarial"]
    assert float(harm["value"]) == pytest.approx(0.29)
    ends = [float(harm["confidenceInterval"][end]) for end in ("lowerBound", "upperBound")]
    assert ends == pytest.approx([0.29 - 0.0248, 0.29 + 0.0248], abs=1e-3)
    assert ("accuracy, before", None) in metrics
    two = models(made(of(2)))["ST, accumulative"]["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    assert not any("confidenceInterval" in one for one in two)
    risks = [one["name"] for one in card["considerations"]["ethicalConsiderations"]]
    assert "NISTAML.012 Clean-label Poisoning" in risks
    assert "Threat model: attacker; defender" in card["considerations"]["technicalLimitations"]
    defended = models(bom)["CLIP, accumulative"]["modelCard"]["considerations"]["ethicalConsiderations"]
    assert {one["mitigationStrategy"] for one in defended} == {"defence CLIP"}


def test_claims_have_targets_and_evidence_that_are_there(tmp_path: Path) -> None:
    runs = study(root=tmp_path)
    for run in runs:
        run.path.mkdir(parents=True)
        (run.path / "summary.json").write_text(run.path.name)
    runs = [replace(run, burnin=hashlib.sha256(run.burnin.encode()).hexdigest(), data="a" * 64) for run in runs]
    found = report(runs, tmp_path)
    bom = made(found)
    refs = [one["bom-ref"] for one in (bom["metadata"]["component"], *bom["components"])]
    declared = bom["declarations"]
    refs += [one["bom-ref"] for part in ("claims", "evidence", "assessors") for one in declared[part]]
    assert len(refs) == len(set(refs))
    for claim in declared["claims"]:
        assert claim["target"] in refs
        assert set(claim["evidence"]) <= set(refs)
    said = {claim["predicate"]: claim for claim in declared["claims"]}
    after = said["Accuracy after the trigger adversarial is 52.0 ± 5.0 %."]
    assert after["reasoning"] == "mean and 95% t-interval over 3 base models"
    assert len(after["evidence"]) == 3
    assert found.finding in said
    files = {file["contents"]["url"]: file for one in declared["evidence"] for file in one["data"]}
    file = files[f"{tmp_path.as_posix()}/noise-ST-0/summary.json"]
    digest = hashlib.sha256(b"noise-ST-0").hexdigest()
    assert file["contents"]["attachment"]["content"] == f"{digest}  summary.json"
    hashes = {one["hashes"][0]["content"] for one in bom["components"] if "hashes" in one}
    assert hashes == {run.burnin for run in runs} | {"a" * 64}


def test_audits_are_claimed() -> None:
    runs = study()
    audits = {run.path: Audit("stream", "adversarial", {"loss": 0.75, "neural": 0.5}, {}) for run in runs[1:2]}
    bom = made(replace(of(), audits=audits))
    claims = [one for one in bom["declarations"]["claims"] if "membership" in one["predicate"]]
    assert [one["predicate"] for one in claims] == [
        "Of the membership attacks, loss tells stream members best: AUC 0.750."
    ]
    assert claims[0]["evidence"] == [f"evidence-{runs[1].path.as_posix()}"]


def test_what_a_grid_claims_comes_with_its_verdict() -> None:
    run = study(1)[0]
    row = Row({"claim": "poison does more", "net of coast": "3.0 ± 1.0 fails"}, (run,))
    claims = made(replace(of(), tables=(Table("claims", "", "", (row,), ()),)))["declarations"]["claims"]
    (claim,) = [one for one in claims if one["predicate"] == "poison does more: 3.0 ± 1.0 fails"]
    assert (claim["target"], claim["evidence"]) == ("study", [f"evidence-{run.path.as_posix()}"])


def test_the_same_runs_give_the_same_bytes_and_others_another_number(tmp_path: Path) -> None:
    first, second = (tmp_path / name for name in ("a", "b"))
    (written,) = write_report(of(), first, ["cyclonedx"])
    write_report(report(study()), second, ["cyclonedx"])
    assert written == first / "report.cdx.json"
    assert written.read_bytes() == (second / "report.cdx.json").read_bytes()
    assert "timestamp" not in written.read_text()
    assert made(of())["serialNumber"] == json.loads(written.read_text())["serialNumber"] != made(of(2))["serialNumber"]


def test_hostile_names_are_text() -> None:
    threat = {**study()[0].threat, "note": EVIL, "line": f"attacker {EVIL}"}
    threat["ids"] = [{"id": EVIL, "name": EVIL, "source": EVIL, "version": "1", "because": EVIL}]
    place = Path("logs") / EVIL
    runs = [replace(run, path=place / run.path.name, stored_threat=threat, model=EVIL) for run in study(1)]
    found = report(runs, place)
    page = Page(html_page(found))
    assert "alert" not in page.between("script")
    assert f"{EVIL} {EVIL} ({EVIL} 1): {EVIL}" in page.between("li")
    assert any(EVIL in one["name"] for one in made(found)["components"])


def test_a_name_that_is_no_text_is_a_url(tmp_path: Path) -> None:
    place = tmp_path / "\udcff%"
    place.mkdir()
    (place / "summary.json").write_text("{}")
    run = replace(study(1)[0], path=place)
    found = replace(of(), experiments=(Group((run,), ""),), threats={place: run.threat}, commands={place: ""})
    (evidence,) = made(found)["declarations"]["evidence"]
    assert evidence["data"][0]["contents"]["url"].endswith("/%FF%25/summary.json")


def test_the_page_names_the_ids_and_says_what_nist_lacks() -> None:
    page = Page(html_page(of()))
    assert "NISTAML.012 Clean-label Poisoning (NIST AI 100-2 E2025): availability, wire, labels kept" in page.between(
        "li"
    )
    assert "no term for a trigger batch" in page.between("p")
