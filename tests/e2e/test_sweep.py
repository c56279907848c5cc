"""Grids and reports through the command line, on digits."""

import json
import os
import select
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from click.testing import CliRunner

from accupoison.cli import cli
from accupoison.study.grid import read_grid
from tests.e2e.conftest import ENVIRONMENT, done, refused
from tests.messages import refuses, says

GRID = """
[burnin]
preset = "demo"
seeds = [0, 1]
[burnin.train]
epochs = 1

[online]
preset = "demo"
[online.stream]
steps = 2
recovery_steps = 1
[online.attack]
steps = 1

[[runs]]
name = "clean"
seeds = [0]
[runs.attack]
name = "none"
[runs.trigger]
types = ["clean", "adversarial"]
[runs.each]
"defense.name" = ["ST", "FREEZE"]

[[runs]]
name = "noise"
seeds = [0, 1]
burnins = [1]
[runs.attack]
name = "noise"
[runs.each]
"attack.kind" = ["uniform", "rademacher"]
"""

RUNS = [
    "clean-FREEZE-b0-s0",
    "clean-FREEZE-b1-s0",
    "clean-ST-b0-s0",
    "clean-ST-b1-s0",
    "noise-rademacher-b1-s0",
    "noise-rademacher-b1-s1",
    "noise-uniform-b1-s0",
    "noise-uniform-b1-s1",
]


@pytest.fixture
def grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "small.toml"
    path.write_text(GRID)
    return path


def run(*arguments: str) -> str:
    return done(*arguments).stdout


@pytest.mark.slow
def test_sweep_goes_on_and_report_reads_it(grid: Path) -> None:
    other = grid.with_name("other.toml")
    other.write_text(GRID)
    both = run("sweep", str(grid), str(other), "--dry-run")
    assert both.count("logs/small/") == both.count("logs/other/") == len(RUNS)
    planned = run("sweep", str(grid), "--dry-run").splitlines()
    assert sorted(Path(line).name for line in planned if line.startswith("logs")) == RUNS
    assert not Path("logs").exists()
    part = run("sweep", str(grid), "--dry-run", "--burnins", "1", "--seeds", "0").splitlines()
    assert sorted(Path(line).name for line in part if line.startswith("logs")) == [RUNS[k] for k in (1, 3, 4, 6)]
    assert sum(line.startswith("checkpoints") for line in part) == 1
    says(refused("sweep", grid, "--burnins", "0,2"), "--burnins 2 choose from 0, 1")
    says(refused("sweep", grid, "--seeds", "a"), "--seeds a 0,1,2")

    run("sweep", str(grid), "--quiet")
    folders = sorted(path.name for path in Path("logs/small").iterdir())
    assert folders == RUNS
    first = {name: (Path("logs/small") / name / "metrics.jsonl").read_bytes() for name in RUNS}

    (Path("logs/small") / RUNS[0] / "summary.json").unlink()
    run("sweep", str(grid), "--quiet")
    assert {name: (Path("logs/small") / name / "metrics.jsonl").read_bytes() for name in RUNS} == first

    table = run("report", "logs/small")
    assert "noise (kind rademacher)" in table
    assert "cost against ST" in table
    assert (Path("logs/small") / "curves.png").read_bytes()[:4] == b"\x89PNG"
    text, _, picture = Path("logs/small/report.md").read_text().partition("\n![")
    assert text.strip() in table
    assert picture.endswith("](curves.png)\n")
    assert "<title>small</title>" in Path("logs/small/report.html").read_text()
    assert len(json.loads(run("report", "logs/small", "--json"))) == len(RUNS)


@pytest.mark.slow
def test_processes_side_by_side_see_the_same_data_and_models(grid: Path) -> None:
    grid.write_text(
        GRID.replace("seeds = [0, 1]\n[burnin", "seeds = [1]\n[burnin").split('[[runs]]\nname = "noise"')[0]
    )
    run("sweep", str(grid), "--quiet", "--out", "one")
    run("sweep", str(grid), "--quiet", "--out", "two", "--jobs", "2")
    for name in ("clean-ST-b1-s0", "clean-FREEZE-b1-s0"):
        one, two = (json.loads(Path(f"{out}/small/{name}/summary.json").read_text()) for out in ("one", "two"))
        assert one["start"] == two["start"]
        assert one["clean_ids"] == two["clean_ids"]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the processes in /proc")
