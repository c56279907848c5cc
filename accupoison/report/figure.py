"""The poisoning curves as a picture."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from accupoison.errors import InputError
from accupoison.files import write_atomically
from accupoison.report.collect import Run
from accupoison.report.groups import Group, group


def curves(runs: Sequence[Run], path: Path, *, trigger: str, title: str) -> None:
    """Draw accuracy against step, one line for each experiment: the mean over runs, and their range.

    Accuracy on the monitor images where all runs have it, else test accuracy where it was measured. Runs on a clean
    stream follow the clean trigger, where they have one. Runs that stopped at different steps are drawn one by one.

    Args:
        runs: The runs.
        path: The PNG to write.
        trigger: The path to follow after the horizon.
        title: Of the picture.

    Raises:
        InputError: There are more lines than colours.
    """
    import matplotlib  # here, because not every report has a figure
    from matplotlib.figure import Figure

    groups = group([run for run in runs if run.followed(trigger) in run.config.trigger.deliver])
    colors = matplotlib.color_sequences["tab10" if len(groups) <= 10 else "tab20"]
    if len(groups) > len(colors):
        raise InputError(f"{len(groups)} lines are too many for one figure; report fewer runs at once")
    several = len({one.first.config.stream.kind for one in groups}) > 1
    every = all(run.config.evaluate.test == "every" for run in runs)
    monitor = not every and all(run.config.evaluate.monitor for run in runs)
    tag = "monitor/acc" if monitor else "test/acc"
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    marker = "" if monitor or every else "o"
    for color, one in zip(colors, groups, strict=False):
        label = f"{_label(one, several)} (n = {len(one.runs)})"
        points = [dict(run.curve(tag, run.followed(trigger))) for run in one.runs]
        if len({run.summary["horizon"] for run in one.runs}) > 1:
            for k, path_of_one in enumerate(points):
                x, y = list(path_of_one), [100 * value for value in path_of_one.values()]
                axes.plot(x, y, label="" if k else label, color=color, marker=marker, linewidth=1)
            continue
        steps = sorted(set.intersection(*(set(p) for p in points)))
        values = 100 * np.array([[p[step] for step in steps] for p in points])
        axes.plot(steps, values.mean(0), label=label, color=color, marker=marker)
        if len(points) > 1:
            axes.fill_between(steps, values.min(0), values.max(0), color=color, alpha=0.15, linewidth=0)
    horizons = {run.summary["horizon"] for run in runs}
    if len(horizons) == 1:
        (horizon,) = horizons
        axes.axvline(horizon, color="0.5", linestyle=":", linewidth=1)
        axes.annotate(" trigger", (horizon, axes.get_ylim()[0]), color="0.4", va="bottom")
    axes.set(xlabel="updates", ylabel=f"{'monitor' if monitor else 'test'} accuracy (%)", title=title)
    axes.legend(fontsize="small")
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=120, metadata={"Software": None}))


def _label(one: Group, several: bool) -> str:
    run = one.first
    parts = [run.defense, "clean stream" if run.config.attack.name == "none" else run.attack]
    parts += [run.config.stream.kind] if several else []
    return ", ".join([*parts, one.setting] if one.setting else parts)
