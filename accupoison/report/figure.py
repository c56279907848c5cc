"""The poisoning curves as a picture."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from accupoison.files import write_atomically
from accupoison.report.collect import Run


def curves(runs: Sequence[Run], path: Path, *, trigger: str, title: str) -> None:
    """Draw accuracy against step, one line for each attack and defence: the mean over runs, and their range.

    Test accuracy where it was measured at every step, accuracy on the monitor images elsewhere.

    Args:
        runs: Runs with the same stream kind and horizon.
        path: The PNG to write.
        trigger: The path to follow after the horizon.
        title: Of the picture.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        if trigger in run.summary["branches"]:
            groups.setdefault(_label(run), []).append(run)
    every = all(run.config.evaluate.test == "every" for run in runs)
    tag, axis = ("test/acc", "test accuracy") if every else ("monitor/acc", "accuracy on monitor images")
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    colors = matplotlib.color_sequences["tab10"]
    for color, (label, group) in zip(colors, groups.items(), strict=False):
        points = [dict(run.curve(tag, trigger)) for run in group]
        steps = sorted(set.intersection(*(set(p) for p in points)))
        values = 100 * np.array([[p[step] for step in steps] for p in points])
        axes.plot(steps, values.mean(0), label=f"{label} (n = {len(group)})", color=color)
        if len(group) > 1:
            axes.fill_between(steps, values.min(0), values.max(0), color=color, alpha=0.15, linewidth=0)
    horizon = max(run.summary["horizon"] for run in runs)
    axes.axvline(horizon, color="0.5", linestyle=":", linewidth=1)
    axes.annotate(f" {trigger} trigger", (horizon, axes.get_ylim()[0]), color="0.4", va="bottom")
    axes.set(xlabel="updates", ylabel=f"{axis} (%)", title=title)
    axes.legend(fontsize="small")
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=120, metadata={"Software": None}))


def _label(run: Run) -> str:
    return f"{run.defense}, clean stream" if run.config.attack.name == "none" else f"{run.defense}, {run.attack}"