@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="waits for them by a file that Linux has of each")
def test_the_processes_of_a_killed_sweep_end(grid: Path) -> None:
    grid.write_text(GRID.replace("epochs = 1", "epochs = 1000"))
    words = [sys.executable, "-m", "accupoison", "sweep", str(grid), "--jobs", "2", "--quiet"]
    parent = subprocess.Popen(words, env=ENVIRONMENT)
    with ExitStack() as stack:
        try:
            while len(list(Path("checkpoints").glob("*/latest.pt"))) < 2:
                assert parent.poll() is None
                time.sleep(0.1)
            listed = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
            children = [os.pidfd_open(int(child)) for child in listed]
            assert len(children) >= 2
            for child in children:
                stack.callback(os.close, child)
        finally:
            parent.kill()
            parent.wait()
        for child in children:
            select.select([child], [], [])  # until it has ended, whether or not anybody asks how


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[online]", "[onlin]", "key 'onlin' online"),
        ("seeds = [0]", "seeds = 0", "runs.seeds 0 list whole"),
        ("burnins = [1]", "burnins = [7]", "burn-in 7 burnin.seeds"),
        ('name = "noise"\nseeds', 'title = "noise"\nseeds', "has no name"),
        ('"attack.kind" = ["uniform", "rademacher"]', '"attack.kind" = "uniform"', "runs.each 'noise' table"),
        (GRID[GRID.index("[[runs]]") :], '[runs]\nname = "noise"', "runs list [[runs]]"),
        ('"attack.kind" = ["uniform", "rademacher"]', '"attack.kind" = ["pink"]', "attack.kind 'pink'"),
        ("burnins = [1]", "burnins = 3", "runs.burnins 3 list whole [0, 1, 2]"),
        ("burnins = [1]", "burnins = [true]", "runs.burnins [True] list whole"),
        ("seeds = [0, 1]\nburnins", "seeds = [true]\nburnins", "runs.seeds [True] list whole"),
        ("seeds = [0, 1]\nburnins", "seeds = [-1]\nburnins", "runs.seeds -1 negative 0"),
        (GRID, "burnin = 3", "3 table [burnin]"),
        (GRID[GRID.index("[online]") :], "[online]\npreset = 3", "unknown online preset 3"),
        (GRID, "online = 3\n[burnin]\nseeds = [0]", "3 table [online]"),
        (GRID, "claims = 3", "3 list"),
        (GRID, "runs = [3]\n[burnin]\nseeds = [0]", "runs list [[runs]]"),
        ('name = "noise"\nseeds', 'name = ""\nseeds', "runs.name ''"),
        ('name = "noise"\nseeds', 'name = "a/b"\nseeds', "runs.name 'a/b'"),
        ('name = "noise"\nseeds', "name = 3\nseeds", "runs.name 3"),
        ('name = "noise"\nseeds', f'name = "{"n" * 250}"\nseeds', "name 200 letters"),
        (
            '"attack.kind" = ["uniform", "rademacher"]',
            "\n".join(f'"attack.k{i}" = [{", ".join(map(str, range(100)))}]' for i in range(3)),
            "runs 100000 runs.each",
        ),
        ('["uniform", "rademacher"]', '["uniform", "uniform"]', "two runs noise-uniform-b1-s0"),
    ],
)
def test_a_wrong_grid_is_one_sentence(grid: Path, old: str, new: str, message: str) -> None:
    grid.write_text(GRID.replace(old, new))
    says(refused("sweep", grid, "--dry-run"), message)


def test_a_grid_needs_runs(tmp_path: Path) -> None:
    with refuses("no runs"):
        read_grid({"burnin": {"seeds": [0]}}, tmp_path, tmp_path)


def test_report_without_runs_is_one_sentence(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["report", str(tmp_path)])
    assert result.exit_code == 2
    assert "no run has ended" in result.stderr
