"""Tasks side by side in processes of their own."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from typing import Any

import torch

from accupoison.memory import keep_freed_memory

Task = tuple[Callable[..., str], tuple[Any, ...]]
"""A function and its arguments; returns what the progress is told."""


def carry_out(tasks: list[Task], jobs: int) -> Iterator[str]:
    """Carry out tasks and yield what each returns, in the order of completion.

    Args:
        tasks: What to do; a single one, or all with one job, run in this process on all cores.
        jobs: Processes at once; the machine's cores are divided among them.
    """
    if jobs == 1 or len(tasks) == 1:  # a single one gets all cores, and needs no process to be started
        yield from (task(*arguments) for task, arguments in tasks)
        return
    threads = max(1, (os.cpu_count() or 1) // jobs)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, initializer=_prepare, initargs=(threads,)) as pool:
        futures: list[Future[str]] = [pool.submit(task, *arguments) for task, arguments in tasks]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _prepare(threads: int) -> None:
    torch.set_num_threads(threads)
    keep_freed_memory()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Leave when the parent is killed: what is saved is safe, and a process that nobody waits for would never end."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
