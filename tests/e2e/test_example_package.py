"""The example package, installed as another would be."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import ENVIRONMENT, ROOT

pytestmark = pytest.mark.slow

README = (ROOT / "examples" / "extras" / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    accupoison (.+)$", README, flags=re.MULTILINE)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the package into a directory of its own and return that."""
    folder = tmp_path_factory.mktemp("extras")
    source = shutil.copytree(ROOT / "examples" / "extras", folder / "source")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    call([*pip, "--target", str(folder / "site"), str(source)], folder)
    return folder


def run(command: list[str], folder: Path) -> "subprocess.CompletedProcess[str]":
    environment = ENVIRONMENT | {"PYTHONPATH": f"{folder / 'site'}:{ROOT}"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def call(command: list[str], folder: Path) -> str:
    result = run(command, folder)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def accupoison(folder: Path, *arguments: str) -> str:
    return call([sys.executable, "-m", "accupoison", *arguments], folder)


def test_it_keeps_the_contracts(installed: Path) -> None:
    said = call([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "source/tests"], installed)
    assert "8 passed" in said


def test_its_readme_is_true(installed: Path) -> None:
    listed, trained, streamed = (accupoison(installed, *shlex.split(command)) for command in COMMANDS)
    assert all(name in listed for name in ("blend", "TRIM", "cap", "patchnet", "stripes"))
    assert "test accuracy" in trained
    assert "attacker (blend)" in streamed
    assert "defender (TRIM)" in streamed
    assert "after the trigger" in streamed
    assert "released by cap:ceiling=0.8" in streamed


def test_a_broken_package_is_named_and_harms_nobody(installed: Path, tmp_path: Path) -> None:
    site = shutil.copytree(installed / "site", tmp_path / "site")
    (site / "accupoison_extras" / "attack.py").write_text("import nothing_of_this_name\n")
    result = run([sys.executable, "-m", "accupoison", "list"], tmp_path)
    assert result.returncode == 2
    assert "the attack 'blend' of an installed package cannot be loaded" in result.stderr
    assert "Traceback" not in result.stderr
