"""Accuracy against work of the burn-in recipes, and how still a ``live`` model stands on a clean stream.

Run by ``python -m benchmarks.recipes --data-dir DIR``: it trains what the folder does not have yet, so it can be
interrupted. An hour and more on two cores at width 16.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from scipy import stats

from accupoison.burnin import FINAL, run_burnin
from accupoison.config import Layer, preset
from accupoison.files import read_json
from accupoison.recorder import read_metrics
from accupoison.report.table import markdown
from accupoison.rundir import RunDirectory
from accupoison.settings import BurninConfig, burnin_config
from accupoison.tags import METRICS, SUMMARY
from accupoison.training import Burnin, batch_size
from accupoison.workers import carry_out
from benchmarks.runs import check_settings, run_stream

HERE = Path(__file__).parent
STREAMS, STEPS, MARGIN = 10, 20, 0.01
"""Clean streams from one base model, their steps, and the change of accuracy that counts as none."""


def settings(recipe: str, width: int, seed: int, data_dir: str) -> BurninConfig:
    """Return the settings of one burn-in; the default recipe is ``live``."""
    layers = [] if recipe == "live" else [preset("burnin", recipe)]
    own: Layer = {"model": {"width": width}, "run": {"seed": seed, "device": "cpu"}, "data": {"dir": data_dir}}
    return burnin_config([*layers, own])


def place(folder: Path, recipe: str, width: int, seed: int) -> Path:
    """Return the directory of a burn-in."""
    return folder / f"{recipe}-w{width}-seed{seed}"


def train(folder: Path, recipe: str, width: int, seed: int, data_dir: str) -> str:
    """Train one base model unless it is there, and go on with one that was interrupted."""
    out, config = place(folder, recipe, width, seed), settings(recipe, width, seed, data_dir)
    check_settings(out, config)
    if not (out / FINAL).exists():
        run_burnin(config, out, resume=RunDirectory.holds_run(out), progress=lambda *_: None)
    return out.name


def work(recipe: str, width: int, seed: int, data_dir: str) -> float:
    """Return the forward and backward passes of a burn-in, in thousands of images."""
    burnin = Burnin.prepare(settings(recipe, width, seed, data_dir))
    train = burnin.config.train
    return sum(burnin.steps_in(epoch) * batch_size(train, epoch) for epoch in range(train.epochs)) / 1000


def row(folder: Path, recipe: str, width: int, seeds: Sequence[int], data_dir: str) -> dict[str, Any]:
    """Return what the base models of a recipe reach."""
    places = [place(folder, recipe, width, seed) for seed in seeds]
    accuracy = [read_json(out / SUMMARY)["test_acc"] for out in places]
    seconds = [sum(r["time/epoch_s"] for r in read_metrics(out / METRICS) if "time/epoch_s" in r) for out in places]
    config = settings(recipe, width, seeds[0], data_dir)
    return {
        "recipe": recipe,
        "width": width,
        "epochs": config.train.epochs,
        "thousand_images": work(recipe, width, seeds[0], data_dir),
        "test_acc": accuracy,
        "seconds": seconds,
    }


def stream(folder: Path, checkpoint: Path, number: int, data_dir: str) -> str:
    """Run one clean stream from a ``live`` model unless it is there."""
    own: Layer = {
        "stream": {"steps": STEPS, "after": 0},
        "attack": {"name": "none"},
        "trigger": {"deliver": ["none"]},
        "evaluate": {"monitor": False, "images": 0},
        "run": {"seed": number},
    }
    return run_stream(folder / f"stream-{checkpoint.parent.name}-{number}", checkpoint, data_dir, own)


def stillness(folder: Path, checkpoint: Path) -> dict[str, Any]:
    """Return how the re-estimated accuracy moves in a clean stream, with the 90% interval of two one-sided tests."""
    moved = []
    for number in range(STREAMS):
        summary = read_json(folder / f"stream-{checkpoint.parent.name}-{number}" / SUMMARY)
        key = "acc_bn_reestimated"
        moved.append(summary["before"][key] - summary["start"][key])
    half = float(stats.t.ppf(0.95, len(moved) - 1) * stats.sem(moved))
    mean = float(np.mean(moved))
    return {"moved": moved, "mean": mean, "half_width_90": half, "equivalent": abs(mean) + half < MARGIN}


@click.command()
@click.option("--data-dir", required=True, help="Where CIFAR-10 is.")
@click.option("--recipe", "recipes", multiple=True, default=("best", "live", "official"), show_default=True)
@click.option("--width", type=int, default=16, show_default=True)
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True, help="Base models a recipe.")
@click.option("--folder", type=click.Path(path_type=Path), default=Path("logs/recipes"), show_default=True)
@click.option("--jobs", type=click.IntRange(1), default=2, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=HERE / "recipes.json", help="The JSON to write.")
def main(data_dir: str, recipes: tuple[str, ...], width: int, seeds: int, folder: Path, jobs: int, out: Path) -> None:
    """Train base models and say what they reach for their work."""
    tasks = [(train, (folder, recipe, width, seed, data_dir)) for seed in range(seeds) for recipe in recipes]
    for name in carry_out(tasks, jobs):
        click.echo(name, err=True)
    found: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {"rows": []}  # of other recipes and widths
    new = [row(folder, recipe, width, range(seeds), data_dir) for recipe in recipes]
    found["rows"] = [old for old in found["rows"] if (old["recipe"], old["width"]) not in _names(new)] + new
    if "live" in recipes:
        checkpoint = place(folder, "live", width, 0) / FINAL
        for name in carry_out([(stream, (folder, checkpoint, i, data_dir)) for i in range(STREAMS)], jobs):
            click.echo(name, err=True)
        found["live_on_a_clean_stream"] = stillness(folder, checkpoint)
    out.write_text(json.dumps(found, indent=2) + "\n")
    click.echo(markdown(list(found["rows"][0]), [[_said(value) for value in one.values()] for one in found["rows"]]))
    if "live" in recipes:
        still = found["live_on_a_clean_stream"]
        click.echo(
            f"\nlive, {STEPS} clean steps, {STREAMS} streams: re-estimated accuracy moves by {100 * still['mean']:.2f} "
            f"± {100 * still['half_width_90']:.2f} points (90%); equivalent within 1 point: {still['equivalent']}"
        )


def _names(rows: Sequence[dict[str, Any]]) -> list[tuple[str, int]]:
    return [(row["recipe"], row["width"]) for row in rows]


def _said(value: object) -> str:
    if not isinstance(value, list):
        return f"{value:.0f}" if isinstance(value, float) else str(value)
    digits = 3 if max(value) <= 1 else 0
    spread = stats.t.ppf(0.975, len(value) - 1) * stats.sem(value) if len(value) > 1 else math.nan
    return f"{np.mean(value):.{digits}f}" + (f" ± {spread:.{digits}f}" if len(value) > 1 else "")


if __name__ == "__main__":
    main()
