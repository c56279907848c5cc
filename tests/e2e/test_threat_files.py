"""``threat.json`` of burn-ins and streams by the command line, and the bill of materials of all of them."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import BURNIN, ONLINE, SET, done
from tests.messages import says
from tests.unit.test_cyclonedx import complaint

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a poisoned burn-in, a poisoned stream that starts from it and its audit, and a clean stream."""
    folder = tmp_path_factory.mktemp("threat")
    label = (SET, "train.label_smoothing=0", SET, "attack.ratio=0.05")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(base)
        done(*BURNIN, "--attack", "dirty-label", *label, "--out", folder / "burnin")
        start = (SET, f"start.checkpoint={folder / 'burnin' / 'final.pt'}")
        done(*ONLINE, *start, "--out", folder / "poisoned")
        done(*ONLINE, "--attack", "none", "--trigger", "coast,clean", "--out", folder / "a b#<c>")
        done("audit", "--run", folder / "poisoned")
    return folder


@pytest.fixture
def logs(made: Path, work: Path) -> Path:
    shutil.copytree(made, work / "logs")
    return Path("logs")


def bom_of(logs: Path, out: str) -> dict[str, Any]:
    done("report", logs, "--format", "cyclonedx,json,html", "--out", out)
    text = (Path(out) / "report.cdx.json").read_text()
    assert complaint(text) == ""
    return dict(json.loads(text))


def test_the_threat_model_lies_in_the_directory(logs: Path) -> None:
    for name, stage in (("burnin", "burn-in"), ("poisoned", "stream"), ("a b#<c>", "stream")):
        threat = json.loads((logs / name / "threat.json").read_text())
        assert threat["line"] == json.loads((logs / name / "summary.json").read_text())["threat_model"]
        assert threat["stage"] == f"training: {stage}"
        assert bool(threat["ids"]) == (name != "a b#<c>")
    assert not Path("checkpoints/digits-resnet8-w4-batch-demo-seed0/threat.json").exists()  # nobody poisoned it
    before = (logs / "poisoned" / "threat.json").read_bytes()
    (logs / "poisoned" / "threat.json").unlink()
    done("online", "--resume", logs / "poisoned", "--quiet")
    assert (logs / "poisoned" / "threat.json").read_bytes() == before


def test_the_bill_of_materials_of_runs_an_audit_and_a_poisoned_burn_in(logs: Path) -> None:
    bom = bom_of(logs, "first")
    bom_of(logs, "second")
    for name in ("report.cdx.json", "report.json", "report.html"):
        assert Path("first", name).read_bytes() == Path("second", name).read_bytes()
    digest = hashlib.sha256((logs / "burnin" / "final.pt").read_bytes()).hexdigest()
    (base,) = [one for one in bom["components"] if one["bom-ref"] == f"base-model-{digest}"]
    assert base["hashes"] == [{"alg": "SHA-256", "content": digest}]
    assert base["externalReferences"][0]["type"] == "threat-model"
    assert "dirty-label" in base["modelCard"]["considerations"]["technicalLimitations"][0]
    said = " ".join(claim["predicate"] for claim in bom["declarations"]["claims"])
    assert "stream members best: AUC 0." in said
    files = {file["contents"]["url"]: file for one in bom["declarations"]["evidence"] for file in one["data"]}
    assert "logs/a%20b%23%3Cc%3E/metrics.jsonl" in files
    for name in ("metrics.jsonl", "summary.json", "threat.json", "audit/audit.json"):
        known = hashlib.sha256((logs / "poisoned" / name).read_bytes()).hexdigest()
        assert files[f"logs/poisoned/{name}"]["contents"]["attachment"]["content"] == f"{known}  {name}"
    found = json.loads(Path("first/report.json").read_text())
    assert len(found["threats"]) == len(found["threat_models"]) == 2
    audited = next(one for one in found["threats"] if "ML04:2023" in {known["id"] for known in one["ids"]})
    assert audited["attacker"]["name"] == "accumulative"


def test_a_run_of_an_older_version_has_its_ids_and_a_damaged_file_is_named(logs: Path) -> None:
    (logs / "poisoned" / "threat.json").unlink()
    bom_of(logs, "out")
    found = json.loads(Path("out/report.json").read_text())["threats"]
    older = next(one for one in found if "attacker" not in one)
    assert older["line"].startswith("attacker (accumulative)")
    assert "NISTAML.012" in {known["id"] for known in older["ids"]}
    (logs / "a b#<c>" / "threat.json").write_text('{"line": 3}')
    result = done("report", logs, "--format", "md", "--out", "out")
    says(result.stderr, "logs/a b#<c> is left out threat.json objective missing")
