"""Engines carry out the same tasks with the same results, wherever, and whatever dies meanwhile."""

import json
import os
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from accupoison.audit.offline.shadow_models import offline_config, run_offline
from accupoison.config.layers import Layer, preset, read_toml
from accupoison.device import DEVICE
from accupoison.errors import InputError
from accupoison.records import lease
from accupoison.records.files import read_json
from accupoison.records.lock import lock_directory
from accupoison.records.recorder import read_metrics
from accupoison.records.run_directory import RunDirectory
from accupoison.runs.engines import Engine, Local, Ray, Slurm, engine, orders, outcomes, results
from accupoison.runs.engines.orders import Order
from accupoison.runs.workers import Outcome, Task
from accupoison.study.cost import duration
from accupoison.study.grid import read_grid
from accupoison.study.sweep import run_grid
from tests.e2e.conftest import STREAM, TINY, TRAIN, call, done, outcome, refused
from tests.messages import refuses, says
from tests.unit.test_lease import held

PIP = "is not installed; pip install 'accupoison[%s]'"
NAMES = ("a-b0-s0", "a-b0-s1")
THREADS = torch.get_num_threads()
"""What is computed depends, to rounding, on their number."""


@pytest.fixture
def grid(work: Path) -> Path:
    """Two streams from the base model that is there."""
    tables = f'[burnin]\npreset = "demo"\nseeds = [0]\n{(TINY + TRAIN).replace("[", "[burnin.")}'
    online = f'[online]\npreset = "demo"\n{STREAM.replace("[", "[online.")}'.replace("steps = 3", "steps = 20")
    runs = '[[runs]]\nname = "a"\nseeds = [0, 1]\n[runs.run]\nsave_every = 2\n'
    path = work / "grid.toml"
    path.write_text(f"controls = false\n{tables}\n{online}\n{runs}")
    return path


def touch(path: str) -> str:
    Path(path).write_text(f"{Path.cwd()} {os.environ[DEVICE]}")
    return Path(path).name


def fail(path: str) -> str:
    raise InputError(f"{path} cannot be; choose another")


def trip(path: str, times: int) -> str:
    """Die so many times."""
    marks = [Path(f"{path}-{times}-{number}") for number in range(times)]
    for mark in marks:
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
    return f"{Path(path).name}-{times}"


@dataclass
class Failing:
    """An engine that loses each task so many times."""

    times: int
    given: list[list[Task]] = field(default_factory=list)

    def run(self, tasks: Sequence[Task]) -> Iterator[Outcome]:
        self.given.append(list(tasks))
        for number, (function, arguments) in enumerate(tasks):
            if function is fail:
                yield Outcome(number, error=InputError("bad"))
            elif len(self.given) <= self.times:
                yield Outcome(number, error=InputError("lost"), system=True)
            else:
                yield Outcome(number, function(*arguments))


def test_what_the_system_lost_is_given_once_more_and_bad_input_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DEVICE, "cpu")
    tasks: list[Task] = [(fail, ("x",)), (touch, (str(tmp_path / "y"),))]
    once = Failing(1)
    found = {o.task: (o.name, str(o.error or "")) for o in outcomes(once, tasks)}
    assert found == {0: ("", "bad"), 1: ("y", "")}
    assert once.given == [tasks, tasks[1:]]
    assert [str(o.error) for o in outcomes(Failing(9), tasks)] == ["bad", "lost"]
    with refuses("bad"):
        list(results(Failing(0), tasks))


@pytest.mark.slow
def test_a_process_that_is_killed_is_started_once_more_and_takes_no_other_with_it(tmp_path: Path) -> None:
    found: dict[tuple[int, int], str] = {}
    for times in (1, 9):
        tasks: list[Task] = [(trip, (str(tmp_path / "a"), times)), (touch, (str(tmp_path / "b"),))]
        found |= {(times, o.task): o.name or str(o.error) for o in outcomes(Local(2), tasks)}
    says(found.pop((9, 0)), "killed fewer jobs")
    assert found == {(1, 0): "a-1", (1, 1): "b", (9, 1): "b"}


