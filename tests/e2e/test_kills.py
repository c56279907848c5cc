"""A campaign of kills: a command that is killed anywhere and given again ends as if nothing had happened, bit for bit.

Kills come just before something is done to a file (opened for writing, made durable, renamed, cut, deleted), at places
drawn at random with a fixed seed; ``pytest tests/e2e/test_kills.py --kills 200`` has more of them than ``make test``.
"""

import multiprocessing
import os
import random
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import BURNIN, ONLINE, SET, outcome

pytestmark = pytest.mark.slow

COMMANDS = {
    "burnin": (*BURNIN, SET, "train.patience=1", SET, "train.snapshots=1"),
    "online": (
        *(*ONLINE, "--med", "OURS", "--trigger", "coast,adversarial", "--save-batches", SET, "run.save_every=2"),
        *(SET, "defense.threshold=0", SET, "evaluate.images=2"),
    ),
}
EVENTS = {"os.rename", "os.remove", "os.mkdir", "os.truncate"}
context = multiprocessing.get_context("forkserver")  # imports torch once, and forks before anything is computed
context.set_forkserver_preload(["accupoison.runs.online", "accupoison.cli.commands", "sklearn.metrics", __name__])


class Killer:
    """Counts what is done to files, and kills the process just before the event that ``at`` names."""

    def __init__(self, at: int) -> None:
        self.at, self.count, self.sync = at, 0, os.fsync

    def event(self) -> None:
        self.count += 1
        if self.count == self.at:
            os.kill(os.getpid(), signal.SIGKILL)

    def hear(self, name: str, arguments: tuple[object, ...]) -> None:
        writes = name == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if writes or name in EVENTS:
            self.event()

    def fsync(self, fd: Any) -> None:  # noqa: ANN401
        self.event()
        self.sync(fd)


def work(words: tuple[str, ...], place: str, at: int) -> None:
    """Carry out a command in a process of its own; leave the number of events in ``events``."""
    from accupoison.cli import cli

    os.chdir(place)
    killer = Killer(at)
    os.fsync = killer.fsync
    sys.addaudithook(killer.hear)
    cli.main([*words], standalone_mode=False)
    Path("events").write_text(str(killer.count))


def carried_out(words: tuple[str, ...], place: Path, at: int = -1) -> bool:
    """Return whether the command came to its end; else it was killed."""
    process = context.Process(target=work, args=(words, str(place), at))
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode == 0


@pytest.mark.parametrize("name", COMMANDS)
def test_killed_anywhere(name: str, work: Path, request: pytest.FixtureRequest) -> None:
    command = (*COMMANDS[name], "--resume-or-start", "--out", "run")
    assert carried_out(command, work)
    whole, events = outcome(work / "run"), int((work / "events").read_text())
    draw, wanted, kills = random.Random(name), int(request.config.getoption("--kills")) // len(COMMANDS), 0
    while kills < wanted:
        shutil.rmtree(work / "run")
        killed_at = []
        while not carried_out(command, work, draw.randint(1, events) if draw.random() < 0.7 else -1):
            killed_at.append(kills)
            kills += 1
        assert outcome(work / "run") == whole, (name, killed_at)
        assert not list((work / "run").rglob("*.tmp"))
