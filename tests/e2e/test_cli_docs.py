"""The command line is one program, says what it does, and docs/cli.md says the same."""

import configparser
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from accupoison.cli import cli
from accupoison.cli.docs import cli_markdown
from accupoison.cli.group import started
from accupoison.cli.output import TENSORBOARD, UNTICK, json_text, progress_bar
from tests.e2e.conftest import BURNIN, CHECKPOINT, ENVIRONMENT, ONLINE, ROOT, call, done


def commands(group: click.Group = cli, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yield every command with the words that call it."""
    yield path, group
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


def test_docs_are_up_to_date() -> None:
    written = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert written == cli_markdown(), "write it anew; the command is in its first lines"


def test_docs_name_every_command_and_option() -> None:
    text = cli_markdown()
    for path, command in commands():
        assert f"\n## {' '.join(('accupoison', *path))}\n" in text
        assert command.help, path
        section = text.split(f"\n## {' '.join(('accupoison', *path))}\n")[1].split("\n## ")[0]
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                if parameter.hidden:  # an old name
                    continue
                assert parameter.help, (path, parameter.name)
                assert all(f"{option}" in section for option in parameter.opts), (path, parameter.name)
            else:
                assert parameter.make_metavar(click.Context(command)) in section


def test_docs_keep_tables_and_examples_whole() -> None:
    @click.group(help="Do things.\n\n\b\nFirst:\n  a | b")
    def group() -> None: ...

    @group.command()
    @click.option("--kind", type=click.Choice(["a", "b"]), help="One of two.")
    def leaf(kind: str) -> None:
        """Be a leaf."""

    @group.command(hidden=True)
    def secret() -> None: ...

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("accupoison.cli.docs.cli", group)
        text = cli_markdown()
    assert (
        "\n\nDo things.\n\n```\nFirst:\n  a | b\n```\n\n| command | meaning |\n|---|---|\n| `leaf` | Be a leaf. |\n"
        in text
    )
    assert r"| `--kind [a\|b]` | One of two. |" in text
    assert "secret" not in text


@pytest.mark.parametrize("words", [path for path, _ in commands()], ids=" ".join)
def test_help(words: tuple[str, ...]) -> None:
    short, long = done(*words, "-h"), done(*words, "--help")
    assert short.output == long.output
    assert short.output.startswith("Usage: ")
    assert "\\b" not in short.output


def test_help_fits_a_terminal() -> None:
    for path, command in commands():
        context = click.Context(
            command, info_name=" ".join(("accupoison", *path)), terminal_width=100, max_content_width=100
        )
        assert max(map(len, command.get_help(context).splitlines())) <= 100, path
        if isinstance(command, click.Group):
            room = 80 - len(max(command.commands, key=len)) - 6
            for name, child in command.commands.items():
                assert not child.get_short_help_str(room).endswith("..."), (path, name)


ENTRY = """
import sys
from importlib import import_module
module, _, function = {target!r}.partition(":")
sys.argv[0] = "accupoison"
getattr(import_module(module), function)()
"""
NO_TORCH = """
import sys
from accupoison.cli import cli
for words in {words!r}:
    try:
        cli.main([*words, "--help"])
    except SystemExit as end:
        assert end.code == 0, words
heavy = {{"torch", "numpy", "sklearn", "tensorboard", "matplotlib", "scipy"}} & set(sys.modules)
assert not heavy, heavy
"""


def child(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False)


def without(program: str, text: str) -> str:
    """Return what is said, however the program was started and whatever that makes of the lines."""
    return " ".join(text.replace(program, "accupoison").split())


def test_the_ways_to_start_it_are_one_program() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    name, _, target = setup["options.entry_points"]["console_scripts"].strip().partition(" = ")
    assert name == "accupoison"
    ways = {
        "python cli.py": ["cli.py"],
        "python -m accupoison": ["-m", "accupoison"],
        "accupoison": ["-c", ENTRY.format(target=target)],
    }
    for words in (["-h"], ["online", "--help"], ["--version"], ["online", "--med"], ["online", "--mde", "ST"]):
        answers = {program: child(*way, *words) for program, way in ways.items()}
        said = {
            (answer.returncode, *(without(program, text) for text in (answer.stdout, answer.stderr)))
            for program, answer in answers.items()
        }
        assert len(said) == 1, said
        for program, answer in answers.items():  # each is told its own
            assert answer.stdout or answer.returncode == 2
            if words == ["-h"]:
                assert answer.stdout.startswith(f"Usage: {program} [OPTIONS]")
                assert f"\n    {program} online --med OURS\n" in answer.stdout
            if "--mde" in words:
                assert f"Try '{program} online --help' for help." in answer.stderr
    assert (ROOT / "cli.py").read_text().count("\n") < 10, "the root command holds nothing of its own"


@pytest.mark.parametrize(
    ("path", "on_path", "program"),
    [
        ("cli.py", False, "python cli.py"),
        ("../my work/cli.py", False, "python '../my work/cli.py'"),
        ("/site-packages/accupoison/__main__.py", True, "python -m accupoison"),
        ("/env/bin/accupoison", True, "accupoison"),
        ("/my env/bin/accupoison", False, "'/my env/bin/accupoison'"),
        ("/env/Scripts/accupoison.exe", True, "accupoison"),
        ("/site-packages/pytest/__main__.py", True, "python cli.py"),
    ],
)
def test_a_command_begins_as_the_program_was_started(
    path: str, on_path: bool, program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}" if on_path else None)
    assert started(path) == program


def test_help_loads_nothing_heavy() -> None:
    answer = child("-c", NO_TORCH.format(words=[list(path) for path, _ in commands()]))
    assert answer.returncode == 0, answer.stderr


def test_json_is_all_that_json_prints(work: Path) -> None:
    for command in (ONLINE, (*BURNIN, "--out", "again")):
        result = done(*(word for word in command if word != "--quiet"), "--json")
        assert result.stderr == ""
        printed = json.loads(result.stdout, parse_constant=pytest.fail)
        assert printed["status"] == "finished"
        assert {**printed, "run": ""} == {**json.loads(Path(printed["run"], "summary.json").read_text()), "run": ""}


def test_json_has_no_numbers_that_json_lacks() -> None:
    text = json_text({"a": float("nan"), "b": [float("inf"), {"c": float("-inf")}], "d": 0.5})
    assert json.loads(text, parse_constant=pytest.fail) == {"a": "nan", "b": ["inf", {"c": "-inf"}], "d": 0.5}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "hidden", "shown"),
    [
        (Terminal, False, True),
        (Terminal, True, False),
        (io.StringIO, False, False),
    ],
)
def test_the_progress_bar_is_for_people(
    stream: type[io.StringIO], hidden: bool, shown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = stream()
    monkeypatch.setattr(sys, "stderr", out)
    with progress_bar("burn-in", hidden=hidden) as show:
        show(3, 10, "loss 0.5")
        show(10, 10, "loss 0.25")
    assert ("burn-in" in out.getvalue()) == shown
    assert ("10/10" in out.getvalue()) == shown
    assert ("loss 0.25" in out.getvalue()) == shown


def test_without_a_terminal_a_line_every_half_minute_says_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    out, now = io.StringIO(), [100.0]
    monkeypatch.setattr(sys, "stderr", out)
    monkeypatch.setattr("accupoison.cli.output.monotonic", lambda: now[0])
    with progress_bar("OURS", hidden=False) as show:
        show(0, 1, "loading data and base model")
        for step in range(1, 21):  # the first one after 40 steps of an earlier process
            now[0] += 12
            show(40 + step, 60, f"accuracy {step}%")
    lines = out.getvalue().splitlines()
    assert lines[0] == "OURS: 41 of 60, about 4 min left; accuracy 1%"
    assert lines[1] == "OURS: 44 of 60, about 3 min left; accuracy 4%"
    assert len(lines) == 7
    with progress_bar("short", hidden=False) as show:
        for step in range(1, 4):
            now[0] += 1
            show(step, 4, "")
    assert out.getvalue().splitlines() == lines, "nobody waits for three seconds"


def test_without_quiet_and_json_a_person_reads_the_outcome(work: Path) -> None:
    result = done(*ONLINE, "--trigger", "coast,adversarial")
    lines = result.stdout.splitlines()
    assert lines[0].startswith("attacker (accumulative) sees the weights at every step")
    labels = ["start", "before the trigger (step 3)", "coast: after the trigger", "coast: at the end"]
    labels += ["adversarial: after the trigger", "adversarial: at the end"]
    assert [line.partition(" test accuracy ")[0].strip() for line in lines[1:7]] == labels
    assert all("%" in line for line in lines[1:7])
    assert lines[7].startswith("ST ends at ")
    assert "A step without any batch in its place ends at" in lines[7]
    assert lines[8] == "wrote logs/digits-resnet8-w4-accumulative-eps25.5-ST-seed0"
    assert lines[9:] == ["curves:", "  tensorboard --logdir logs", f"  {TENSORBOARD}", f"  {UNTICK}"]
    usual = str(CHECKPOINT.parent).replace("-2epochs", "")
    said = f"There is no {usual}; the stream starts from {CHECKPOINT.parent}, of another number of epochs."
    assert result.stderr == f"note: {said}\n"


@pytest.mark.parametrize("words", [ONLINE, BURNIN])
def test_dry_run_writes_nothing_and_shows_every_setting(words: tuple[str, ...], work: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in work.rglob("*")}
    result = done(*words, "--dry-run", "--seed", "7", "--out", "new")
    assert {path: path.stat().st_mtime_ns for path in work.rglob("*")} == before
    shown = json.loads(result.stdout, parse_constant=pytest.fail)
    assert shown["run"]["seed"] == 7
    assert shown["model"]["width"] == 4
    assert ("threat_model" in shown) == (words is ONLINE)
    if words is ONLINE:
        assert shown["update"]["clip_norm"] == "inf"
        assert shown["defense"] == {"name": "ST"}


def test_an_unknown_command_or_option() -> None:
    for words, message in [(["onlin"], "No such command 'onlin'"), (["online", "--mde", "AT"], "No such option")]:
        result = call(*words)
        assert result.exit_code == 2
        assert f"Error: {message}" in result.stderr
