"""Slurm: a job array, by way of submitit."""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import accupoison
from accupoison.errors import InputError, first_line
from accupoison.runs.engines.orders import Order
from accupoison.runs.engines.ray import package
from accupoison.runs.workers import Outcome, Task

DAY = 24 * 60
"""Minutes that a job may take, unless SBATCH_TIMELIMIT says otherwise; a run that takes longer is submitted again."""
REQUEUED = 1000
"""How often a job may be submitted again."""
LARGEST = 1000
"""Jobs of an array; Slurm takes 1001 unless its MaxArraySize says otherwise."""


@dataclass(frozen=True)
class Slurm:
    """Carries out each task as a job of an array.

    Attributes:
        folder: Where submitit keeps its files and the jobs' output, on a disk that all machines share.
        jobs: Jobs at once; None is as many as there is room for.
        cpus: Cores of each.
        gpus: GPUs of each.
        cluster: Of submitit: "slurm", or "local" or "debug" where there is none.
        polled: Seconds between two looks at the jobs.
    """

    folder: Path
    jobs: int | None = None
    cpus: int = 1
    gpus: int = 0
    cluster: str = "slurm"
    polled: float = 10.0

    def run(self, tasks: Sequence[Task]) -> Iterator[Outcome]:
        """Carry out each task; see :meth:`accupoison.runs.engines.base.Engine.run`.

        Args:
            tasks: What to do.

        Raises:
            InputError: There is no submitit, or no Slurm here.
        """
        submitit = package("submitit", "submitit")
        executor = self._executor(submitit)
        orders = [Order.of(i, task, threads=self.cpus, gpu=self.gpus > 0) for i, task in enumerate(tasks)]
        jobs: dict[Any, int] = {}
        try:
            for start in range(0, len(orders), LARGEST):
                some = orders[start : start + LARGEST]
                with executor.batch():
                    submitted = [(executor.submit(order), order.number) for order in some]
                jobs.update(submitted)
            for job in submitit.helpers.as_completed(list(jobs), poll_frequency=self.polled):
                yield _outcome(submitit, job, jobs.pop(job))
        finally:
            for job in jobs:
                job.cancel(check=False)

    def _executor(self, submitit: Any) -> Any:  # noqa: ANN401
        try:
            limit = {f"{self.cluster}_max_num_timeout": REQUEUED} if self.cluster != "debug" else {}
            executor = submitit.AutoExecutor(self.folder, cluster=self.cluster, **limit)
        except RuntimeError as error:
            raise InputError(
                f"there is no Slurm here ({first_line(error)}); start from a login node, or choose another engine"
            ) from error
        # jobs are started by python -m submitit, which does not look where this process was started from
        root = shlex.quote(str(Path(accupoison.__file__).parent.parent))
        setup = {f"{self.cluster}_setup": [f"export PYTHONPATH={root}:$PYTHONPATH"]} if self.cluster != "debug" else {}
        at_once = {"slurm_array_parallelism": self.jobs} if self.jobs else {}
        gpus = {"gpus_per_node": self.gpus} if self.gpus else {}
        executor.update_parameters(
            name="accupoison", timeout_min=DAY, cpus_per_task=self.cpus, **gpus, **setup, **at_once
        )
        return executor


def _outcome(submitit: Any, job: Any, number: int) -> Outcome:  # noqa: ANN401
    try:
        outcome: Outcome = job.result()
    except submitit.core.utils.FailedJobError as error:  # the order itself could not be read
        last = str(error).strip().splitlines()[-1]
        what = f"job {job.job_id} cannot read its task ({last}); install the same commit on all machines"
        return Outcome(number, error=InputError(what))
    except submitit.core.utils.UncompletedJobError:
        what = f"job {job.job_id} was lost (see {job.paths.stderr}); the same command goes on with what is left"
        return Outcome(number, error=InputError(what), system=True)
    return outcome
