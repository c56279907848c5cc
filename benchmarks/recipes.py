"""Accuracy against work of the burn-in recipes, and how still a ``online_ready`` model stands on a clean stream.

Run by ``python -m benchmarks.recipes --data-dir DIR``: it trains what the folder does not have yet, so it can be
interrupted. An hour and more on two cores at width 16.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from scipy import stats

from accupoison.config.layers import Layer, preset
from accupoison.config.schema import BurninConfig, burnin_config
from accupoison.records.files import read_json
from accupoison.records.recorder import read_metrics
from accupoison.records.run_directory import RunDirectory
from accupoison.records.tags import METRICS, SUMMARY
from accupoison.runs.burnin import FINAL, run_burnin
from accupoison.runs.trainer import Burnin
from accupoison.runs.training_schedule import batch_size
from accupoison.runs.workers import carry_out
from accupoison.study.tables import markdown
from benchmarks.runs import check_settings, run_stream

HERE = Path(__file__).parent
STREAMS, STEPS, MARGIN = 10, 20, 0.01
"""Clean streams from one base model, their steps, and the change of accuracy that counts as none."""


@dataclass(frozen=True)
class Recipe:
    """A recipe at one width.

    Attributes:
        name: Of the preset.
        width: Channels of the first stage.
        epochs: Instead of the recipe's own, if not None.
        data_dir: Where CIFAR-10 is.
    """

    name: str
    width: int
    epochs: int | None
    data_dir: str

    def settings(self, seed: int) -> BurninConfig:
        """Return the settings of one burn-in."""
        own: Layer = {"model": {"width": self.width}, "run": {"seed": seed, "device": "cpu"}}
        train: Layer = {} if self.epochs is None else {"train": {"epochs": self.epochs}}
        return burnin_config([preset("burnin", self.name), own, train, {"data": {"dir": self.data_dir}}])

    def place(self, folder: Path, seed: int) -> Path:
        """Return the directory of a burn-in."""
        return folder / f"{self.name}-w{self.width}-e{self.settings(seed).train.epochs}-seed{seed}"


def train(folder: Path, recipe: Recipe, seed: int) -> str:
    """Train one base model unless it is there, and go on with one that was interrupted."""
    out, config = recipe.place(folder, seed), recipe.settings(seed)
    check_settings(out, config)
    if not (out / FINAL).exists():
        run_burnin(config, out, resume=RunDirectory.holds_run(out), progress=lambda *_: None)
    return out.name


def work(config: BurninConfig) -> float:
    """Return the forward and backward passes of a burn-in, in thousands of images."""
    burnin = Burnin.prepare(config)
    return sum(burnin.steps_in(epoch) * batch_size(config.train, epoch) for epoch in range(config.train.epochs)) / 1000


def row(folder: Path, recipe: Recipe, seeds: Sequence[int]) -> dict[str, Any]:
    """Return what the base models of a recipe reach."""
    places = [recipe.place(folder, seed) for seed in seeds]
    accuracy = [read_json(out / SUMMARY)["test_acc"] for out in places]
    seconds = [sum(r["time/epoch_s"] for r in read_metrics(out / METRICS) if "time/epoch_s" in r) for out in places]
    config = recipe.settings(seeds[0])
    return {
        "recipe": recipe.name,
        "width": recipe.width,
        "epochs": config.train.epochs,
        "thousand_images": work(config),
        "test_acc": accuracy,
        "seconds": seconds,
    }


def stream(folder: Path, checkpoint: Path, number: int, data_dir: str) -> str:
    """Run one clean stream from a ``online_ready`` model unless it is there."""
    own: Layer = {
        "stream": {"steps": STEPS, "recovery_steps": 0},
        "attack": {"name": "none"},
        "trigger": {"types": ["none"]},
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
@click.option(
    "--recipe", "recipes", multiple=True, default=("one_cycle", "online_ready", "released"), show_default=True
)
@click.option("--width", type=int, default=16, show_default=True)
@click.option("--epochs", type=click.IntRange(1), help="Instead of each recipe's own.")
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True, help="Base models a recipe.")
@click.option("--folder", type=click.Path(path_type=Path), default=Path("logs/recipes"), show_default=True)
@click.option("--jobs", type=click.IntRange(1), default=2, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=HERE / "recipes.json", help="The JSON to write.")
def main(
    data_dir: str,
    recipes: tuple[str, ...],
    width: int,
    epochs: int | None,
    seeds: int,
    folder: Path,
    jobs: int,
    out: Path,
) -> None:
    """Train base models and say what they reach for their work."""
    chosen = [Recipe(name, width, epochs, data_dir) for name in recipes]
    for name in carry_out([(train, (folder, recipe, seed)) for seed in range(seeds) for recipe in chosen], jobs):
        click.echo(name, err=True)
    found: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {"rows": []}  # of other recipes and widths
    new = [row(folder, recipe, range(seeds)) for recipe in chosen]
    found["rows"] = [old for old in found["rows"] if _name(old) not in map(_name, new)] + new
    if "online_ready" in recipes:
        checkpoint = chosen[recipes.index("online_ready")].place(folder, 0) / FINAL
        for name in carry_out([(stream, (folder, checkpoint, i, data_dir)) for i in range(STREAMS)], jobs):
            click.echo(name, err=True)
        still = {key: new[recipes.index("online_ready")][key] for key in ("width", "epochs")}
        found["live_on_a_clean_stream"] = {**still, **stillness(folder, checkpoint)}
    out.write_text(json.dumps(found, indent=2) + "\n")
    click.echo(markdown(list(found["rows"][0]), [[_said(value) for value in one.values()] for one in found["rows"]]))
    if "online_ready" in recipes:
        still = found["live_on_a_clean_stream"]
        click.echo(
            f"\nlive, {STEPS} clean steps, {STREAMS} streams: re-estimated accuracy moves by {100 * still['mean']:.2f} "
            f"± {100 * still['half_width_90']:.2f} points (90%); equivalent within 1 point: {still['equivalent']}"
        )


def _name(row: dict[str, Any]) -> tuple[str, int, int]:
    return row["recipe"], row["width"], row["epochs"]


def _said(value: object) -> str:
    if not isinstance(value, list):
        return f"{value:.0f}" if isinstance(value, float) else str(value)
    digits = 3 if max(value) <= 1 else 0
    spread = stats.t.ppf(0.975, len(value) - 1) * stats.sem(value) if len(value) > 1 else math.nan
    return f"{np.mean(value):.{digits}f}" + (f" ± {spread:.{digits}f}" if len(value) > 1 else "")


if __name__ == "__main__":
    main()
