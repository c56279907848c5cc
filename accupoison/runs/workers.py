"""Tasks side by side in processes of their own."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch

from accupoison.errors import InputError
from accupoison.runs.interrupt import SIGNALS, Interruption

Task = tuple[Callable[..., str], tuple[Any, ...]]
"""A function and its arguments; returns what the progress is told."""


def carry_out(tasks: list[Task], jobs: int) -> Iterator[str]:
    """Carry out tasks and yield what each returns, in the order of completion.

    When one fails or this process is interrupted, the others are asked to stop by SIGTERM, so that they can save.

    Args:
        tasks: What to do; a single one, or all with one job, run in this process on all cores.
        jobs: Processes at once; the machine's cores are divided among them.

    Raises:
        InputError: A process was killed.
    """
    if jobs == 1 or len(tasks) == 1:  # a single one gets all cores, and needs no process to be started
        yield from (task(*arguments) for task, arguments in tasks)
        return
    threads = max(1, (os.cpu_count() or 1) // jobs)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, initializer=_prepare, initargs=(threads,)) as pool:
        try:
            with _signals_blocked():  # in the new processes, too: a Ctrl-C in the terminal is for this one alone
                futures = [pool.submit(_do, *task) for task in tasks]
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            raise InputError(
                "a worker process was killed, most likely for lack of memory; the same command goes on with what is "
                "left, and needs less memory with fewer jobs"
            ) from error
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


def _do(task: Callable[..., str], arguments: tuple[Any, ...]) -> str:
    """Carry out one task in a worker, or none any more: some are handed out before it hears that it should stop."""
    _WORKER.busy = True
    try:
        if _WORKER.asked:
            raise Interruption(signal.SIGTERM)
        return task(*arguments)
    except KeyboardInterrupt:
        _WORKER.asked = True
        raise
    finally:
        _WORKER.busy = False


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
