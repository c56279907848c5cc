"""The example package, installed as another would be."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import ENVIRONMENT, ROOT

PARTS = "burnin=300 stream=200 trigger=40 val=40 trusted=120 monitor=60"
SIZES = [word for part in PARTS.split() for word in ("--set", f"data.{part}")]
COMMON = ["--data", "stripes", "--model", "patchnet", "--quiet", *SIZES]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the package into a directory of its own and return that."""
    folder = tmp_path_factory.mktemp("extras")
    source = shutil.copytree(ROOT / "examples" / "extras", folder / "source")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    call([*pip, "--target", str(folder / "site"), str(source)], folder)
    return folder


def call(command: list[str], folder: Path) -> str:
    environment = ENVIRONMENT | {"PYTHONPATH": f"{folder / 'site'}:{ROOT}"}
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def accupoison(folder: Path, *arguments: str) -> str:
    return call([sys.executable, "-m", "accupoison", *arguments], folder)


def test_it_keeps_the_contracts(installed: Path) -> None:
    said = call([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "source/tests"], installed)
    assert "6 passed" in said


def test_it_is_listed_and_runs(installed: Path) -> None:
    listed = accupoison(installed, "list")
    assert all(name in listed for name in ("blend", "TRIM", "patchnet", "stripes"))
    train = ["--epochs", "2", "--set", "train.batch_size=20", "--set", "train.last_batch_size=20"]
    accupoison(installed, "burnin", *COMMON, *train)
    options = ["--attack", "blend", "--med", "TRIM", "--set", "stream.batch_size=20", "--steps", "3", "--after", "1"]
    said = accupoison(installed, "online", *COMMON, *options)
    assert "attacker (blend)" in said
    assert "defender (TRIM)" in said
    assert "after the trigger" in said
