"""A directory that one process writes at a time."""

from pathlib import Path
from types import TracebackType
from typing import Self

import filelock

from accupoison.errors import InputError
from accupoison.records.files import cannot_write
from accupoison.records.lease import STALE, HeldError, Lease, LostError, renewed

LOCK = "lock"


class TakenError(InputError):
    """Another run has the directory.

    Attributes:
        renewed: When its lease was last renewed, by the clock of the disk; None where it has none.
    """

    renewed: float | None = None


class DirectoryLock:
    """A directory that no other process may write: by the system's lock on this machine, by a lease on others.

    Args:
        path: The directory.
        lock: The system's lock, held.
        lease: The lease, held.
    """

    def __init__(self, path: Path, lock: filelock.BaseFileLock, lease: Lease) -> None:
        self.path, self._lock, self._lease = path, lock, lease

    def check(self, *, now: bool = True) -> None:
        """Raise TakenError if another machine has taken the directory over; see :meth:`Lease.check`."""
        try:
            self._lease.check(now=now)
        except LostError:
            raise TakenError(
                f"{self.path} was taken over by another machine while this process stood still; leave it to that one"
            ) from None

    def release(self) -> None:
        """Let others use the directory."""
        self._lease.release()
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.release()


def lock_directory(path: Path) -> DirectoryLock:
    """Return a lock on a directory, which is made if it is not there.

    Raises:
        TakenError: Another process holds it.
        InputError: The directory cannot be written.
    """
    lock = filelock.FileLock(path / LOCK)
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
        return DirectoryLock(path, lock, Lease(path))
    except filelock.Timeout:
        taken = TakenError(f"{path} is in use by another run; wait for it to end or choose another name")
        taken.renewed = renewed(path)
        raise taken from None
    except HeldError as error:
        taken = _held(path, error)
    except OSError as error:
        lock.release()
        raise cannot_write(path, error) from error
    lock.release()
    raise taken


def _held(path: Path, error: HeldError) -> TakenError:
    """Return the sentence for a directory that a process of another machine holds."""
    who = f"{error.holder.get('host', 'another machine')} (process {error.holder.get('pid', 'unknown')})"
    taken = TakenError(
        f"{path} is in use by another run on {who}, which renewed its lease {error.age:.0f} s ago; wait for it to end, "
        f"or, if it was killed, until that is {STALE:.0f} s ago, or choose another name"
    )
    taken.renewed = error.renewed
    return taken
