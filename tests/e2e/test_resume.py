"""A run that was stopped anywhere, even killed, and resumed equals one that was not, bit for bit."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from accupoison.attacks import ATTACKS
from accupoison.config.layers import Layer, preset, read_toml
from accupoison.config.schema import REGISTRIES, OnlineConfig, online_config
from accupoison.defenses import DEFENSES
from accupoison.runs.burnin import never
from accupoison.runs.online import OnlineRun
from tests.e2e.conftest import ENVIRONMENT, ONLINE, SET, After, done, outcome, steps_of
from tests.simulations import CRAFTING

pytestmark = pytest.mark.slow

CHECKPOINTS = Path("checkpoints")
CHEAP = {"steps": 1, "threshold": 0.0}
"""Settings that keep components fast, and DSC busy; given to those that have them."""


SMALL = {"count": 20, "copies": 2, "ratio": 0.05, "iterations": 1, "patch": 2, "min_samples": 15, "min_separation": 0.0}
"""Settings of attacks that make no trigger, and of defences that fit, for few small images."""


def component(section: str, name: str) -> dict[str, Any]:
    known = REGISTRIES[section].settings(name)
    values = CHEAP if section == "attack" and name in CRAFTING else CHEAP | SMALL
    return {"name": name, **{key: value for key, value in values.items() if key in known}}


def settings(attack: str, defense: str, sections: Layer | None = None) -> OnlineConfig:
    """Return the settings of a tiny run."""
    chosen = {"attack": component("attack", attack), "defense": component("defense", defense)}
    crafted = {} if attack in CRAFTING else {"trigger": {"types": "clean"}}
    return online_config([preset("online", "demo"), read_toml(Path("tiny.toml")), chosen, crafted, sections or {}])


def go(config: OnlineConfig, out: str, *, resume: bool = False, stop: Callable[[], bool] = never) -> str:
    """Carry out a run and return its status."""
    run = OnlineRun(config, CHECKPOINTS, Path(out), resume=resume)
    return str(run.run(lambda done, total, words: None, stop)["status"])


PAIRS = [*((attack, "DSC") for attack in ATTACKS.names())]
PAIRS += [("accumulative", defense) for defense in DEFENSES.names() if defense != "DSC"]


@pytest.mark.parametrize(("attack", "defense"), PAIRS)
def test_five_steps_are_two_and_three(attack: str, defense: str, work: Path) -> None:
    config = settings(attack, defense, {"stream": {"steps": 3, "after": 1}})
    assert go(config, "whole") == "finished"
    assert go(config, "parts", stop=After(2)) == "interrupted"
    assert steps_of("parts") == 2
    assert go(config, "parts", resume=True) == "finished"
    assert steps_of("parts") == 5
    assert outcome(Path("parts")) == outcome(Path("whole"))


def test_a_run_may_be_stopped_after_every_step(work: Path) -> None:
    sections: Layer = {
        "stream": {"steps": 3, "after": 2, "kind": "shift:blur"},
        "trigger": {"types": ["none", "coast", "adversarial"]},
    }
    config = settings("accumulative", "DSC", sections)
    go(config, "whole")
    stops, status = 0, go(config, "parts", stop=After(1))
    while status == "interrupted":
        stops += 1
        assert steps_of("parts") == stops
        status = go(config, "parts", resume=True, stop=After(1))
    assert stops == steps_of("whole") == 3 + 2 + 3 + 3
    assert outcome(Path("parts")) == outcome(Path("whole"))


@pytest.mark.parametrize("stop_after", [2, 3])
def test_a_stop_rule_that_has_decided_is_remembered(stop_after: int, work: Path) -> None:
    sections: Layer = {"stream": {"steps": 6, "after": 2}, "stop": {"error_above": 0.0}, "optim": {"lr": 1.0}}
    config = settings("accumulative", "ST", sections)
    go(config, "whole")
    summary = json.loads(Path("whole/summary.json").read_text())
    assert summary["horizon"] == 1  # no model is right about everything
    go(config, "parts", stop=After(stop_after))
    assert steps_of("parts") == stop_after
    go(config, "parts", resume=True)
    assert outcome(Path("parts")) == outcome(Path("whole"))


def test_the_released_protocol(work: Path) -> None:
    sections: Layer = {
        "stream": {"kind": "cycling", "augment": "before", "quantise": False, "steps": 3, "after": 1},
        "attack": {"warm_start_ball": True, "steps": 2},
        "trigger": {"types": ["optimised"]},
        "optim": {"restore": False, "clip_norm": 0.5, "bn_mode": "eval", "weight_decay": 1e-4},
        "evaluate": {"test": "every", "images": 2},
    }
    config = settings("accumulative", "AT", sections)
    go(config, "whole")
    for number, steps in enumerate((1, 2, 1)):
        go(config, "parts", resume=number > 0, stop=After(steps))
    go(config, "parts", resume=True)
    assert outcome(Path("parts")) == outcome(Path("whole"))


def test_a_run_killed_before_its_first_save_begins_again(work: Path) -> None:
    config = settings("accumulative", "DSC")
    go(config, "whole")

    def fail() -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        go(config, "parts", stop=fail)
    assert not Path("parts/state.pt").exists()
    assert go(config, "parts", resume=True) == "finished"
    assert outcome(Path("parts")) == outcome(Path("whole"))


def test_resuming_a_finished_run_changes_nothing(work: Path) -> None:
    done(*ONLINE, "--out", "run")
    before, metrics = outcome(Path("run")), Path("run/metrics.jsonl").read_bytes()
    done("online", "--resume", "run", "--quiet")
    assert outcome(Path("run")) == before
    assert Path("run/metrics.jsonl").read_bytes() == metrics


KILLED = """
import os, signal, sys
from accupoison.cli import main
from accupoison.runs import online
where, count = sys.argv.pop(1), int(sys.argv.pop(1))
owner, name = {"step": (online.OnlineRun, "_record"), "save": (online.RunDirectory, "save_state")}[where]
original, calls = getattr(owner, name), []
def deadly(self, argument):
    calls.append(argument)
    if len(calls) == count:
        if where == "step":
            original(self, argument)
        os.kill(os.getpid(), signal.SIGKILL)
    original(self, argument)
setattr(owner, name, deadly)
main()
"""


@pytest.mark.parametrize(
    ("where", "count", "saved", "arguments"),
    [
        ("step", 8, 6, ["--med", "OURS", "--trigger", "coast,adversarial", SET, "defense.threshold=0"]),
        ("save", 2, 2, ["--attack", "direct", "--med", "TRADES", SET, "defense.steps=2"]),
        ("step", 3, 2, ["--attack", "noise", "--med", "AT", SET, "defense.steps=2"]),
    ],
)
def test_a_killed_run_goes_on(where: str, count: int, saved: int, arguments: list[str], work: Path) -> None:
    command = [*ONLINE, *arguments, "--steps", "4", "--recovery-steps", "2", SET, "run.save_every=2"]
    done(*command, "--out", "whole")
    child = subprocess.run(
        [sys.executable, "-c", KILLED, where, str(count), *command, "--out", "run"], env=ENVIRONMENT, check=False
    )
    assert child.returncode == -signal.SIGKILL
    assert steps_of("run") == saved
    done("online", "--resume", "run", "--quiet")
    assert outcome(Path("run")) == outcome(Path("whole"))
