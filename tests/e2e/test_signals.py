"""Ctrl-C, SIGTERM and SIGHUP stop a command alike: what can be saved is, and the command says how to go on."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from accupoison.records import checkpoint
from accupoison.runs.interrupt import SIGNALS
from accupoison.runs.online import OnlineRun
from accupoison.runs.trainer import Burnin
from accupoison.runs.workers import carry_out
from tests.e2e.conftest import BURNIN, CHECKPOINT, ENVIRONMENT, ONLINE, SET, call, done, outcome, refused, steps_of
from tests.messages import says

pytestmark = pytest.mark.slow

SENT = [(number, 1, 128 + number, 3) for number in SIGNALS] + [(signal.SIGTERM, 2, 143, 3), (signal.SIGINT, 2, 130, 2)]
"""Signal, times, exit code, steps saved: SIGTERM twice at once, as ``timeout`` sends it, is one request."""


def sending(method: Callable[..., Any], number: int, times: int, when: Callable[[Any], bool]) -> Callable[..., Any]:
    """Return ``method``, after which the process gets a signal once ``when`` holds of its object."""

    def send(self: object, *arguments: object) -> object:
        result = method(self, *arguments)
        for _ in range(times if when(self) else 0):
            signal.raise_signal(number)
        return result

    return send


STREAM = (*ONLINE, "--checkpoint", CHECKPOINT)


@pytest.fixture(scope="module")
def whole(base: Path) -> dict[str, Any]:
    """Return what a stream that nobody stops comes to."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(base)
        patch.delenv("ACCUPOISON_DATA", raising=False)
        done(*STREAM, SET, "run.save_every=2", "--out", "whole")
    return outcome(base / "whole")


@pytest.mark.parametrize(("number", "times", "code", "saved"), SENT)
def test_a_stream(
    number: int,
    times: int,
    code: int,
    saved: int,
    whole: dict[str, Any],
    work: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    before = [signal.getsignal(n) for n in SIGNALS]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            OnlineRun,
            "_record",
            sending(OnlineRun._record, number, times, lambda run: run.evaluator.summary.steps == 3),
        )
        result = call(*STREAM, SET, "run.save_every=2", "--out", "run")
    assert [signal.getsignal(n) for n in SIGNALS] == before
    assert result.exit_code == code
    assert "stopping after this step; press Ctrl-C again to stop at once" in capfd.readouterr().err
    said = "interrupted and saved; go on with" if saved == 3 else "stopped at once; go on from the last save with"
    assert result.stderr == f"{said}: python cli.py online --resume run\n"
    assert steps_of("run") == saved
    done("online", "--resume", "run", "--quiet")
    assert outcome(Path("run")) == whole


@pytest.mark.parametrize("number", SIGNALS)
def test_a_burn_in(number: int, work: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Burnin, "_train_step", sending(Burnin._train_step, number, 1, lambda burnin: burnin.step == 13))
        result = call(*BURNIN, "--out", "run")
    assert result.exit_code == 128 + number
    assert result.stderr == "interrupted and saved; go on with: python cli.py burnin --resume run\n"
    assert checkpoint.load(Path("run/state.pt"), "run-state")["step"] == 14
    done("burnin", "--resume", "run", "--quiet")
    assert outcome(Path("run")) == outcome(CHECKPOINT.parent)


GRID = """
controls = false
[burnin]
preset = "demo"
seeds = [0]
[burnin.train]
epochs = {epochs}
[online]
preset = "demo"
[[runs]]
name = "a"
seeds = [0, 1]
[runs.stream]
steps = 3
recovery_steps = 0
[runs.attack]
steps = 1
"""
ON = "interrupted; the same command goes on with what is left\n"


