"""Every command that the program prints works when it is pasted, whatever the paths are called."""

import ast
import json
import re
import shlex
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import pytest

from accupoison.cli import cli
from tests.e2e.conftest import CHECKPOINT, ONLINE, ROOT, SET, After, call, done, refused

pytestmark = pytest.mark.slow
LOGS = Path("my logs; it's here")
RUN = LOGS / "a $run"
CONTROLS = "controls = false\n[burnin]\npreset = 'demo'\nseeds = [0]\n[online]\npreset = 'demo'\n[[runs]]\n"


def printed(text: str, before: str) -> list[str]:
    """Return the words, as a shell reads them, of the command that ends the line which says ``before``."""
    (line,) = re.findall(rf"{re.escape(before)}: (.+)$", text, flags=re.MULTILINE)
    return shlex.split(line)


def ours(text: str, before: str) -> list[str]:
    """Return the words after the program, which must be a command that there is, with options that there are."""
    words = printed(text, before)
    assert words[:2] == ["python", "cli.py"], words
    if "--dry-run" in done(*words[2:], "--help").stdout:
        done(*words[2:], "--dry-run")
    return words[2:]


def stopping(steps: int, patch: pytest.MonkeyPatch) -> None:
    """Let runs be asked to stop after some steps, as by Ctrl-C."""

    class Asked(After):
        number = signal.SIGINT

    @contextmanager
    def interruptible(_: bytes) -> Iterator[After]:
        yield Asked(steps)

    patch.setattr("accupoison.cli.commands.interruptible", interruptible)


def test_of_a_run_its_end_and_what_it_refuses(work: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        stopping(2, patch)
        stopped = call(*ONLINE, "--out", RUN)
    assert stopped.exit_code == 130
    resume = ["online", "--resume", str(RUN)]
    assert ours(stopped.stderr, "go on with") == resume
    assert ours(refused("audit", "--run", RUN), "has not ended; go on with") == resume
    assert ours(refused("burnin", "--resume", RUN), "resume it with") == resume
    ended = done(*resume)
    assert f"curves:\n  tensorboard --logdir {shlex.quote(str(LOGS))}\n  http" in ended.stdout
    CHECKPOINT.unlink()
    words = ours(refused(*ONLINE, "--data", "npz:my 'data'.npz"), "make it with")
    assert words[:3] == ["burnin", "--data", "npz:my 'data'.npz"]


def test_of_a_report(work: Path) -> None:
    done(*ONLINE, "--out", RUN, SET, "start.checkpoint=" + str(CHECKPOINT))
    done("report", RUN, "--format", "json,html")
    found = json.loads((RUN / "report.json").read_text())
    assert ours(found["figures"]["roc"]["missing"], "report again") == ["audit", "--run", str(RUN)]
    again = shlex.split(found["command"])[2:]
    assert again[:2] == ["report", str(RUN)]
    page = (RUN / "report.html").read_bytes()
    (RUN / "report.html").unlink()
    done(*again)
    assert (RUN / "report.html").read_bytes() == page
    (of_run,) = (run["command"] for run in found["runs"].values())
    words = shlex.split(of_run)[2:]
    assert words[-2:] == ["--out", f"{RUN}-again"]
    done(*words, "--dry-run")


def test_of_a_sweep_and_of_a_challenge(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("accupoison.study.sweep.run_grid", lambda *_, **__: {})
    Path("it's a grid.toml").write_text(f"{CONTROLS}name = 'a'\nseeds = [0]\n")
    swept = done("sweep", "it's a grid.toml", "--out", LOGS)
    assert ours(swept.stdout, "tables") == ["report", str(LOGS / "it's a grid")]
    monkeypatch.setattr("accupoison.audit.challenge.make.make_cell", lambda *_: "made")
    made = done("audit", "challenge", "make", LOGS / "root", "--quiet")
    assert printed(made.stdout, "answer it with")[2:] == ["audit", "challenge", str(LOGS / "root")]


def options_of(group: click.Group) -> Iterator[str]:
    for command in group.commands.values():
        yield from (option for parameter in command.params for option in parameter.opts)
        if isinstance(command, click.Group):
            yield from options_of(command)


def test_every_option_that_a_message_names_is_there() -> None:
    known = {
        *options_of(cli),
        "--help",
        "--logdir",
        "--head",
        "--porcelain",
        "--show-toplevel",
    }  # TensorBoard, Ray, git
    named = {
        option
        for path in (ROOT / "accupoison").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        for option in re.findall(r"(?<![\w-])--[a-z][\w-]*", node.value)
    }
    assert len(named) > 50
    assert named - known == set()


def test_where_nothing_is_there_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert ours(done("list").stdout, "none yet") == ["burnin"]
