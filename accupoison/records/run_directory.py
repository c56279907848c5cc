"""The directory of one run: its configuration, its state, and the lock that keeps others out."""

import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch

import accupoison
from accupoison.device import arithmetic
from accupoison.errors import InputError
from accupoison.records import checkpoint
from accupoison.records.files import TEMPORARY, as_json, dump_row, flatten, read_json, write_json, writing
from accupoison.records.lease import LEASE
from accupoison.records.lock import LOCK, DirectoryLock, TakenError, lock_directory
from accupoison.records.tags import SUMMARY

CONFIG, ENV, STATE = "config.json", "env.json", "state.pt"
BATCHES, SIGNALS, OLD_SIGNALS, STAGES = "batches", "signals", "worlds", "stages"
"""Directories within a run: what was sent, and what the models of an audit said, by its old name, too."""
STATE_KIND = "run-state"
SHOWN = 3
"""How many differing settings the message about another configuration names."""


class RunDirectory:
    """A run's directory, locked against other processes until :meth:`close` or the end of this process.

    Use :meth:`create` or :meth:`resume`, then as a context manager.

    Attributes:
        path: The directory.
        config: The resolved configuration the run was created with.
    """

    def __init__(self, path: Path, config: dict[str, Any], lock: DirectoryLock) -> None:
        self.path = path
        self.config = config
        self._lock = lock

    @classmethod
    def create(cls, path: Path, config: Mapping[str, Any], env: Mapping[str, Any]) -> Self:
        """Make the directory of a new run.

        Args:
            path: The directory; it may exist, but empty.
            config: The resolved configuration, by section.
            env: What :func:`environment` returned.

        Raises:
            InputError: The directory holds a run or other files, is in use, or cannot be written.
        """
        if not cls.holds_run(path):
            cls.check_free(path)
        lock = lock_directory(path)
        run = cls(path, as_json(config), lock)
        try:
            _clear(path)  # of a process that was killed while it made the directory
            cls.check_free(path)  # another may have made it in the meantime
            write_json(path / ENV, env)
            write_json(path / CONFIG, config)  # last: its presence is what makes the directory a run
        except BaseException:
            run.close()
            raise
        return run

    @classmethod
    def check_free(cls, path: Path) -> None:
        """Raise TakenError if ``path`` holds a run, InputError if it holds other files: nothing new can go there."""
        if cls.holds_run(path):
            raise TakenError(f"{path} already holds a run; resume it (--resume) or choose another name (--out)")
        if path.is_dir() and (other := _foreign(path)):
            raise InputError(f"{path} holds other files, such as {other}; choose another name for the run")

    @classmethod
    def resume_or_create(
        cls,
        path: Path,
        config: Mapping[str, Any],
        env: Mapping[str, Any],
        translate: Callable[[dict[str, Any]], Any] = dict,
    ) -> Self:
        """Open the directory of a run, which is made unless it is there; see :meth:`resume` and :meth:`create`.

        Args:
            path: The directory.
            config: The configuration, which must equal a stored one.
            env: What a new one says of the machine; see :func:`environment`.
            translate: Returns a stored configuration under the names that settings have now.
        """
        return cls.resume(path, config, translate) if cls.holds_run(path) else cls.create(path, config, env)

    @classmethod
    def resume(
        cls, path: Path, config: Mapping[str, Any] | None = None, translate: Callable[[dict[str, Any]], Any] = dict
    ) -> Self:
        """Open the directory of a run that was started before.

        Args:
            path: The directory.
            config: The configuration asked for, which must equal the stored one; None takes the stored one.
            translate: Returns the stored one under the names that settings have now.

        Raises:
            InputError: There is no run, it is in use, or it has another configuration.
        """
        if not cls.holds_run(path):
            raise InputError(f"there is no run in {path}; check the path, or start one there")
        lock = lock_directory(path)
        try:
            stored = translate(read_json(path / CONFIG))
            if config is not None and (changes := differences(stored, config)):
                more = f" and {len(changes) - SHOWN} more" if len(changes) > SHOWN else ""
                raise InputError(
                    f"{path} was started with another configuration ({'; '.join(changes[:SHOWN])}{more}); "
                    "resume it with the stored one or choose another name"
                )
            _clear(path)
        except BaseException:
            lock.release()
            raise
        return cls(path, stored, lock)

    @staticmethod
    def holds_run(path: Path) -> bool:
        """Return whether a run was started in ``path``."""
        return (path / CONFIG).is_file()

    def save_state(self, payload: Mapping[str, Any]) -> None:
        """Replace the run's state; see :func:`accupoison.records.checkpoint.save`."""
        self.check(now=True)
        checkpoint.save(self.path / STATE, STATE_KIND, payload)

    def check(self, *, now: bool = False) -> None:
        """Raise TakenError if another machine has taken the directory over; see :meth:`DirectoryLock.check`."""
        self._lock.check(now=now)

    def load_state(self) -> dict[str, Any] | None:
        """Return the run's last state, or None before the first.

        Raises:
            InputError: The state is damaged, or missing though the run has ended.
        """
        state = self.read_state(self.path)
        if state is None and (self.path / SUMMARY).exists():
            raise InputError(f"{self.path} has lost its {STATE}; restore a copy or start the run anew")
        return state

    @staticmethod
    def read_state(path: Path) -> dict[str, Any] | None:
        """Return the last state of the run in ``path`` without locking it, as on a disk that cannot be written.

        Raises:
            InputError: The state is damaged.
        """
        state = path / STATE
        return checkpoint.load(state, STATE_KIND) if state.exists() else None

    def close(self) -> None:
        """Let others use the directory."""
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _clear(run: Path) -> None:
    """Delete the half-written files that a killed process has left in a run."""
    for folder in (run, *(run / name for name in (BATCHES, SIGNALS, OLD_SIGNALS, STAGES))):
        for leftover in folder.glob(f".*{TEMPORARY}"):
            if leftover.is_file():
                leftover.unlink(missing_ok=True)


