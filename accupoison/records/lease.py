"""A lease on a directory: a file that says who writes there, renewed while it does.

A lock of the operating system keeps the processes of one machine apart; whether it keeps apart those of two machines on
a shared disk depends on the disk. A lease needs only what every shared disk has: files that are made once, replaced
whole and show when they were changed. Its age is the difference of two such times of the same disk, so the clocks of
the machines may differ.
"""

import json
import os
import platform
import secrets
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from accupoison.records.files import TEMPORARY

LEASE = "lease.json"
RENEWED = 20.0
"""Seconds between two renewals."""
STALE = 120.0
"""Seconds without a renewal after which whoever held a lease counts as dead."""
SETTLED = 1.0
"""Seconds after which one of several that took a stale lease over at once finds out whether it has it."""


class HeldError(Exception):
    """A process of another machine writes there.

    Args:
        holder: What the lease says.
        age: Seconds since it was renewed.
        renewed: When that was, by the clock of the disk.
    """

    def __init__(self, holder: dict[str, Any], age: float, renewed: float) -> None:
        super().__init__(holder, age, renewed)
        self.holder, self.age, self.renewed = holder, age, renewed


class LostError(Exception):
    """Another process has taken the lease over, or deleted it."""


def machine() -> str:
    """Return what tells a running machine from others, and from itself before it was started anew."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:  # not Linux
        return platform.node()


def renewed(folder: Path) -> float | None:
    """Return when the lease on a directory was last renewed, by the clock of the disk; None where there is none."""
    try:
        return (folder / LEASE).stat().st_mtime
    except OSError:
        return None


class Lease:
    """A lease that this process holds on a directory, renewed by a thread until :meth:`release`.

    Args:
        folder: The directory, whose lock of the operating system this process has.

    Raises:
        HeldError: A process of another machine holds it.
        OSError: The directory cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LEASE
        self._token = secrets.token_hex(8)
        self._ended = threading.Event()
        self._take()
        self._confirmed = time.time()
        threading.Thread(target=self._renew, name="lease", daemon=True).start()

    def _take(self) -> None:
        facts = {"host": platform.node(), "pid": os.getpid(), "machine": machine(), "token": self._token}
        text = json.dumps({**facts, "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}).encode()
        try:
            with self.path.open("xb") as file:
                file.write(text)
            return
        except FileExistsError:
            pass
        mine = self.path.with_name(f".{LEASE}.{os.getpid()}.{self._token}{TEMPORARY}")
        mine.write_bytes(text)
        try:
            here = self._check_free(mine.stat().st_mtime)
            mine.replace(self.path)
        finally:
            mine.unlink(missing_ok=True)
        if not here:  # others may have seen it stale, too, and the last one to replace it has it
            time.sleep(SETTLED)
            if not self._mine():
                raise HeldError(_read(self.path), 0.0, renewed(self.path.parent) or 0.0)

    def _check_free(self, now: float) -> bool:
        """Return whether the lease is of this machine, whose lock says that the holder is dead."""
        holder, last = _read(self.path), renewed(self.path.parent)
        if last is None or holder.get("machine") == machine():
            return True
        if now - last < STALE:
            raise HeldError(holder, max(0.0, now - last), last)
        return False

    def _mine(self) -> bool:
        return _read(self.path).get("token") == self._token

    def _renew(self) -> None:
        while not self._ended.wait(RENEWED):
            with suppress(OSError):  # a disk that does not answer for a moment
                if not self._mine():
                    return
                os.utime(self.path)
                self._confirmed = time.time()

    def check(self, *, now: bool = True) -> None:
        """Raise LostError if another process has taken the lease over, as it may after ``STALE`` seconds of silence.

        Args:
            now: Look at the disk; else only where the thread has not renewed the lease for a while.
        """
        if (now or time.time() - self._confirmed > 2 * RENEWED) and not self._mine():
            raise LostError

    def release(self) -> None:
        """Let others have the directory."""
        self._ended.set()
        with suppress(OSError):
            if self._mine():
                self.path.unlink()


def _read(path: Path) -> dict[str, Any]:
    """Return what a lease says; nothing where there is none, or a killed process has left half of one."""
    try:
        content = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
