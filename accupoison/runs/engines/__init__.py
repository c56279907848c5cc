"""Engines: what carries out a list of tasks, here or on a cluster."""

from pathlib import Path

from accupoison.config.renamed import Say, quiet
from accupoison.errors import InputError, check_choice
from accupoison.runs.engines.base import Engine, outcomes, results
from accupoison.runs.engines.local import Local
from accupoison.runs.engines.ray import Ray
from accupoison.runs.engines.slurm import Slurm

__all__ = ["ENGINES", "Engine", "Local", "Ray", "Slurm", "engine", "outcomes", "results"]

ENGINES = ("local", "ray", "slurm")


def engine(
    name: str = "local",
    *,
    jobs: int | None = None,
    cpus: int | None = None,
    gpus: float | None = None,
    address: str | None = None,
    folder: Path = Path("slurm"),
    say: Say = quiet,
) -> Engine:
    """Return an engine by its name.

    Args:
        name: Of ``ENGINES``.
        jobs: Tasks at once, at most; None is one on this machine's CPU, and elsewhere what there is room for.
        cpus: Cores of a task; None is one, and on this machine a share of them all.
        gpus: GPUs of a task, or a share of one; None is none.
        address: Of Ray's head.
        folder: For the files of Slurm's jobs.
        say: Told, in sentences, what to know of a cluster.

    Raises:
        InputError: There is no such engine, or it has no use for one of the others.
    """
    check_choice("engine", name, ENGINES)
    if address is not None and name != "ray":
        raise InputError(
            f"--address {address} is of a Ray cluster and the engine is {name}; give --engine ray, or drop it"
        )
    if gpus is not None and name == "local":
        raise InputError(
            f"--gpus-per-run {gpus:g} is for a cluster; choose the GPU of this machine by --device, or drop it"
        )
    if gpus is not None and not (gpus == int(gpus) or (name == "ray" and gpus < 1)):
        what = "a whole number, or a share below 1" if name == "ray" else "a whole number, as Slurm shares no GPUs"
        raise InputError(f"--gpus-per-run {gpus:g} cannot be had; give {what}")
    if name == "ray":
        return Ray(address, jobs, cpus or 1, gpus or 0.0, say)
    if name == "slurm":
        return Slurm(folder, jobs, cpus or 1, int(gpus or 0))
    return Local(jobs, cpus)
