"""Processes of this machine."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from accupoison.runs.workers import Outcome, Task, carry_out


@dataclass(frozen=True)
class Local:
    """Carries out tasks on this machine.

    Attributes:
        jobs: Processes at once; None is one, and on a GPU as many as its memory has room for, once a task has shown
            what it takes.
        cpus: Threads of each; None divides the cores among them.
    """

    jobs: int | None = None
    cpus: int | None = None

    def run(self, tasks: Sequence[Task]) -> Iterator[Outcome]:
        """Carry out each task; see :meth:`accupoison.runs.engines.base.Engine.run`.

        Args:
            tasks: What to do.
        """
        return carry_out(tasks, self.jobs, self.cpus)
