import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from accupoison.records.files import read_json, write_json
from accupoison.records.run_directory import RunDirectory, differences, environment
from tests.messages import refuses

CONFIG: dict[str, Any] = {
    "seed": 3,
    "stream": {"batch": 100, "triggers": ("coast", "clean"), "shift": None},
    "defense": {"name": "DSC", "threshold": math.inf, "settings": {"eps": 0.2}},
}
HOLDER = """
import sys
from pathlib import Path
from accupoison.records.run_directory import RunDirectory
run = RunDirectory.resume(Path(sys.argv[1]))
sys.stdout.write("held\\n"); sys.stdout.flush()
sys.stdin.read()
"""


def test_a_new_run_can_be_resumed(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "run"
    with RunDirectory.create(path, CONFIG, {"torch": "2"}) as run:
        assert run.config["stream"]["triggers"] == ["coast", "clean"]
        assert run.load_state() is None
        run.save_state({"w": torch.ones(2), "t": 5})
    assert {p.name for p in path.iterdir()} == {"config.json", "env.json", "lock", "state.pt"}
    for again in (CONFIG, None):
        with RunDirectory.resume(path, again) as run:
            assert run.config == json.loads(json.dumps(CONFIG))
            state = run.load_state()
            assert state is not None
            assert state["t"] == 5
            assert torch.equal(state["w"], torch.ones(2))
            assert read_json(run.path / "env.json") == {"torch": "2"}


def test_a_run_is_not_overwritten(tmp_path: Path) -> None:
    RunDirectory.create(tmp_path / "run", CONFIG, {}).close()
    before = (tmp_path / "run" / "config.json").read_bytes()
    with refuses("run already holds run"):
        RunDirectory.create(tmp_path / "run", {"seed": 4}, {})
    assert (tmp_path / "run" / "config.json").read_bytes() == before
    RunDirectory.resume(tmp_path / "run").close()  # the refusal did not keep the lock


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with refuses("files thesis.tex"):
        RunDirectory.create(tmp_path, CONFIG, {})
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_run_that_died_while_it_was_created_is_begun_again(tmp_path: Path) -> None:
    for name in ("lock", "env.json", ".config.json.1.ab.tmp"):
        (tmp_path / name).write_text("")
    RunDirectory.create(tmp_path, CONFIG, {}).close()
    assert RunDirectory.holds_run(tmp_path)


def test_half_written_files_of_a_killed_run_go_away_on_resume(tmp_path: Path) -> None:
    RunDirectory.create(tmp_path / "run", CONFIG, {}).close()
    (tmp_path / "run" / ".state.pt.123.ab.tmp").write_text("half")
    RunDirectory.resume(tmp_path / "run").close()
    assert not list((tmp_path / "run").glob(".*"))


def test_there_must_be_a_run_to_resume(tmp_path: Path) -> None:
    with refuses("no run"):
        RunDirectory.resume(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_another_configuration_is_refused_by_its_keys(tmp_path: Path) -> None:
    path = tmp_path / "run"
    RunDirectory.create(path, CONFIG, {}).close()
    other = {**CONFIG, "stream": {**CONFIG["stream"], "batch": 50}, "new": 1}
    with refuses("stream.batch stored 100, given 50 new stored nothing, given 1"):
        RunDirectory.resume(path, other)
    with refuses("seed 4 more"):
        RunDirectory.resume(path, {})
    RunDirectory.resume(path, CONFIG).close()


def test_differences_sees_type_and_sections() -> None:
    assert differences({"a": {"b": 1}}, {"a": {"b": 1}}) == []
    assert differences({"a": math.nan, "l": (1,)}, {"l": [1], "a": math.nan}) == []
    assert differences({"a": {"b": True}}, {"a": {"b": 1}}) == ["a.b: stored true, given 1"]
    assert differences({"a": {}}, {"a": {"b": 1}}) == ["a: stored {}, given nothing", "a.b: stored nothing, given 1"]


def test_a_run_in_use_is_refused_until_its_process_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "run"
    RunDirectory.create(path, CONFIG, {}).close()
    pipe = subprocess.PIPE  # it waits for an end of input that does not come
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdin=pipe, stdout=pipe, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with refuses("run in use"):
            RunDirectory.resume(path)
        with refuses("run in use"):
            RunDirectory.create(path, CONFIG, {})
    finally:
        holder.kill()
        holder.communicate()
    RunDirectory.resume(path).close()


def test_the_lock_holds_within_one_process_too(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path / "run", CONFIG, {}), refuses("in use"):
        RunDirectory.resume(tmp_path / "run")
    RunDirectory.resume(tmp_path / "run").close()


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with refuses("file/run Not a directory"):
        RunDirectory.create(tmp_path / "file" / "run", CONFIG, {})
    with refuses("file File exists"):
        RunDirectory.create(tmp_path / "file", CONFIG, {})


def test_json_is_strict_and_keeps_every_number(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path / "run", CONFIG, {}) as run:
        obj = {"a": [math.inf, -math.inf, 0.1, 1], "b": {"c": math.nan}, "d": None, "e": "\u00e9"}
        write_json(run.path / "summary.json", obj)
        back = read_json(run.path / "summary.json")
        assert repr(back) == repr(obj)

        def refuse(name: str) -> None:
            raise AssertionError(f"{name} is not JSON")

        json.loads((run.path / "summary.json").read_text(), parse_constant=refuse)
        with refuses("'inf' cannot be stored"):
            write_json(run.path / "summary.json", {"a": "inf"})
        assert repr(read_json(run.path / "summary.json")) == repr(obj)


@pytest.mark.parametrize("content", ["", "{", "[1]", "\xff"])
def test_damaged_json(tmp_path: Path, content: str) -> None:
    path = tmp_path / "run"
    RunDirectory.create(path, CONFIG, {}).close()
    (path / "config.json").write_text(content, encoding="latin-1")
    for _ in range(2):  # the lock is free after the first refusal
        with refuses("config.json is damaged"):
            RunDirectory.resume(path)


def test_a_damaged_state_is_refused(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path / "run", CONFIG, {}) as run:
        run.save_state({"t": 1})
        (run.path / "state.pt").write_bytes((run.path / "state.pt").read_bytes()[:-40])
        with refuses("state.pt"):
            run.load_state()


def test_environment_can_be_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env = environment()
    assert env["torch"] == torch.__version__
    assert env["torch_threads"] == torch.get_num_threads()
    assert env["device_name"]
    assert env["time"].endswith("+00:00")
    RunDirectory.create(tmp_path / "run", CONFIG, env).close()
    assert str(Path.cwd()) not in (tmp_path / "run" / "env.json").read_text()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment()["commit"] is None


def test_the_commit_is_that_of_the_source_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import accupoison

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(tmp_path), *arguments], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    package = tmp_path / "accupoison" / "__init__.py"
    package.parent.mkdir()
    package.write_text("")
    git("init", "-q")
    monkeypatch.setattr(accupoison, "__file__", str(package))
    assert environment()["commit"] is None
    git("add", ".")
    git("-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "-qm", "one")
    assert environment()["commit"] == git("rev-parse", "HEAD")
    package.write_text("changed = 1")
    assert environment()["commit"] == git("rev-parse", "HEAD") + "+"
    installed = tmp_path / "venv" / "accupoison" / "__init__.py"
    monkeypatch.setattr(accupoison, "__file__", str(installed))
    installed.parent.mkdir(parents=True)
    assert environment()["commit"] is None
