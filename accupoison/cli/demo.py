"""The whole story on digits in a minute: ``demo``."""

import os
import sys
from typing import Any

import click

from accupoison.cli.group import CHECKPOINTS, LOGS, cli
from accupoison.cli.options import JOBS
from accupoison.cli.output import progress_bar

STREAMS = 3
RUNS = (
    ("none", "ST"),
    ("accumulative", "FREEZE"),
    ("accumulative", "ST"),
    ("accumulative", "AT"),
    ("accumulative", "OURS"),
)
"""(attack, defence); the first is the clean control."""


@cli.command()
@click.option("--jobs", "-j", type=JOBS, help="Processes at once.  [default: one a core, at most 4]")
@click.option("--quiet", "-q", is_flag=True, help="No progress bar.")
def demo(jobs: int | None, quiet: bool) -> None:
    """Show the main job on scikit-learn's digits: burn-in, poisoned streams, defences, curves; needs no download."""
    from accupoison.report import brief, collect, curves
    from accupoison.rundir import next_free
    from accupoison.sweep import read_grid, run_grid

    logs = next_free(LOGS / "demo")
    plan = read_grid(_grid(), CHECKPOINTS, logs)
    with progress_bar("demo", hidden=quiet) as show:
        run_grid(plan, CHECKPOINTS, jobs=jobs or min(4, os.cpu_count() or 1), report=show)
    runs = collect([logs])
    picture = logs / "curves.png"
    curves(runs, picture, trigger="adversarial", title="accumulative poisoning of digits, l_inf 0.2")
    click.echo(f"{brief(runs, 'adversarial')}\n\npicture: {picture}")
    click.echo(f"curves:  {sys.executable} -m tensorboard.main --logdir {logs}")


def _grid() -> dict[str, Any]:
    return {
        "burnin": {"preset": "demo", "seeds": [0]},
        "online": {"preset": "demo"},
        "runs": [
            {
                "name": attack,
                "seeds": list(range(STREAMS)),
                "attack": {"name": attack},
                "trigger": {"deliver": ["clean" if attack == "none" else "adversarial"]},
                "defense": {"name": defense},
                "each": {"defense.name": [defense]},
            }
            for attack, defense in RUNS
        ],
    }
