"""The whole story on digits in a minute: ``demo``."""

import os
import shlex
import sys
import time
from collections.abc import Callable
from typing import Any

import click

from accupoison.cli.group import CHECKPOINTS, LOGS, cli
from accupoison.cli.options import JOBS
from accupoison.cli.output import gather, note, progress_bar

STREAMS = 3
PATIENCE = 600
"""Seconds to wait for another demo."""
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
    from accupoison.report import brief, curves
    from accupoison.rundir import reserve
    from accupoison.sweep import read_grid, run_grid

    logs = reserve(LOGS / "demo")
    plan = read_grid(_grid(), CHECKPOINTS, logs)
    with progress_bar("demo", hidden=quiet) as show:
        _patiently(lambda: run_grid(plan, CHECKPOINTS, jobs=jobs or min(4, os.cpu_count() or 1), report=show))
    runs = gather([logs])
    picture = logs / "curves.png"
    curves(runs, picture, trigger="adversarial", title="accumulative poisoning of digits, l_inf 0.2")
    click.echo(f"{brief(runs, 'adversarial')}\n\npicture: {picture}")
    click.echo(f"curves:  {shlex.quote(sys.executable)} -m tensorboard.main --logdir {shlex.quote(str(logs))}")


def _patiently(work: Callable[[], None]) -> None:
    """Do the work; wait first while another demo makes the same base model."""
    from accupoison.rundir import TakenError

    end, said = time.monotonic() + PATIENCE, False
    while True:
        try:
            return work()
        except TakenError as error:
            if time.monotonic() > end:
                raise
            if not said:
                note(f"waiting: {error}")
            said = True
            time.sleep(1)


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
