"""What an engine is.

A task makes or goes on with something in a directory that everybody shares: a run, the signals of a shadow model. An
engine carries tasks out and says what became of each; what they have found is in their directories, and no result goes
through the engine. So a task that was cut off anywhere is simply given again.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

from accupoison.runs.workers import Outcome, Task


class Engine(Protocol):
    """Carries out tasks."""

    def run(self, tasks: Sequence[Task]) -> Iterator[Outcome]:
        """Carry out each task and yield what becomes of it, in the order of completion.

        When the process is interrupted, or the iterator is closed, the tasks under way are asked to stop.

        Args:
            tasks: What to do.

        Raises:
            InputError: The engine cannot be used here.
        """


def outcomes(engine: Engine, tasks: Sequence[Task]) -> Iterator[Outcome]:
    """Yield what becomes of each task; one that fails for the machine it was on is given once more.

    Args:
        engine: What carries them out.
        tasks: What to do.

    Raises:
        InputError: The engine cannot be used here.
    """
    if not tasks:
        return
    again = []
    for outcome in engine.run(tasks):
        if outcome.system:
            again.append(outcome.task)
        else:
            yield outcome
    if again:
        for outcome in engine.run([tasks[number] for number in again]):
            yield Outcome(again[outcome.task], outcome.name, outcome.error, outcome.system)


def results(engine: Engine, tasks: Sequence[Task]) -> Iterator[str]:
    """Yield what each task returns, in the order of completion; the first that fails ends the others.

    Args:
        engine: What carries them out.
        tasks: What to do.

    Raises:
        InputError: A task cannot be done, its worker was killed twice, or the engine cannot be used here.
    """
    for outcome in outcomes(engine, tasks):
        if outcome.error is not None:
            raise outcome.error
        yield outcome.name
