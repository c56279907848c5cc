"""Runs of a grid that share their steps before the trigger are, bit for bit, what they are alone."""

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from accupoison.config.layers import read_toml
from accupoison.config.schema import online_config
from accupoison.runs.burnin import run_burnin
from accupoison.runs.fork import FORK, shared_steps
from accupoison.runs.online import OnlineRun
from accupoison.study.controls import RunSpec
from accupoison.study.grid import Grid, read_grid
from accupoison.study.sweep import silent
from tests.e2e.conftest import After, done, outcome
from tests.messages import refuses

pytestmark = pytest.mark.slow
ROOT = Path("checkpoints")

GRID = """
controls = false
[burnin]
preset = "demo"
seeds = [0]
[burnin.train]
epochs = 1
[burnin.data]
burnin = 100
val = 20
trusted = 20
monitor = 20
[burnin.model]
width = 4

[online]
preset = "demo"
[online.stream]
batch_size = 20
steps = 2
recovery_steps = 1
[online.attack]
steps = 1
[online.evaluate]
images = 2
save_batches = true
monitor = false
reestimate = false

[[runs]]
name = "clean"
seeds = [0]
[runs.attack]
name = "none"
[runs.trigger]
types = ["coast", "adversarial"]
[runs.each]
"attack.eps" = [0.1, 0.2]

[[runs]]
name = "poison"
seeds = [0]
[runs.each]
"trigger.types" = [["coast", "adversarial"], "adversarial"]
"trigger.updates" = [1, 2]
"stream.recovery_steps" = [2]

[[runs]]
name = "none"
seeds = [0]
[runs.trigger]
types = "none"
"""
LEADERS = {"clean-0.1-b0-s0", "poison-coast-adversarial-1-2-b0-s0"}


@pytest.fixture
def grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Grid:
    monkeypatch.chdir(tmp_path)
    Path("forks.toml").write_text(GRID)
    return read_grid(read_toml(Path("forks.toml")), ROOT, Path("logs/forks"))


def carry_out(
    spec: RunSpec, *, after: float = math.inf, resume: bool = False, fork: Path | None = None, keeps: bool = False
) -> None:
    """Carry a run out up to a number of steps."""
    run = OnlineRun(spec.config, ROOT, spec.out, resume=resume, fork=fork, keeps_fork=keeps)
    run.run(silent, After(after))


def alone(spec: RunSpec) -> Path:
    """Carry a run out by itself and return its directory."""
    place = Path("alone") / spec.out.name
    carry_out(RunSpec(place, spec.config))
    return place


def test_cells_are_what_they_are_alone(grid: Grid) -> None:
    said = done("sweep", "forks.toml", "--dry-run").stdout
    assert "8 of the 14 steps before triggers are those of another run and are shared; what they take" in said
    done("sweep", "forks.toml", "--quiet")
    for spec in grid.runs:
        assert outcome(spec.out) == outcome(alone(spec)), spec.out.name
        env = json.loads((spec.out / "env.json").read_text())
        assert ("fork" in env) == (spec.out.name not in {*LEADERS, "none-b0-s0"})
        assert not (spec.out / FORK).exists()
        sent = {path.name for path in (spec.out / "batches").iterdir()}
        assert sent == {path.name for path in (Path("alone") / spec.out.name / "batches").iterdir()}
    last = next(spec.out for spec in grid.runs if spec.out.name == "poison-adversarial-2-2-b0-s0")
    shown = EventAccumulator(str(last), size_guidance={"images": 0}).Reload()
    assert [event.step for event in shown.Tensors("stream/loss")] == [1, 2, 3, 4, 5]
    assert [event.step for event in shown.Images("images/rows")] == [3], "those before are in the run that took them"
    assert "shared" not in done("sweep", "forks.toml", "--dry-run").stdout
    shutil.rmtree(last)
    Path("forks.toml").write_text(GRID.replace("[1, 2]\n", "[1, 2, 3]\n"))
    again = done("sweep", "forks.toml", "--dry-run").stdout
    assert re.search(r"4 of the 6 steps .* shared, which saves \d+ s; about \d+ s", again)


def test_a_run_that_was_cut_off_where_the_paths_part_still_leads(grid: Grid) -> None:
    """And one that begins there can be cut off, too."""
    ((place, burnin),) = grid.burnins
    run_burnin(burnin, place, resume=False, progress=silent)
    first, second = (spec for spec in grid.runs if spec.out.name.startswith("poison-coast"))
    fork = first.out / FORK
    carry_out(first, after=2, keeps=True)
    fork.unlink()  # as if it had been killed before it wrote it
    carry_out(first, resume=True, keeps=True)
    carry_out(second, after=1, fork=fork)
    carry_out(second, resume=True, fork=fork)
    for spec in (first, second):
        assert outcome(spec.out) == outcome(alone(spec))
    fork.write_bytes(fork.read_bytes()[:-100])
    with refuses("fork.pt damaged"):
        carry_out(RunSpec(Path("third"), second.config), fork=fork)


@pytest.mark.parametrize(
    ("change", "shared"),
    [
        ({"release": {"name": "round"}}, True),
        ({"trigger": {"types": "coast,adversarial"}}, True),
        ({"trigger": {"types": "clean"}}, False),
        ({"trigger": {"types": "optimised"}}, False),
        ({"stream": {"recovery_steps": 9}}, True),
        ({"stream": {"steps": 3}}, False),
        ({"attack": {"eps": 0.01}}, False),
        ({"evaluate": {"test": "every"}}, False),
        ({"run": {"seed": 1}}, False),
    ],
)
def test_what_is_the_same_before_the_trigger(change: dict[str, Any], shared: bool) -> None:
    assert (shared_steps(online_config([change])) == shared_steps(online_config([]))) == shared


@pytest.mark.parametrize(
    "settings", [{"stream": {"kind": "shift:contrast"}}, {"attack": {"name": "targeted"}, "trigger": {"types": "none"}}]
)
def test_what_comes_after_may_matter_before(settings: dict[str, Any]) -> None:
    more = {**settings, "stream": {**settings.get("stream", {}), "recovery_steps": 9}}
    assert shared_steps(online_config([settings])) != shared_steps(online_config([more]))
