"""A task on its way to another machine."""

import hashlib
import os
import pickle
import platform
import sys
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

import accupoison
from accupoison.device import DEVICE
from accupoison.errors import InputError
from accupoison.records.lock import TakenError
from accupoison.runs.workers import Outcome, Task, attempt, sendable

OURS = "ACCUPOISON_"
"""What the environment variables begin with that a worker gets from whoever sends the task."""
POLLED = 1.0
"""Seconds between two looks at a directory whose former writer may be dead."""


@cache
def code() -> tuple[str, str]:
    """Return the version, and a digest of the package's files, which tells one commit from another without git."""
    package = Path(accupoison.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(path for path in package.rglob("*") if path.suffix in (".py", ".toml")):
        digest.update(f"{path.relative_to(package).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return accupoison.__version__, digest.hexdigest()[:12]


@dataclass(frozen=True)
class Order:
    """A task as it is sent: what to do, and what the worker must have in common with the sender.

    Attributes:
        number: The task's place in the list.
        content: The task, pickled, to be read only where the code is the same.
        code: Version and digest of the sender's package; see :func:`code`.
        place: The sender's working directory, which paths are relative to.
        environment: Variables that the worker must have, ``ACCUPOISON_DEVICE`` among them: a worker without a GPU of
            its own may see those of its machine.
        threads: Of torch; Ray and Slurm set environment variables to other numbers.
    """

    number: int
    content: bytes
    code: tuple[str, str]
    place: str
    environment: dict[str, str]
    threads: int

    @classmethod
    def of(cls, number: int, task: Task, *, threads: int, gpu: bool) -> "Order":
        """Return the order to carry out a task.

        Args:
            number: Its place in the list.
            task: What to do.
            threads: Of torch.
            gpu: The worker has a GPU, or a share of one; else "auto" is the CPU there.
        """
        environment = {name: value for name, value in os.environ.items() if name.startswith(OURS)}
        environment[DEVICE] = "cuda" if gpu else "cpu"
        return cls(number, pickle.dumps(task), code(), str(Path.cwd()), environment, threads)

    def __call__(self) -> Outcome:
        """Carry it out, in the main thread of a worker, and return what became of it."""
        try:
            self._enter()
            task = pickle.loads(self.content)
        except (InputError, ImportError, AttributeError) as error:  # a module of the sender's that is not here
            return sendable(Outcome(self.number, error=error))
        try:
            return sendable(attempt(self.number, (_patiently, task)))
        except KeyboardInterrupt:  # the machine is being taken away; what was done is saved
            return Outcome(self.number, error=InputError(f"the worker on {platform.node()} was stopped"), system=True)

    def checkpoint(self, *_: Any) -> Any:  # noqa: ANN401
        """Return what submitit submits when the job's time is over or it has to make way: the same, which goes on."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def _enter(self) -> None:
        """Make this process a worker like the sender.

        Raises:
            InputError: It runs other code, or does not see the sender's directory.
        """
        if code() != self.code:
            mine, theirs = (f"accupoison {version} ({digest})" for version, digest in (code(), self.code))
            raise InputError(
                f"the worker on {platform.node()} runs {mine} and the sender {theirs}; install the same commit there"
            )
        try:
            os.chdir(self.place)
        except OSError as error:
            raise InputError(
                f"the worker on {platform.node()} has no {self.place} ({error.strerror}); start from a directory that "
                "all machines share"
            ) from error
        if self.place not in sys.path:  # where --model may have a module
            sys.path.insert(0, self.place)
        os.environ.update(self.environment)
        torch.set_num_threads(self.threads)


def _patiently(*task: Any) -> str:  # noqa: ANN401
    """Carry out a task; where its directory is taken, wait until whoever has it is seen to be alive or dead.

    A lease that is renewed while this process looks is somebody's at work. One that is not becomes stale, or the lock
    is freed, and the task goes on where the dead one was.
    """
    function, arguments = task
    seen: float | None = None
    while True:
        try:
            return str(function(*arguments))
        except TakenError as error:
            if error.renewed is None or error.renewed != (seen or error.renewed):
                raise
            seen = error.renewed
            time.sleep(POLLED)
