"""Does the demo tell the same story with other seeds, other instructions of the processor and other numbers of threads?

Run by ``python -m benchmarks.demo_story``. A signed step turns a rounding error into a whole level of a pixel and the
stream carries it on, so the same seed ends elsewhere on another processor; what the demo shows must not depend on that.
Each seed is a whole demo with a base model and streams of its own. What the folder has is not made again.
"""

import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import fmean

import click

from accupoison.cli.demo import TRIGGER, demo_grid
from accupoison.runs.engines import Local
from accupoison.study.collect import Run, collect
from accupoison.study.grid import read_grid
from accupoison.study.sweep import run_grid
from accupoison.study.tables import markdown

HERE = Path(__file__).parent
NARROW = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
ENVIRONMENTS = {
    "native-1": {"OMP_NUM_THREADS": "1"},
    "native-2": {"OMP_NUM_THREADS": "2"},
    "avx2-1": {**NARROW, "OMP_NUM_THREADS": "1"},
    "avx2-2": {**NARROW, "OMP_NUM_THREADS": "2"},
}
"""Variables of each environment: all instructions that the processor has, or AVX2 at most, on one thread or two."""
Figures = dict[str, float]
"""Accuracies in percent, means over the streams of a demo, by what they are."""
CLAIMS: dict[str, Callable[[Figures], bool]] = {
    "clean stream ends within 3 points of its start": lambda f: abs(f["clean after"] - f["clean start"]) <= 3,
    "ST ends 15 points or more below FREEZE": lambda f: f["ST after"] <= f["FREEZE after"] - 15,
    "ST loses 10 points or more at the trigger": lambda f: f["ST before"] - f["ST after"] >= 10,
    "ST ends below the clean stream with the trigger": lambda f: f["ST after"] < f["clean triggered"],
    "OURS ends within 3 points of FREEZE": lambda f: abs(f["DSC after"] - f["FREEZE after"]) <= 3,
    "AT ends 15 points or more below FREEZE": lambda f: f["AT after"] <= f["FREEZE after"] - 15,
}
"""What the demo is to show, in words and as a test of its figures."""
ASIDE: dict[str, Callable[[Figures], bool]] = {
    "a clean stream loses less at it": lambda f: (
        f["clean before"] - f["clean triggered"] < f["ST before"] - f["ST after"]
    ),
}
"""Counted beside: a stream that poison has brought down already has less to lose at the trigger."""


def figures(runs: Sequence[Run]) -> Figures:
    """Return the figures of one demo.

    Args:
        runs: Its runs.
    """
    parts: defaultdict[str, list[Run]] = defaultdict(list)
    for run in runs:
        parts["clean" if run.config.attack.name == "none" else run.config.defense.name].append(run)
    found: Figures = {}
    for name, same in parts.items():
        for mark in ("start", "before"):
            found[f"{name} {mark}"] = _percent([run.summary[mark]["acc"] for run in same])
        found[f"{name} after"] = _percent([run.after(run.followed(TRIGGER)) for run in same])
    found["clean triggered"] = _percent([run.after(TRIGGER) for run in parts["clean"]])
    return found


def _percent(values: Sequence[float | None]) -> float:
    return 100 * fmean(value for value in values if value is not None)


def demo(folder: Path, seed: int) -> Figures:
    """Carry out what is missing of a demo in ``folder``, in this process, and return its figures."""
    logs = folder / f"seed{seed}"
    plan = read_grid(demo_grid(seed), folder / "checkpoints", logs)
    for error in run_grid(plan, folder / "checkpoints", engine=Local(1), report=lambda *_: None).values():
        raise error
    return figures(collect([logs], click.echo))


def row(environment: str, found: Sequence[Figures]) -> list[str]:
    """Return a line of the table: in how many demos each of :data:`CLAIMS` holds, all of them, and :data:`ASIDE`."""
    held, beside = ([[test(one) for test in tests.values()] for one in found] for tests in (CLAIMS, ASIDE))
    counts, other = ([str(sum(column)) for column in zip(*rows, strict=True)] for rows in (held, beside))
    return [environment, *counts, f"{sum(map(all, held))} of {len(held)}", *other]


def demos(environment: str, seeds: int, folder: Path) -> Iterator[Figures]:
    """Yield the figures of demos that a process of its own carries out under the environment's variables.

    Raises:
        ClickException: It failed.
    """
    options = [f"--seeds={seeds}", f"--environment={environment}", f"--folder={folder}"]
    command = [sys.executable, "-m", "benchmarks.demo_story", "--here", *options]
    variables = {**os.environ, **ENVIRONMENTS[environment]}
    with subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for number, line in enumerate(process.stdout, 1):
            click.echo(f"{environment}, {number} of {seeds}: {line}", err=True, nl=False)
            yield json.loads(line)
    if process.returncode:
        raise click.ClickException(f"the demos of {environment} ended with {process.returncode}")


@click.command()
@click.option("--seeds", type=click.IntRange(1), default=20, show_default=True, help="Demos in each environment.")
@click.option("--environment", "environments", type=click.Choice(list(ENVIRONMENTS)), multiple=True, help="Only these.")
@click.option("--folder", type=click.Path(path_type=Path), default=Path("logs/demo_story"), show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=HERE / "demo_story.json", help="The JSON to write.")
@click.option("--here", is_flag=True, hidden=True, help="In this process, which has the variables already.")
def main(seeds: int, environments: tuple[str, ...], folder: Path, out: Path, here: bool) -> None:
    """Say in how many demos each claim holds, by environment."""
    if here:
        for seed in range(seeds):
            click.echo(json.dumps(demo(folder / environments[0], seed)))
        return
    found = {name: list(demos(name, seeds, folder)) for name in environments or ENVIRONMENTS}
    out.write_text(json.dumps(found, indent=2) + "\n")
    click.echo(markdown(["environment", *CLAIMS, "all", *ASIDE], [row(name, some) for name, some in found.items()]))


if __name__ == "__main__":
    main()
