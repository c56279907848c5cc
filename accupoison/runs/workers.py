"""Tasks side by side in processes of their own."""

import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import FrameType
from typing import Any

import torch

from accupoison.device import room_for_processes
from accupoison.errors import InputError, first_line
from accupoison.runs.interrupt import SIGNALS, Interruption

Task = tuple[Callable[..., str], tuple[Any, ...]]
"""A function and its arguments; returns what the progress is told."""
KILLED = (
    "a worker process was killed, most likely for lack of memory; the same command goes on with what is left, and "
    "needs less memory with fewer jobs"
)


@dataclass(frozen=True)
class Outcome:
    """What became of a task.

    Attributes:
        task: Its place in the list.
        name: What it returned; "" where it failed.
        error: Why it failed; None where it did not.
        system: It failed for the machine it was on, not for what it was given, so that another attempt may succeed.
        room: How many processes like its own the GPU has room for; 1 where it has not used any.
    """

    task: int
    name: str = ""
    error: Exception | None = None
    system: bool = False
    room: int = 1


def attempt(number: int, task: Task) -> Outcome:
    """Carry out a task in this process and return what became of it.

    Args:
        number: Its place in the list.
        task: What to do.
    """
    function, arguments = task
    try:
        return Outcome(number, function(*arguments))
    except Exception as error:  # components of others can raise anything; whoever asked decides what to do with it
        return Outcome(number, error=error, system=_of_the_system(error))


def _of_the_system(error: Exception) -> bool:
    """Return whether an error is for lack of memory, of a disk, or of a GPU that has failed."""
    words = ("allocate memory", "out of memory", "CUDA error")
    return isinstance(error, OSError | MemoryError) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    )


def carry_out(tasks: Sequence[Task], jobs: int | None, threads: int | None = None) -> Iterator[Outcome]:
    """Carry out tasks and yield what becomes of each, in the order of completion.

    When this process is interrupted, the others are asked to stop by SIGTERM, so that they can save. When a worker is
    killed, the tasks that were under way are given once more, each alone: it cannot be told which of them was too much.

    Args:
        tasks: What to do; a single one, or all with one job, run in this process.
        jobs: Processes at once; None is one, and on a GPU, after a first task, as many as its memory has room for.
        threads: Of each; None is all cores for tasks of this process, and divides them among several.
    """
    waiting = deque(enumerate(tasks))
    if jobs is None and len(tasks) > 1 and torch.cuda.is_available():
        # in a process, too: what this one held would be missing afterwards
        for outcome in _in_processes(deque([waiting.popleft()]), 1, threads):
            jobs = outcome.room
            yield outcome
    if len(tasks) == 1 or jobs in (None, 1):  # a single one gets all cores, and needs no process to be started
        if threads is not None:
            torch.set_num_threads(threads)
        yield from (attempt(*entry) for entry in waiting)
    else:
        yield from _in_processes(waiting, jobs, threads)


def _in_processes(waiting: deque[tuple[int, Task]], jobs: int, threads: int | None) -> Iterator[Outcome]:
    """Carry out tasks in processes; those that a killed one has taken along are given once more, each alone."""
    threads = threads or max(1, (os.cpu_count() or 1) // jobs)
    while waiting:
        lost: list[tuple[int, Task]] = []
        yield from _side_by_side(waiting, jobs, threads, lost)
        for entry in lost:
            again: list[tuple[int, Task]] = []
            yield from _side_by_side(deque([entry]), 1, threads, again)
            yield from (Outcome(number, error=InputError(KILLED)) for number, _ in again)


def _side_by_side(
    waiting: deque[tuple[int, Task]], jobs: int, threads: int, lost: list[tuple[int, Task]]
) -> Iterator[Outcome]:
    """Carry out tasks in processes until none is waiting or one was killed; ``lost`` gets those under way then."""
    going: dict[Future[Outcome], tuple[int, Task]] = {}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, initializer=_prepare, initargs=(threads,)) as pool:
        try:
            while going or (waiting and not lost):
                while waiting and not lost and len(going) < jobs:
                    with _signals_blocked():  # in new processes, too: a Ctrl-C in the terminal is for this one alone
                        going[pool.submit(_do, *waiting[0])] = waiting[0]
                    waiting.popleft()
                for future in wait(going, return_when=FIRST_COMPLETED).done:
                    entry = going.pop(future)
                    try:
                        yield future.result()
                    except BrokenProcessPool:
                        lost.append(entry)
        except BrokenProcessPool:  # of submit
            lost += going.values()
        except BaseException:
            _stop(pool)
            raise


def _stop(pool: ProcessPoolExecutor) -> None:
    """Ask all workers to stop and wait for them; a second interruption kills them."""
    children = multiprocessing.active_children()
    for child in children:
        child.terminate()
    try:
        pool.shutdown(cancel_futures=True)
    except KeyboardInterrupt:
        for child in children:
            child.kill()
        raise


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Hold back signals; a process that is started meanwhile gets none but SIGTERM (see :func:`_prepare`)."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


class _Worker:
    """What a worker process knows of being asked to stop."""

    asked = busy = False

    def hear(self, number: int, frame: FrameType | None) -> None:
        """Remember that SIGTERM came; interrupt the task at hand."""
        self.asked = True
        if self.busy:
            raise Interruption(number)


_WORKER = _Worker()


def _do(number: int, task: Task) -> Outcome:
    """Carry out one task in a worker, or none any more: some are handed out before it hears that it should stop."""
    _WORKER.busy = True
    try:
        if _WORKER.asked:
            raise Interruption(signal.SIGTERM)
        return sendable(replace(attempt(number, task), room=room_for_processes()))
    except KeyboardInterrupt:
        _WORKER.asked = True
        raise
    finally:
        _WORKER.busy = False


def sendable(outcome: Outcome) -> Outcome:
    """Return an outcome that another process can read, with the traceback of an error that is not of the input."""
    error = outcome.error
    if error is None or isinstance(error, InputError):
        return outcome
    try:
        error = pickle.loads(pickle.dumps(error))
    except Exception:  # an exception with arguments of its own may not come back
        error = RuntimeError(first_line(error, named=True))
    error.add_note("".join(traceback.format_exception(outcome.error)))
    return replace(outcome, error=error)


def _prepare(threads: int) -> None:
    signal.signal(signal.SIGTERM, _WORKER.hear)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    torch.set_num_threads(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Leave when the parent is killed: what is saved is safe, and a process that nobody waits for would never end."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
