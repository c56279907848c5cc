"""A defence up the ladder of attacks by one command."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from accupoison.attacks import ATTACKS
from accupoison.attacks.accumulative import Accumulative
from accupoison.config.schema import online_config
from accupoison.records.files import read_json
from accupoison.study.collect import Run, collect
from accupoison.study.controls import RunSpec
from accupoison.study.ladder import FALLS, Step, _costliest, beside, ladder_text, rungs
from accupoison.study.outcomes import estimate, one_sided
from tests.e2e.conftest import call, done, refused
from tests.messages import says

pytestmark = pytest.mark.slow
LADDER = ("ladder", "--preset", "demo", "--recipe", "demo", "--config", "both.toml", "--quiet")
QUICK = (
    "--steps",
    "1",
    "--recovery-steps",
    "0",
    "--set",
    "evaluate.monitor=false",
    "--set",
    "evaluate.reestimate=false",
)
OWN = """
from dataclasses import dataclass
from accupoison.defenses import Defense

@dataclass(kw_only=True)
class Mine(Defense):
    share: float = 0.5

    def gradients(self, grads, momentum, ctx):
        return tuple(self.share * g for g in grads)
"""


@pytest.fixture
def both(work: Path) -> Path:
    text = Path("tiny.toml").read_text()
    Path("both.toml").write_text(text + Path("train.toml").read_text().partition("[train]")[2].join(["[train]", ""]))
    return work


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the lowest rung alone on the ladder, whatever else stands there."""
    for name in rungs():
        if name != "accumulative":
            monkeypatch.setattr(ATTACKS.get(name), "rung", "")


def test_from_the_lowest_rung_up() -> None:
    found = rungs()
    assert found["accumulative"] == Accumulative.rung == "A-unaware"
    assert list(found.values()) == sorted(found.values())
    assert not {"none", "noise", "direct"} & found.keys()


def test_a_rung_is_not_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    class Same(Accumulative):
        pass

    monkeypatch.setattr(ATTACKS, "names", lambda: ["same"])
    monkeypatch.setattr(ATTACKS, "get", lambda name: Same)
    assert rungs() == {}


def test_attacks_of_other_budgets_share_the_controls() -> None:
    def spec(attack: str, seed: int, **settings: object) -> RunSpec:
        attacker = {"name": attack, **settings}
        layer: dict[str, dict[str, Any]] = {"attack": attacker, "run": {"seed": seed}, "defense": {"name": "CLIP"}}
        return RunSpec(Path(f"CLIP-{attack}-b0-s{seed}"), online_config([layer]))

    asked = [spec(*one) for one in (("accumulative", 0), ("accumulative", 1))] + [
        spec("direct", 0, ratio=0.05, eps=0.01)
    ]
    specs = beside(asked, "shift:fog")
    assert specs[:3] == asked
    kinds = ("CLIP-clean", "CLIP-noise", "CLIP-floor", "ST-floor", "FREEZE-floor")
    assert {one.out.name for one in specs[3:]} == {f"{kind}-b0-s{seed}" for kind in kinds for seed in (0, 1)}
    assert len(specs) == 13
    assert all(one.config.attack.settings["ratio"] == 1 for one in specs[3:])
    assert len(beside(asked, "iid")) == 11, "a floor that is the clean control is run once"


