"""What the speed-ups change in accuracies of streams of the same seed.

Run by ``python -m benchmarks.drift --checkpoint FILE``. They differ from the plain way in rounding alone, but a signed
step turns a rounding error into a whole level of a pixel, and a stream carries it on. As a control, PyTorch's kernels
beside PyTorch's without oneDNN: what another rounding does that nobody calls less exact.
"""

import json
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from scipy import stats

from accupoison.config.layers import Layer
from accupoison.records.files import read_json
from accupoison.records.tags import SUMMARY
from accupoison.runs.workers import carry_out
from accupoison.study.tables import markdown
from benchmarks.runs import run_stream

HERE = Path(__file__).parent
AFTER = "after the trigger"


WAYS = {"ours": ("auto", True), "plain": ("torch", True), "control": ("torch", False)}
"""The setting ``run.kernels``, and whether PyTorch has oneDNN's convolutions."""


def stream(out: Path, checkpoint: Path, seed: int, steps: int, data_dir: str | None) -> str:
    """Run an accumulative stream with its trigger in ``out``, named after its way, unless it is there."""
    kernels, onednn = WAYS[out.name.partition("-")[2]]
    own: Layer = {
        "stream": {"steps": steps, "recovery_steps": 0},
        "trigger": {"types": ["adversarial"]},
        "evaluate": {"monitor": False, "reestimate": False, "images": 0},
        "run": {"seed": seed, "kernels": kernels},
    }
    with torch.backends.mkldnn.flags(enabled=onednn):
        return run_stream(out, checkpoint, data_dir, own)


def ways(seed: int, controls: int) -> list[str]:
    """Return the ways that a seed goes: the control, which is slow, only among the first."""
    return [way for way in WAYS if way != "control" or seed < controls]


def differences(folder: Path, seeds: int, controls: int) -> list[dict[str, Any]]:
    """Return test accuracies before and after the trigger, in each way, by seed."""
    rows: list[dict[str, Any]] = []
    for seed in range(seeds):
        found = {way: read_json(folder / f"seed{seed}-{way}" / SUMMARY) for way in ways(seed, controls)}
        before = {way: one["before"]["acc"] for way, one in found.items()}
        after = {way: one["branches"]["adversarial"]["after"]["acc"] for way, one in found.items()}
        rows += [{"seed": seed, "mark": "before", **before}, {"seed": seed, "mark": AFTER, **after}]
    return rows


@click.command()
@click.option("--checkpoint", type=click.Path(path_type=Path, exists=True), required=True, help="The base model.")
@click.option("--data-dir", help="Where the data are.")
@click.option("--seeds", type=click.IntRange(2), default=5, show_default=True)
@click.option("--controls", type=click.IntRange(2), default=5, show_default=True, help="Seeds that the control has.")
@click.option("--steps", type=click.IntRange(1), default=10, show_default=True, help="Batches before the trigger.")
@click.option("--folder", type=click.Path(path_type=Path), default=Path("logs/drift"), show_default=True)
@click.option("--jobs", type=click.IntRange(1), default=2, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=HERE / "drift.json", help="The JSON to write.")
def main(
    checkpoint: Path,
    data_dir: str | None,
    seeds: int,
    controls: int,
    steps: int,
    folder: Path,
    jobs: int,
    out: Path,
) -> None:
    """Compare accuracies of streams of the same seed by the package's way and PyTorch's."""
    places = [(folder / f"seed{seed}-{way}", seed) for seed in range(seeds) for way in ways(seed, controls)]
    for name in carry_out([(stream, (place, checkpoint, seed, steps, data_dir)) for place, seed in places], jobs):
        click.echo(name, err=True)
    rows = differences(folder, seeds, controls)
    out.write_text(json.dumps(rows, indent=2) + "\n")
    cells = [
        [str(row["seed"]), row["mark"], *(f"{100 * row[way]:.2f}" if way in row else "" for way in WAYS)]
        for row in rows
    ]
    click.echo(markdown(["seed", "mark", *WAYS], cells))
    for mark in ("before", AFTER):
        for way in ("ours", "control"):
            moved = np.array([100 * (row[way] - row["plain"]) for row in rows if row["mark"] == mark and way in row])
            half = stats.t.ppf(0.95, len(moved) - 1) * stats.sem(moved)
            most = np.abs(moved).max()
            said = f"{way} - plain {moved.mean():.2f} ± {half:.2f} points (90%), at most {most:.2f}"
            click.echo(f"\n{mark}, {len(moved)} seeds: {said}")


if __name__ == "__main__":
    main()
