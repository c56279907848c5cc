"""What a command need not load: a process starts in two seconds only as long as nobody imports too much."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import ENVIRONMENT, ONLINE

pytestmark = pytest.mark.slow

LOADED = """
import json, sys
from accupoison.cli import cli
for arguments in json.loads(sys.argv[1]):
    cli.main(arguments, standalone_mode=False)
print("|" + " ".join(sys.modules), file=sys.stderr)
"""


def loaded(*commands: list[str]) -> set[str]:
    """Return the modules of a process that has run the commands one after the other."""
    arguments = [sys.executable, "-c", LOADED, json.dumps(commands)]
    child = subprocess.run(arguments, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    return set(child.stderr.rpartition("|")[2].split())


def test_heavy_modules_stay_out(work: Path) -> None:
    online = loaded([*ONLINE, "--out", "run"])
    assert {"torch", "accupoison.runs.online", "sklearn"} <= online  # the digits are scikit-learn's
    assert online.isdisjoint({"torch._dynamo", "torch._inductor", "sympy", "matplotlib", "opacus"})
    others = loaded([*ONLINE, "--dry-run"], ["report", "run", "--json"])
    assert {"torch", "accupoison.runs.online", "accupoison.study.collect"} <= others
    assert others.isdisjoint({"scipy.stats", "scipy.optimize", "sklearn", "matplotlib", "torchvision", "torch._dynamo"})
    tables = loaded(["report", "run"])
    assert Path("run/curves.png").exists()
    assert tables.isdisjoint({"scipy.stats", "scipy.optimize", "sklearn", "torchvision", "torch._dynamo"})