def test_a_sweep_saves_the_run_that_it_is_at(work: Path) -> None:
    Path("grid.toml").write_text(GRID.format(epochs=1))
    done("sweep", "grid.toml", "--quiet", "--out", "whole")
    with pytest.MonkeyPatch.context() as patch:
        record = sending(OnlineRun._record, signal.SIGTERM, 1, lambda run: run.evaluator.summary.steps == 2)
        patch.setattr(OnlineRun, "_record", record)
        result = call("sweep", "grid.toml", "--quiet", "--out", "parts")
    assert (result.exit_code, result.stderr) == (143, ON)
    assert steps_of("parts/grid/a-b0-s0") == 2
    done("sweep", "grid.toml", "--quiet", "--out", "parts")
    for name in ("a-b0-s0", "a-b0-s1"):
        assert outcome(Path("parts/grid") / name) == outcome(Path("whole/grid") / name)


WATCHED = """
import os, signal, sys
from accupoison.cli import main
from accupoison.study import sweep as local
burn = local.run_burnin
def slow(config, out, **options):
    def progress(step, *rest):
        if step == 3 and config.run.seed == 0:
            os.kill(os.getppid(), signal.{name})  # the sweep itself
    options["progress"] = progress
    return burn(config, out, **options)
local.run_burnin = slow
main()
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_workers_save_before_they_end(name: str, work: Path) -> None:
    """A worker sends the signal to the sweep, which passes it on; without it the burn-ins would take hours."""
    Path("grid.toml").write_text(GRID.format(epochs=100_000).replace("seeds = [0]", "seeds = [0, 1]", 1))
    Path("watched.py").write_text(
        WATCHED.format(name=name).replace("main()\n", 'if __name__ == "__main__":\n    main()\n')
    )
    words = [sys.executable, "watched.py", "sweep", "grid.toml", "--quiet", "--jobs", "2"]
    child = subprocess.run(words, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert (child.returncode, child.stderr) == (128 + getattr(signal, name), ON)
    saved = [checkpoint.load(path, "run-state")["step"] for path in Path("checkpoints").glob("*w16*/state.pt")]
    assert len(saved) >= 1  # the other one may not have begun
    assert min(saved) >= 1


@pytest.mark.parametrize("words", [("report", "logs"), ("audit", "--run", "logs"), ("demo",), ("sweep", "grid.toml")])
def test_other_commands_say_that_the_same_command_goes_on(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.chdir(tmp_path)
    Path("grid.toml").touch()
    monkeypatch.setattr(import_module("accupoison.study.collect"), "collect", interrupt)
    for function in ("audit.directory.audit_directory", "study.grid.read_grid", "config.layers.read_toml"):
        monkeypatch.setattr(f"accupoison.{function}", interrupt)
    result = call(*words)
    assert (result.exit_code, result.stderr) == (130, ON)


EARLY = """
import sys
class Interrupted:
    def find_spec(self, name, *rest):
        if name == "accupoison.cli.options":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupted())
from accupoison.__main__ import main
main()
"""


def test_an_interruption_while_it_is_loaded() -> None:
    child = subprocess.run([sys.executable, "-c", EARLY], env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert (child.returncode, child.stderr) == (130, "")


IGNORING = """
import signal, sys
from accupoison.cli import group
signal.signal(signal.SIGHUP, signal.SIG_IGN)
def report():
    print(signal.getsignal(signal.SIGHUP) is signal.SIG_IGN, callable(signal.getsignal(signal.SIGTERM)))