@pytest.fixture
def order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Order:
    """A task as a worker gets it; what the worker does to its process is undone."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv(DEVICE, "cuda")
    made = Order.of(3, (touch, ("there",)), threads=1, gpu=False)
    monkeypatch.chdir("/")
    return made


def test_a_worker_works_where_and_on_what_it_is_told(order: Order, tmp_path: Path) -> None:
    assert order() == Outcome(3, "there")
    assert (tmp_path / "there").read_text() == f"{tmp_path} cpu"  # whatever GPUs its machine has
    assert Order.of(3, (touch, ("there",)), threads=1, gpu=True).environment[DEVICE] == "cuda"


def test_a_worker_of_another_version_refuses(order: Order, tmp_path: Path) -> None:
    for other in (("0.1", order.code[1]), (order.code[0], "0123456789ab")):
        found = replace(order, code=other)()
        assert not found.system
        says(found.error, f"{order.code[0]} {other[0]} {other[1]} install same commit")
    assert not (tmp_path / "there").exists()


def test_a_worker_that_does_not_see_the_disk_refuses(order: Order) -> None:
    says(replace(order, place="/nowhere/at/all")().error, "no /nowhere/at/all directory that all machines share")


def enter(path: str) -> str:
    with lock_directory(Path(path)):
        return "entered"


def test_a_worker_waits_for_a_dead_one_and_not_for_one_at_work(
    order: Order, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orders, "POLLED", 0.01)
    monkeypatch.setattr(lease, "SETTLED", 0.01)
    monkeypatch.setattr(lease, "STALE", 1.0)
    waiting = replace(order, content=Order.of(0, (enter, (str(tmp_path),)), threads=1, gpu=False).content)
    held(tmp_path, 0)
    assert waiting().name == "entered"
    path = held(tmp_path, 0)
    renewing = threading.Timer(0.2, lambda: os.utime(path))
    renewing.start()
    says(waiting().error, "in use node7")
    renewing.join()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--address", "auto"), "--address auto local --engine ray"),
        (("--gpus-per-run", "1"), "--gpus-per-run 1 --device"),
        (("--engine", "slurm", "--gpus-per-run", "0.25"), "--gpus-per-run 0.25 whole number"),
        (("--engine", "ray", "--gpus-per-run", "1.5"), "--gpus-per-run 1.5 share below 1"),
        (("--engine", "ray"), "engine needs ray pip install 'ray>=2.51'"),
        (("--engine", "slurm"), "engine needs submitit pip install submitit"),
    ],
)
def test_what_an_engine_cannot_do_is_one_sentence(
    words: tuple[str, ...], message: str, grid: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ray", "submitit"):
        monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed
    says(refused("sweep", grid, *words), message)


def test_a_run_that_cannot_be_made_is_named_and_the_others_are_made(grid: Path) -> None:
    bad = '[[runs]]\nname = "bad"\nseeds = [0, 1]\n[runs.start]\ncheckpoint = "missing.pt"\n'
    grid.write_text(grid.read_text().replace("steps = 20", "steps = 2").replace("[[runs]]", f"{bad}[[runs]]", 1))
    result = call("sweep", grid, "--quiet")
    assert result.exit_code == 1
    says(result.stderr, "not made: logs/grid/bad-b0-s0, logs/grid/bad-b0-s1: missing.pt")
    assert result.stdout.startswith("2 runs in logs/grid")
    assert all(Path("logs/grid", name, "summary.json").exists() for name in NAMES)
    first, second = (Path("logs/grid", name) for name in NAMES)
    (second / "summary.json").unlink()
    with RunDirectory.resume(second):  # as while the sweep is at it
        assert list(json.loads(done("report", "logs/grid", "--json").stdout)) == [str(first)]


def test_a_bug_in_a_run_has_its_traceback_and_is_named(grid: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a bug of its own")

    monkeypatch.setattr("accupoison.study.sweep.OnlineRun", broken)
    result = call("sweep", grid, "--quiet")
    assert result.exit_code == 1
    lines = result.stderr.splitlines()
    assert sum("in broken" in line for line in lines) == 1
    says(lines[-1], "not made: logs/grid/a-b0-s0, logs/grid/a-b0-s1: ZeroDivisionError: a bug of its own")


@pytest.mark.slow
def test_what_a_sweep_will_cost(grid: Path) -> None:
    grid.write_text(grid.read_text().replace("steps = 20", "steps = 2"))
    shutil.copytree("checkpoints", "kept")
    shutil.rmtree("checkpoints")
    asked = ("sweep", grid, "--dry-run")
    unknown = "left to do: 1 base model and 2 runs; what they take is not known before some are finished or tried"
    assert done(*asked).stdout.splitlines()[-1] == unknown
    tried = done(*asked, "--trial").stdout.splitlines()[-1]
    says(tried, "left to do: 1 base model and 2 runs; about s of one process, by a trial 1 kinds")
    assert not Path("logs").exists()
    assert not Path("checkpoints").exists()
    Path("kept").rename("checkpoints")
    done("sweep", grid, "--quiet")
    says(done(*asked).stdout.splitlines()[-1], "0 base models and 0 runs; about 0 s what 2 finished runs took")
    grid.write_text(grid.read_text().replace("seeds = [0, 1]", "seeds = [0, 1, 2]"))
    known = done(*asked).stdout.splitlines()[-1]
    rows = [row for name in NAMES for row in read_metrics(Path("logs/grid", name, "metrics.jsonl"))]
    took = sum(row.get("time/step_s", 0) + row.get("time/evaluate_s", 0) for row in rows) / 2
    assert known == (
        f"left to do: 0 base models and 1 run; about {duration(took)} of one process, by what 2 finished runs "
        "and their base models took"
    )
    says(refused("sweep", grid, "--trial"), "--trial --dry-run")


def carried_out(grid: Path, logs: str, by: Engine) -> dict[str, dict[str, Any]]:
    """Carry out the grid and return the outcomes of its runs."""
    plan = read_grid(read_toml(grid), Path("checkpoints"), Path(logs))
    assert run_grid(plan, Path("checkpoints"), engine=by, report=lambda *_: None) == {}
    return {spec.out.name: outcome(spec.out) for spec in plan.runs}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_jobs_do_what_processes_do(grid: Path) -> None:
    pytest.importorskip("submitit", reason=PIP % "slurm")
    whole = carried_out(grid, "whole", Local())
    assert carried_out(grid, "parts", Slurm(Path("jobs"), cpus=THREADS, cluster="local", polled=0.2)) == whole


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_shadow_models_go_through_an_engine(work: Path) -> None:
    pytest.importorskip("submitit", reason=PIP % "slurm")
    shadows = {"size": 300, "shadows": 5, "target_models": 1, "population": 100}
    settings: Layer = {"shadows": shadows, "train": {"epochs": 1, "milestones": ""}}
    config = offline_config([preset("audit", "offline"), read_toml(Path("train.toml")), settings])
    engines: dict[str, Engine] = {"here": Local(), "there": Slurm(Path("jobs"), cpus=THREADS, cluster="debug")}
    for out, by in engines.items():
        run_offline(config, Path(out), engine=by, report=lambda *_: None)
    for path in sorted(Path("here/signals").iterdir()):
        with np.load(path) as mine, np.load(Path("there/signals", path.name)) as theirs:
            assert all((mine[name] == theirs[name]).all() for name in ("phi", "probs", "population", "keep"))
    assert len(list(Path("there/signals").iterdir())) == 6


def lose_a_node(cluster: Any, node: Any, folder: Path, lost: list[str]) -> None:  # noqa: ANN401
    """Kill a node of the cluster, and the worker on it, once that has saved a state of its run."""
    raylet = node.all_processes["raylet"][0].process.pid
    while not lost:
        for name in NAMES:
            try:
                worker = int(read_json(folder / name / "lease.json")["pid"])
                parent = int(Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[1])
            except (InputError, OSError):
                continue
            if parent == raylet and (folder / name / "state.pt").exists():
                os.kill(worker, signal.SIGKILL)
                cluster.remove_node(node, allow_graceful=False)
                lost.append(name)
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the processes in /proc")
def test_a_node_is_lost_in_the_middle_of_a_run(grid: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray", reason=PIP % "ray")
    from ray.cluster_utils import Cluster

    whole = carried_out(grid, "whole", Local())
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    size = {"num_cpus": THREADS, "object_store_memory": 80 * 2**20, "include_dashboard": False}
    cluster: Any = Cluster(initialize_head=True, connect=True, head_node_args=size)
    lost: list[str] = []
    try:
        node = cluster.add_node(num_cpus=THREADS, object_store_memory=80 * 2**20)
        killer = threading.Thread(target=lose_a_node, args=(cluster, node, Path("parts"), lost), daemon=True)
        killer.start()
        parts = carried_out(grid, "parts", Ray(cpus=THREADS))
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert len(lost) == 1
    assert parts == whole


def test_the_head_of_a_cluster_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stub:
        """What Ray says of a cluster."""

        gcs_address = "10.1.2.3:6379"

        def get_runtime_context(self) -> "Stub":
            return self

        def nodes(self) -> list[dict[str, Any]]:
            return [{"Alive": True, "Resources": {"CPU": 4.0}}, {"Alive": False, "Resources": {"CPU": 4.0, "GPU": 1.0}}]

    said: list[str] = []
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    Ray(gpus=0.25, say=said.append)._look(Stub())
    says(said[0], "10.1.2.3 token RAY_AUTH_MODE=token")
    says(said[1], "no machine 1 CPUs 0.25 GPUs")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    for host in ("127.0.0.1", "localhost", "[::1]", "10.1.2.3"):
        Stub.gcs_address = f"{host}:6379"
        if host != "10.1.2.3":
            monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
        Ray(cpus=4, say=said.append)._look(Stub())
        monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert len(said) == 2


def test_engines_by_name() -> None:
    assert engine() == Local(None, None)
    assert engine(jobs=3, cpus=2) == Local(3, 2)
    assert engine("ray", address="head", gpus=0.25, cpus=2) == Ray("head", None, 2, 0.25)
    assert engine("slurm", jobs=8, gpus=2.0, folder=Path("x")) == Slurm(Path("x"), 8, 1, 2)
    assert Ray("auto")._where() == {"address": "auto"}


def test_audits_take_the_same_options(work: Path) -> None:
    for words in (("offline",), ("shadow-replays", "--run", "run")):
        says(refused("audit", *words, "--address", "auto"), "--address auto local --engine ray")


@pytest.mark.slow  # as Ray is loaded
@pytest.mark.filterwarnings("ignore")
def test_a_cluster_that_does_not_answer_is_one_sentence(grid: Path) -> None:
    pytest.importorskip("ray", reason=PIP % "ray")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        assert Ray(address)._where() == {"address": address}
    says(refused("sweep", grid, "--engine", "ray", "--address", address), f"no Ray at {address} drop --address")
    says(refused("sweep", grid, "--engine", "ray", "--address", "127.0.0.1:x"), "no Ray at 127.0.0.1:x")
