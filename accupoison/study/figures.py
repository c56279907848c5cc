"""The poisoning curves as a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from accupoison.errors import InputError
from accupoison.records.files import write_atomically
from accupoison.study.collect import Run
from accupoison.study.groups import Group, group

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def curves(runs: Sequence[Run], path: Path, *, trigger: str, title: str) -> list[str]:
    """Draw accuracy against step, one line for each experiment: the mean over runs, and their range.

    Accuracy on the monitor images where all runs have it, else test accuracy where it was measured. Runs on a clean
    stream follow the clean trigger, where they have one. Runs that stopped at different steps are drawn one by one.

    Args:
        runs: The runs.
        path: The PNG to write.
        trigger: The path to follow after the horizon.
        title: Of the picture.

    Returns:
        What was wrong with the metrics of runs that are not in the figure, a sentence each.

    Raises:
        InputError: There are more lines than colours, or no run that can be drawn.
    """
    import matplotlib  # here, because not every report has a figure
    from matplotlib.figure import Figure

    every = all(run.config.evaluate.test == "every" for run in runs)
    monitor = not every and all(run.config.evaluate.monitor for run in runs)
    paths, problems = _paths(runs, "monitor/acc" if monitor else "test/acc", trigger)
    groups = group([run for run in runs if id(run) in paths])
    colors = matplotlib.color_sequences["tab10" if len(groups) <= 10 else "tab20"]
    if not groups:
        raise InputError("; ".join(problems) or f"no run has the {trigger} trigger; give another")
    if len(groups) > len(colors):
        raise InputError(f"{len(groups)} lines are too many for one figure; report fewer runs at once")
    several = len({experiment.first.config.stream.kind for experiment in groups}) > 1
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    marker = "" if monitor or every else "o"
    for color, experiment in zip(colors, groups, strict=False):
        label = f"{_label(experiment, several)} (n = {len(experiment.runs)})"
        points = [paths[id(run)] for run in experiment.runs]
        if len({run.summary["horizon"] for run in experiment.runs}) > 1:
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
    axes.set(xlabel="updates", ylabel=f"{'monitor' if monitor else 'test'} accuracy (%)")
    axes.set_title(title, parse_math=False)  # a dollar sign in a name is no formula
    _plain_legend(axes)
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=120, metadata={"Software": None}))
    return problems


def _paths(runs: Sequence[Run], tag: str, trigger: str) -> tuple[dict[int, dict[int, float]], list[str]]:
    """Return accuracy by step of each run that has the trigger, by id, and what is wrong with the metrics of others."""
    paths, problems = {}, []
    for run in runs:
        followed = run.followed(trigger)
        if followed in run.config.trigger.types:
            try:
                paths[id(run)] = dict(run.curve(tag, followed))
            except InputError as error:
                problems.append(f"{run.path} is not in the figure: {error}")
    return paths, problems


def _plain_legend(axes: "Axes") -> None:
    legend = axes.legend(fontsize="small")
    for text in () if legend is None else legend.get_texts():
        text.set_parse_math(False)


def _label(experiment: Group, several: bool) -> str:
    run = experiment.first
    parts = [run.defense, "clean stream" if run.config.attack.name == "none" else run.attack]
    parts += [run.config.stream.kind] if several else []
    return ", ".join([*parts, experiment.setting] if experiment.setting else parts)
