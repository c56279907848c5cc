"""The whole story on digits in a minute: ``demo``."""

import os
import shlex
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from accupoison.cli.group import CHECKPOINTS, LOGS, cli
from accupoison.cli.options import JOBS
from accupoison.cli.output import curves_text, gather, progress_bar

if TYPE_CHECKING:
    from accupoison.records.lock import DirectoryLock

STREAMS, STEPS = 5, 8
"""So many that the order of the table is no draw: of three streams of six steps 3 demos in 40 lost it."""
PICTURE = "curves.png"
"""Written last."""
TRIGGER = "optimised"
RUNS = (
    ("none", "ST"),
    ("accumulative", "FREEZE"),
    ("accumulative", "ST"),
    ("accumulative", "AT"),
    ("accumulative", "OURS"),
)
"""(attack, defence); the first is the clean control, which leaves from the same state to the trigger as well."""


@cli.command()
@click.option("--jobs", "-j", type=JOBS, help="Processes at once.  [default: one a core, at most 4]")
@click.option("--quiet", "-q", is_flag=True, help="No progress bar.")
def demo(jobs: int | None, quiet: bool) -> None:
    """Show the whole story on scikit-learn's digits.

    A burn-in, poisoned streams, defences and their curves, in a minute and without a download.
    """
    from accupoison.runs.engines import Local
    from accupoison.study.figures import curves
    from accupoison.study.grid import read_grid
    from accupoison.study.sweep import run_grid
    from accupoison.study.verdict import verdict_text

    logs, lock = _place()
    with lock, progress_bar("demo", hidden=quiet) as show:
        plan = read_grid(demo_grid(), CHECKPOINTS, logs)
        failed = run_grid(plan, CHECKPOINTS, engine=Local(jobs or min(4, os.cpu_count() or 1)), report=show)
    for error in failed.values():
        raise error
    runs, picture = gather([logs]), logs / PICTURE
    curves(runs, picture, trigger=TRIGGER, title="accumulative poisoning of digits, l_inf 0.2")
    click.echo(f"{verdict_text(runs, TRIGGER)}\n\npicture: {picture}")
    click.echo(curves_text(logs, f"{shlex.quote(sys.executable)} -m tensorboard.main"))


def _place() -> "tuple[Path, DirectoryLock]":
    """Return the first directory that is new or holds a demo that was cut off, with a lock on it."""
    from accupoison.records.lock import TakenError, lock_directory

    number = 1
    place = LOGS / "demo"
    while True:
        if not place.exists() or (any(place.iterdir()) and not (place / PICTURE).exists()):
            with suppress(TakenError):
                return place, lock_directory(place)
        number += 1
        place = LOGS / f"demo-{number}"


def demo_grid(seed: int = 0) -> dict[str, Any]:
    """Return the grid of the demo; another ``seed``, at least 0, has another base model and other streams."""
    return {
        "controls": False,  # it has those that it shows
        "burnin": {"preset": "demo", "seeds": [seed]},
        "online": {"preset": "demo", "stream": {"steps": STEPS}},
        "runs": [
            {
                "name": attack,
                "seeds": list(range(seed * STREAMS, (seed + 1) * STREAMS)),
                "attack": {"name": attack},
                "trigger": {"types": ["clean", TRIGGER] if attack == "none" else [TRIGGER]},
                "defense": {"name": defense},
                "each": {"defense.name": [defense]},
            }
            for attack, defense in RUNS
        ],
    }
