"""Reports of runs of which some are damaged, or made twice; and two runs of one name at once."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from accupoison.cli.demo import _place
from accupoison.config.schema import OnlineConfig
from accupoison.records.lock import lock_directory
from accupoison.records.run_directory import RunDirectory
from accupoison.runs.build import Built, build_simulation
from tests.e2e.conftest import ONLINE, SET, call, done, refused
from tests.messages import says


@pytest.fixture(scope="module")
def made(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make two runs of one experiment, by seed."""
    folder = tmp_path_factory.mktemp("reports")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(base)
        for seed in ("0", "1"):
            done(*ONLINE, "--seed", seed, "--out", folder / f"run-seed{seed}")
    return folder


@pytest.fixture
def logs(made: Path, work: Path) -> Path:
    shutil.copytree(made, work / "logs")
    return Path("logs")


def rewrite(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    found = json.loads(path.read_text())
    change(found)
    path.write_text(json.dumps(found))


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        ("summary.json", lambda p: p.write_text("{}"), "summary.json status missing"),
        ("summary.json", lambda p: p.write_text("[" * 3000), "summary.json is damaged"),
        ("summary.json", lambda p: p.write_text('{"status": "finished", "status": "finished"}'), "is damaged"),
        ("summary.json", lambda p: rewrite(p, lambda s: s.update(means=[])), "means [] no table"),
        ("summary.json", lambda p: rewrite(p, lambda s: s["start"].update(acc="a")), "start.acc 'a' number"),
        ("summary.json", lambda p: rewrite(p, lambda s: s.update(horizon=True)), "horizon True whole"),
        ("summary.json", lambda p: rewrite(p, lambda s: s.pop("before")), "before missing"),
        ("summary.json", lambda p: rewrite(p, lambda s: s.update(status="finisheD")), "has the status 'finisheD'"),
        ("env.json", lambda p: p.write_text("{}"), "env.json checkpoint missing"),
        ("env.json", Path.unlink, "env.json No such file or directory"),
        ("config.json", lambda p: rewrite(p, lambda c: c.update(stream=3)), "stream 3 not section"),
        ("config.json", lambda p: rewrite(p, lambda c: c["run"].update(seed=2**63)), "config.json is damaged"),
        ("config.json", lambda p: p.write_bytes(b"\xff"), "config.json is damaged"),
        ("config.json", Path.unlink, "config.json No such file or directory"),
    ],
)
def test_a_damaged_run_is_left_out(name: str, spoil: Callable[[Path], None], message: str, logs: Path) -> None:
    spoil(logs / "run-seed1" / name)
    result = done("report", "logs", "--json")
    assert list(json.loads(result.stdout)) == ["logs/run-seed0"]
    (line,) = result.stderr.splitlines()
    assert line.startswith("logs/run-seed1 is left out: ")
    says(line, message)
    alone = call("report", "logs/run-seed1")
    assert (alone.exit_code, alone.stdout) == (1, "")
    assert alone.stderr.splitlines()[1:] == ["no run is left in logs/run-seed1"]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text.replace(b'"step"', b'"stdp"', 1),
        lambda text: text.replace(b'"branch"', b'"bramch"', 1),
        lambda text: bytes(len(text)),
        lambda text: text.replace(b"monitor/acc", b"monitor/abc"),
    ],
)
def test_a_run_without_a_curve_is_left_out_of_the_figure(spoil: Callable[[bytes], bytes], logs: Path) -> None:
    path = logs / "run-seed1" / "metrics.jsonl"
    path.write_bytes(spoil(path.read_bytes()))
    result = done("report", "logs")
    assert "| 1 / 2 |" in result.stdout
    assert result.stderr.startswith("logs/run-seed1 is not in the figure: ")
    assert (logs / "curves.png").exists()
    alone = done("report", "logs/run-seed1")
    assert alone.stderr.startswith("no figure: logs/run-seed1 is not in the figure: ")


def test_a_path_that_does_not_exist_is_refused(logs: Path) -> None:
    assert refused("report", "logs", "nowhere").startswith("Error: there is no directory nowhere; give directories")
    assert refused("audit", "recency", "logs", "tiny.toml").startswith("Error: there is no directory tiny.toml")


def test_formats_that_are_none_are_refused(logs: Path) -> None:
    says(refused("report", "logs", "--format", "htlm"), "'htlm' html")
    says(refused("report", "logs", "--format", ","), "no format")
    says(refused("report", "logs", "--format", "csv", "--json"), "--json --format")


def test_the_same_run_counts_once(logs: Path) -> None:
    done(*ONLINE, "--seed", "0", SET, "run.save_every=1", "--out", "logs/run-seed0-2")
    same = "logs/run-seed0-2 is left out: it has the settings, base model and seed of logs/run-seed0"
    result = done("report", "logs")
    assert f"{same}, and the same outcome" in result.stderr
    assert "| 1 / 2 |" in result.stdout
    rewrite(logs / "run-seed0-2" / "summary.json", lambda s: s["start"].update(acc=0.123))
    assert f"{same}, and another outcome" in done("report", "logs").stderr
    assert f"{same}, and another outcome" in done("audit", "recency", "logs", "--quiet").stderr
    assert done("report", "logs/run-seed0", Path.cwd() / "logs/run-seed0").stderr == ""  # one directory, called twice


def test_a_name_taken_in_the_meantime_is_numbered(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Path("logs/digits-resnet8-w4-accumulative-eps25.5-ST-seed0")
    others: list[RunDirectory] = []

    def slowly(config: OnlineConfig, root: Path) -> Built:
        if not others:
            others.append(RunDirectory.create(first, {"seed": 3}, {}))
        return build_simulation(config, root)

    monkeypatch.setattr("accupoison.runs.online.build_simulation", slowly)
    found = json.loads(done(*ONLINE, "--json").stdout)
    assert found["run"] == f"{first}-2"
    says(refused(*ONLINE, "--out", first), f"{first} already holds a run")
    others[0].close()
    (work / "logs/demo").mkdir()
    with lock_directory(Path("logs/demo")):
        place, lock = _place()
        lock.release()
        assert place == Path("logs/demo-2")