group.cli.main = lambda **_: report()
group.main()
"""


def test_nohup_stays_in_force() -> None:
    child = subprocess.run(
        [sys.executable, "-c", IGNORING], env=ENVIRONMENT, capture_output=True, text=True, check=True
    )
    assert child.stdout == "True True\n"


@pytest.mark.parametrize("command", [BURNIN, STREAM])
def test_a_job_that_is_restarted_by_the_same_command(command: tuple[str, ...], work: Path) -> None:
    done(*command, "--out", "whole")
    words = (*command, "--out", "run", "--resume-or-start")
    owner, name = (Burnin, "_train_step") if command is BURNIN else (OnlineRun, "_record")
    calls = []

    def second(_: object) -> bool:
        calls.append(1)
        return len(calls) == 2

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, sending(getattr(owner, name), signal.SIGTERM, 1, second))
        result = call(*words)
    assert result.exit_code == 143
    assert result.stderr == "interrupted and saved; go on with: the same command\n"
    done(*words)
    assert outcome(Path("run")) == outcome(Path("whole"))
    again = done(*words, "--json")  # nothing is left to do
    assert '"status": "finished"' in again.stdout
    assert outcome(Path("run")) == outcome(Path("whole"))
    says(refused(*words, "--seed", "5"), "started configuration")
    says(refused(*words[:-3], "--resume", "run", "--resume-or-start"), "exclude each other")


def test_the_default_place_of_a_restarted_stream_is_one(work: Path) -> None:
    for _ in range(2):
        done(*ONLINE, "--resume-or-start")
    assert [path.name for path in Path("logs").iterdir()] == ["digits-resnet8-w4-accumulative-eps25.5-ST-seed0"]
    done(*ONLINE)
    assert Path("logs/digits-resnet8-w4-accumulative-eps25.5-ST-seed0-2").is_dir()


def test_a_demo_that_was_cut_off_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_grid(plan: Any, *_: object, **__: object) -> None:  # noqa: ANN401
        places.append(plan.runs[0].out.parent)
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    places: list[Path] = []
    monkeypatch.setattr("accupoison.study.sweep.run_grid", run_grid)
    for _ in range(2):
        assert call("demo", "--quiet").exit_code == 130
    Path("logs/demo/curves.png").touch()
    call("demo", "--quiet")
    assert places == [Path("logs/demo"), Path("logs/demo"), Path("logs/demo-2")]


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a terminal")
def test_a_terminal_that_goes_away(work: Path) -> None:
    """What a lost ssh does: SIGHUP, and from then on nothing can be printed; the run is saved all the same."""
    done(*ONLINE, "--out", "whole")
    parent, child = os.openpty()
    words = [word for word in ONLINE if word != "--quiet"]
    program = HANGING.format(words=[*words, SET, "run.save_every=5", "--out", "run"])
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        env=ENVIRONMENT,
        stdin=child,
        stdout=child,
        stderr=child,
        start_new_session=True,
    )
    os.close(child)
    with suppress(OSError):
        while b"hang up now" not in os.read(parent, 4096):
            pass
    os.close(parent)
    Path("hung up").touch()
    assert process.wait() == 129
    assert 1 <= steps_of("run") <= 4
    done("online", "--resume", "run", "--quiet")
    assert outcome(Path("run")) == outcome(Path("whole"))


HANGING = """
import fcntl, os, signal, sys, termios
from pathlib import Path
from accupoison.cli import main
from accupoison.runs.online import OnlineRun
fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # its terminal, so that it hears when that goes
record = OnlineRun._record
def watched(run, step):
    record(run, step)
    if run.evaluator.summary.steps == 2:
        os.write(1, b"hang up now")
        while not Path("hung up").exists():
            pass
OnlineRun._record = watched
sys.argv = ["accupoison", *{words}]
main()
"""


def test_a_signal_while_tasks_are_handed_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    submit = ProcessPoolExecutor.submit
    handed: list[object] = []

    def sending_third(pool: ProcessPoolExecutor, *arguments: Any) -> Any:  # noqa: ANN401
        handed.append(arguments)
        if len(handed) == 3:
            signal.raise_signal(signal.SIGINT)
        return submit(pool, *arguments)

    monkeypatch.setattr(ProcessPoolExecutor, "submit", sending_third)
    tasks = [(touch, (str(tmp_path / str(number)),)) for number in range(6)]
    with pytest.raises(KeyboardInterrupt):
        list(carry_out(tasks, 2))
    assert len(list(tmp_path.iterdir())) < 6


def touch(path: str) -> str:
    Path(path).touch()
    return path
