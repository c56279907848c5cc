"""The main job on a GPU."""

import json
from pathlib import Path

import pytest

from tests.e2e.conftest import BURNIN, ONLINE, SET, done


@pytest.mark.cuda
def test_a_burn_in_and_a_defended_stream(work: Path) -> None:
    done(*BURNIN, "--out", "base", "--device", "cuda")
    arguments = ("--checkpoint", "base/final.pt", "--med", "OURS", SET, "defense.threshold=0")
    result = done(*ONLINE, *arguments, "--device", "cuda", "--out", "run", "--json")
    summary = json.loads(result.stdout)
    assert summary["status"] == "finished"
    assert 0.2 < summary["start"]["acc"] <= 1  # ten digits: what was learnt there is more than chance
    for run in ("base", "run"):
        assert json.loads(Path(run, "env.json").read_text())["device"].startswith("cuda")
    rows = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert max(row.get("attack/linf", 0) for row in rows) == pytest.approx(0.1, abs=1 / 255)
    assert max(row.get("defense/inner_steps", 0) for row in rows) > 0
    done("online", "--quiet", "--resume", "run")