def differences(stored: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """Return "section.key: stored X, given Y" for every setting in which two configurations differ."""
    old, new = (dict(flatten(as_json(config))) for config in (stored, given))
    texts = [{key: dump_row(value) for key, value in leaves.items()} for leaves in (old, new)]  # nan equals nan as text
    return [
        f"{key}: stored {texts[0].get(key, 'nothing')}, given {texts[1].get(key, 'nothing')}"
        for key in {**old, **new}
        if texts[0].get(key) != texts[1].get(key)
    ]


def check_contents(run: Path, name: str, stored: str | None, present: str) -> None:
    """Raise InputError if the data set ``name`` has other contents than ``run`` was started on.

    Args:
        run: The run's directory.
        name: Of the data set.
        stored: Its fingerprint then; None in runs of older versions.
        present: Its fingerprint now.
    """
    if stored is not None and stored != present:
        raise InputError(
            f"{run} was started on other contents of {name}; bring those back to go on, or choose another directory"
        )


def environment(device: str = "cpu", kernels: str | None = None) -> dict[str, Any]:
    """Return what a result depends on besides its configuration: versions, machine, commit and time.

    Args:
        device: The torch device of the run ("cpu", "cuda:0", "mps").
        kernels: Whose layers compute there, "own" or "torch"; None where nothing is computed.
    """
    return {
        **({} if kernels is None else {"kernels": kernels, "precision": arithmetic(torch.device(device))}),
        "accupoison": accupoison.__version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "device": device,
        "device_name": _device_name(torch.device(device)),
        "commit": _commit(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    if sys.platform == "linux":  # platform.processor() is empty or just "x86_64" there
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _commit() -> str | None:
    """Return the commit of the source tree, with "+" after it when files differ, or None for an installed package."""
    root = Path(accupoison.__file__).resolve().parent.parent
    try:
        if Path(_git(root, "rev-parse", "--show-toplevel")).resolve() != root:
            return None  # installed into someone else's repository
        return _git(root, "rev-parse", "HEAD") + ("+" if _git(root, "status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()


def _foreign(path: Path) -> str | None:
    """Return the name of something in ``path`` that a run that died while it was created would not have left."""
    with writing(path):
        names = sorted(entry.name for entry in path.iterdir())
    return next((n for n in names if n not in (LOCK, LEASE, ENV, CONFIG) and not n.endswith(TEMPORARY)), None)


def next_free(path: Path) -> Path:
    """Return ``path``, or with -2, -3 ... appended the first that does not exist."""
    number = 2
    free = path
    while free.exists() or free.is_symlink():
        free = path.with_name(f"{path.name}-{number}")
        number += 1
    return free