def test_a_defence_of_ones_own_goes_up_by_its_path(both: Path, only: None, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("own.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(both))
    words = (*LADDER, *QUICK, "--med", "own:Mine", "--seeds", "0,1,2", "--set", "defense.share=0.25")
    first = done(*words)
    (logs,) = Path("logs").iterdir()
    assert logs.name == "digits-resnet8-w4-accumulative-eps25.5-ladder"
    kinds = ("Mine-accumulative", "Mine-clean", "Mine-noise", "Mine-floor", "ST-floor", "FREEZE-floor")
    assert {path.name for path in logs.iterdir() if path.is_dir()} == {f"{k}-b0-s{s}" for k in kinds for s in range(3)}
    config = read_json(logs / "Mine-floor-b0-s1" / "config.json")
    assert config["defense"] == {"name": "own:Mine", "share": 0.25}
    assert (config["stream"]["kind"], config["attack"]["name"]) == ("shift:blur", "none")
    assert "| rung | attack | accuracy | H | net | bounds |" in first.stdout
    assert "\n| A-unaware | accumulative |" in first.stdout
    assert "Learning floor: on the clean stream shift:blur Mine learns" in " ".join(first.stdout.split())
    stamps = {path: path.stat().st_mtime_ns for path in logs.glob("*/summary.json")}
    assert done(*words).stdout == first.stdout
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps, "what is finished is left alone"
    _by_hand(collect([logs], pytest.fail), first.stdout)


def _by_hand(runs: list[Run], said: str) -> None:
    """Net harm is what the costliest control leaves of the accuracy, minus what the attack leaves, pair by pair."""
    of = {run.path.name: run for run in runs}
    own = [run for run in runs if run.path.name.startswith("Mine") and "floor" not in run.path.name]
    marks = [("Mine-clean", "clean"), ("Mine-clean", "coast"), ("Mine-noise", "clean")]
    means = [sum(of[f"{name}-b0-s{s}"].accuracy("after", path) for s in range(3)) for name, path in marks]
    name, path = marks[means.index(min(means))]
    attacked = [of[f"Mine-accumulative-b0-s{s}"].accuracy("after", "adversarial") for s in range(3)]
    lost = [of[f"{name}-b0-s{s}"].accuracy("after", path) - attacked[s] for s in range(3)]
    net = estimate(("one", value) for value in lost)
    assert net is not None
    assert min(_costliest(own)[1].values()) == min(of[f"{name}-b0-s{s}"].accuracy("after", path) for s in range(3))
    low, high = one_sided(net)
    assert low < net.mean < high or low == net.mean == high
    wanted = "falls" if low > FALLS else "holds" if high < FALLS else "open"
    row = next(line for line in said.splitlines() if line.startswith("| A-unaware"))
    assert f"| {net.text(1, 100)} | {100 * low:.1f} to {100 * high:.1f} |" in row
    assert row.endswith(f"| {wanted} |")
    frozen, standard, ours = (
        [of[f"{name}-floor-b0-s{s}"].accuracy("end", "clean") for s in range(3)] for name in ("FREEZE", "ST", "Mine")
    )
    assert len({tuple(frozen), tuple(standard), tuple(ours)}) >= 2
    # without runs, or with too few, it does not make things up
    assert "No run under attack" in ladder_text([], "adversarial", "shift:blur")
    few = [run for run in runs if run.path.name.endswith("s0") and "floor" not in run.path.name]
    text = " ".join(ladder_text(few, "adversarial", "shift:blur").split())
    assert "is not shown to fall or to hold at A-unaware (accumulative); give more --seeds or --burnins" in text
    assert "Learning floor: not known" in text
    _verdicts(runs[0])


def _verdicts(run: Run) -> None:
    def step(*values: float, status: str = "finished") -> str:
        made = replace(run, summary={**run.summary, "status": status})
        net = estimate(("one", value) for value in values)
        return Step("A0", "x", "", (made,), net, net, net).verdict

    assert step(0.05, 0.06, 0.07) == "falls"
    assert step(0.0, 0.001, 0.002) == "holds"
    assert step(0.0, 0.02, 0.05) == "open"
    assert step(0.05, 0.06) == "open", "two streams bound nothing"
    assert step(0.0, 0.001, 0.002, status="diverged") == "falls"


def test_what_no_ladder_can_be_asked(both: Path) -> None:
    says(refused("ladder", "--seeds", "0;1"), "--seeds 0;1 0,1,2")
    says(refused("ladder", "--med", "STAK"), "STAK stack")
    says(refused("ladder", "--floor", "shift:blurr"), "shift:blurr shift:blur")
    says(refused(*LADDER, "--trigger", "none"), "--trigger none clean")
    says(refused(*LADDER, "--set", "attack.name=direct"), "varies attack.name drop")
    assert "Mine" not in call(*LADDER, "--med", "STACK", "--dry-run").stdout
