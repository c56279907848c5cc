"""Two writers of one directory: a lease keeps machines apart, and a stale one is taken over."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from accupoison.records import lease
from accupoison.records.lock import TakenError, lock_directory
from accupoison.records.run_directory import RunDirectory
from tests.messages import refuses


def held(folder: Path, seconds: float, **facts: Any) -> Path:  # noqa: ANN401
    """Leave the lease of another machine, renewed so many seconds ago."""
    path = folder / lease.LEASE
    path.write_text(json.dumps({"host": "node7", "pid": 12, "machine": "another", "token": "x", **facts}))
    os.utime(path, (time.time() - seconds,) * 2)
    return path


def test_a_lease_says_who_writes_and_goes_with_the_writer(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path / "run", {"seed": 1}, {}):
        content = json.loads((tmp_path / "run/lease.json").read_text())
        assert (content["pid"], content["machine"]) == (os.getpid(), lease.machine())
        with pytest.raises(TakenError) as caught:
            RunDirectory.resume(tmp_path / "run")
        assert caught.value.renewed == lease.renewed(tmp_path / "run")
    assert not (tmp_path / "run/lease.json").exists()


def test_a_lease_of_another_machine_is_respected(tmp_path: Path) -> None:
    path = held(tmp_path, 50)
    before = path.read_bytes()
    for _ in range(2):  # the refusal keeps no lock
        with refuses("in use node7 12 50 s 120 s") as caught:
            lock_directory(tmp_path)
    assert isinstance(caught.value, TakenError)
    assert caught.value.renewed == path.stat().st_mtime
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "lock") == ["lease.json"]


@pytest.mark.parametrize(
    ("seconds", "facts"), [(150, {}), (1, {"machine": lease.machine()})], ids=["stale", "a dead process of this one"]
)
def test_a_lease_that_nobody_holds_is_taken_over(
    seconds: float, facts: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "SETTLED", 0.01)
    path = held(tmp_path, seconds, **facts)
    with lock_directory(tmp_path) as lock:
        assert json.loads(path.read_text())["pid"] == os.getpid()
        lock.check()


def test_a_half_written_lease_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "SETTLED", 0.01)
    held(tmp_path, 0).write_text('{"host"')
    with refuses("in use another machine"):
        lock_directory(tmp_path)
    os.utime(tmp_path / lease.LEASE, (time.time() - 150,) * 2)
    lock_directory(tmp_path).release()


def test_of_two_that_take_a_stale_lease_over_one_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held(tmp_path, 150)
    monkeypatch.setattr(
        "accupoison.records.lease.time.sleep", lambda _: held(tmp_path, 0)
    )  # the other one replaced it a moment later
    with refuses("in use node7"):
        lock_directory(tmp_path)
    assert json.loads((tmp_path / lease.LEASE).read_text())["host"] == "node7"


def test_a_lease_is_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEWED", 0.01)
    with lock_directory(tmp_path):
        path = tmp_path / lease.LEASE
        os.utime(path, (0, 0))
        until = time.monotonic() + 20
        while not path.stat().st_mtime and time.monotonic() < until:
            time.sleep(0.01)
        assert time.time() - path.stat().st_mtime < 30


def test_a_run_that_was_taken_over_writes_no_more(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run", {"seed": 1}, {})
    run.save_state({"t": 1})
    before = (run.path / "state.pt").read_bytes()
    held(run.path, 0)
    run.check()  # it was renewed a moment ago
    with refuses("taken over another machine"):
        run.save_state({"t": 2})
    run.close()
    assert (run.path / "state.pt").read_bytes() == before
    assert (run.path / lease.LEASE).exists()  # the other one's
