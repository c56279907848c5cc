"""Signals that ask a process to stop: Ctrl-C, and SIGTERM and SIGHUP, which a cluster or a closed terminal sends."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


SAME = 1.0
"""Seconds within which a repeated signal is the same request."""


class Interruption(KeyboardInterrupt):
    """A signal has asked this process to stop.

    Args:
        number: The signal.
    """

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__(number)
        self.number = number


def exit_code(error: KeyboardInterrupt) -> int:
    """Return the exit code of a process that a signal has ended: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP."""
    return 128 + (error.number if isinstance(error, Interruption) else signal.SIGINT)


def raise_on_signals() -> None:
    """Let the signals raise :class:`Interruption` from now on; those that are ignored (``nohup``) stay so."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise Interruption(number)

    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, interrupt)


class StopRequest:
    """Whether a signal has asked to stop; call it to know."""

    def __init__(self) -> None:
        self.number: int | None = None
        self.since = 0.0

    def __call__(self) -> bool:
        """Return whether one has."""
        return self.number is not None

    def check(self) -> None:
        """Raise :class:`Interruption` if one has."""
        if self.number is not None:
            raise Interruption(self.number)


@contextmanager
def interruptible(note: bytes = b"", *, patient: bool = False) -> Iterator[StopRequest]:
    """Give a request that the first signal makes, so that the work at hand can be saved; a second signal raises.

    SIGTERM and SIGHUP within a second of the first one are the same request: ``timeout`` and clusters send them to a
    process and to its group.

    Args:
        note: Written to standard error at the first signal.
        patient: A second signal does nothing either: for workers, whose parent decides.

    Raises:
        Interruption: At the second signal.
    """
    request = StopRequest()

    def ask(number: int, frame: FrameType | None) -> None:
        if request():
            if patient or (number != signal.SIGINT and time.monotonic() < request.since + SAME):
                return
            raise Interruption(number)
        request.number, request.since = number, time.monotonic()
        with suppress(OSError):  # the terminal may be what has gone
            os.write(2, note)  # the signal may have come in the middle of a print, which cannot be entered twice

    heard = [n for n in SIGNALS if n == signal.SIGINT or signal.getsignal(n) is not signal.SIG_IGN]
    previous = {number: signal.signal(number, ask) for number in heard}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
