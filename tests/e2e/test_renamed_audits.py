"""Old names of audits: commands, options and settings that papers' commands have, and directories made before."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from accupoison.cli.options import renamed_option
from tests.e2e.conftest import BURNIN, ONLINE, SET, done, refused
from tests.messages import says

OFFLINE = (
    *("audit", "offline", "--data", "digits", "--model", "convnet", "--width", "4", "--size", "300", "--shadows", "5"),
    *("--epochs", "1", SET, "train.batch_size=50", SET, "train.milestones=1", SET, "shadows.population=50", "--quiet"),
)


def made_before(folder: Path, change: Callable[[dict[str, Any]], None]) -> dict[str, int]:
    """Give an audit the names of the version before; return when each of its files of signals was written."""
    (folder / "signals").rename(folder / "worlds")
    for path in (folder / "worlds").glob("target_models-*"):
        path.rename(path.with_name(path.name.replace("target_models", "victims")))
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))
    for path in (folder / "worlds").iterdir():
        os.utime(path, (0, 0))  # so that one made anew shows, however fast
    return written(folder)


def written(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (folder / "worlds").iterdir()}


def said(result: Result, old: str, new: str) -> bool:
    """Return whether standard error says a new name, once."""
    return result.stderr.splitlines().count(f"{old} is now called {new}") == 1


def test_an_offline_audit_goes_on_under_its_old_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ACCUPOISON_DATA", raising=False)
    made = json.loads(done(*OFFLINE, "--target-models", "2", "--out", "a", "--json").stdout)

    def older(config: dict[str, Any]) -> None:
        config["shadows"]["victims"] = config["shadows"].pop("target_models")

    before = made_before(Path("a"), older)
    assert set(before) == {f"shadows-00{i}.npz" for i in range(5)} | {"victims-000.npz", "victims-001.npz"}
    Path("old.toml").write_text("[shadows]\nvictims = 2\n")
    for words, old, new in (
        (("--victims", "2"), "--victims", "--target-models"),
        (("--config", "old.toml", SET, "shadows.victims=2"), "shadows.victims", "shadows.target_models"),
    ):
        again = done(*OFFLINE, *words, "--out", "a", "--json")
        assert said(again, old, new)
        assert json.loads(again.stdout)["attacks"] == made["attacks"]
    says(refused(*OFFLINE, "--target-models", "3", "--out", "a"), "shadows.target_models 2 3")
    assert written(Path("a")) == before
    assert not Path("a/signals").exists()
    Path("a/worlds/victims-001.npz").unlink()
    assert (
        json.loads(done(*OFFLINE, "--target-models", "2", "--out", "a", "--json").stdout)["attacks"] == made["attacks"]
    )
    assert [path.name for path in Path("a/signals").iterdir()] == ["target_models-001.npz"]


def test_shadow_replays_go_on_under_their_old_names(work: Path) -> None:
    sizes = (SET, "data.stream=700", SET, "start.recipe=few")
    done(*BURNIN, SET, "data.stream=700", SET, "train.recipe=few")
    done(*ONLINE, *sizes, "--attack", "none", "--trigger", "clean", "--after", "0", "--out", "run")
    replays = ("--run", "run", "--queries", "plain", "--quiet", "--json")
    made = json.loads(done("audit", "shadow-replays", *replays, "--replays", "8").stdout)
    assert made["out"] == "run/shadow-replays-8-per-replay-shared"
    folder = Path("run/worlds-8-per-world-shared")
    Path(made["out"]).rename(folder)

    def older(config: dict[str, Any]) -> None:
        config["worlds"] = {**config.pop("shadow_replays"), "poison": "per-world"}

    before = made_before(folder, older)
    again = done("audit", "worlds", *replays, "--worlds", "8", "--poison", "per-world")
    names = {"worlds": "shadow-replays", "--worlds": "--replays", "per-world": "per-replay"}
    assert all(said(again, old, new) for old, new in names.items())
    found = json.loads(again.stdout)
    assert found["out"] == str(folder)
    assert (found["attacks"], found["run"]) == (made["attacks"], made["run"])
    assert written(folder) == before
    pooled = done("audit", "ages", "run", "--quiet")
    assert said(pooled, "ages", "recency")
    assert Path("logs/recency/recency.csv").exists()


@pytest.mark.parametrize(
    ("words", "value", "notes"),
    [
        (["--old", "3"], 3, 1),
        (["--old=3"], 3, 1),
        (["--new", "4", "--old", "3"], 4, 1),
        (["--new", "4"], 4, 0),
        ([], 5, 0),
    ],
)
def test_an_option_answers_to_its_old_name(words: list[str], value: int, notes: int) -> None:
    @click.command()
    @click.option("--new", "number", type=int, default=5)
    @renamed_option("--old", "--new")
    def command(number: int) -> None:
        click.echo(f"{number!r}")

    result = CliRunner().invoke(command, words)
    assert result.stdout == f"{value}\n"
    assert result.stderr.count("--old is now called --new") == notes
    assert "--old" not in CliRunner().invoke(command, ["--help"]).output
    wrong = CliRunner().invoke(command, ["--old", "x"])
    assert wrong.exit_code == 2
    assert "'x' is not a valid integer" in wrong.stderr
