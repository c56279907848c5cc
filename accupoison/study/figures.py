"""The poisoning curves as a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from accupoison.errors import InputError
from accupoison.records.files import write_atomically
from accupoison.study.collect import Run
from accupoison.study.groups import Group, group, label_of
from accupoison.study.outcomes import FEWEST, estimate
from accupoison.study.pictures import BAND, Picture, Series, drawing

MOST = 20
"""Lines that one can still tell apart."""
By = dict[int, float]
"""Accuracy by step."""


def curves(runs: Sequence[Run], path: Path, *, trigger: str, title: str) -> list[str]:
    """Write the figure of :func:`curves_picture` as a PNG.

    Args:
        runs: The runs.
        path: The PNG to write.
        trigger: The path to follow after the horizon.
        title: Of the picture.

    Returns:
        What was wrong with the metrics of runs that are not in the figure, a sentence each.

    Raises:
        InputError: There are too many lines, or no run that can be drawn.
    """
    picture, problems = curves_picture(runs, trigger=trigger, title=title, size=(8, 4.5))
    write_atomically(path, lambda file: picture.save(file, "png"))
    return problems


def curves_picture(
    runs: Sequence[Run], *, trigger: str, title: str, size: tuple[float, float] = (5.4, 3.5)
) -> tuple[Picture, list[str]]:
    """Draw accuracy against step, one line for each experiment: the mean over runs with its interval.

    Accuracy on the monitor images where all runs have it, else test accuracy where it was measured. Runs on a clean
    stream follow the clean trigger, where they have one. Runs that stopped at different steps, and those of too few
    base models or streams for an interval, are drawn one by one.

    Args:
        runs: The runs.
        trigger: The path to follow after the horizon.
        title: Of the picture.
        size: In inches.

    Returns:
        The picture, and what was wrong with the metrics of runs that are not in it, a sentence each.

    Raises:
        InputError: There are too many lines, or no run that can be drawn.
    """
    every = all(run.config.evaluate.test == "every" for run in runs)
    monitor = not every and all(run.config.evaluate.monitor for run in runs)
    paths, problems = _paths(runs, "monitor/acc" if monitor else "test/acc", trigger)
    groups = group([run for run in runs if id(run) in paths])
    if not groups:
        raise InputError("; ".join(problems) or f"no run has the {trigger} trigger; give another")
    if len(groups) > MOST:
        raise InputError(f"{len(groups)} lines are too many for one figure; report fewer runs at once")
    images = "monitor" if monitor else "test"
    ends = [f"{label_of(one, groups)} {_ends([paths[id(run)] for run in one.runs])}" for one in groups]
    alt = f"Lines of {images} accuracy against updates, from the first to the last: {'; '.join(ends)}."
    note = f"Lines: means. Bands: {BAND}. Dashed: clean stream; dotted: noise. Path: {trigger} trigger."
    note += " On the monitor images; tables are of the test set." if monitor else ""
    with drawing("curves"):
        picture = Picture("curves", title, alt, note, size)
        axes = picture.axes(xlabel="updates", ylabel=f"{images} accuracy (%)")
        for experiment in groups:
            label = f"{label_of(experiment, groups)} (n = {len(experiment.runs)})"
            _line(picture, axes, picture.add(label, experiment.runs), experiment, paths, min(0.15, 0.5 / len(groups)))
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, -1), min(high, 101))  # an interval may go on, an accuracy cannot
        horizons = {run.summary["horizon"] for run in runs}
        if len(horizons) == 1:
            (horizon,) = horizons
            axes.axvline(horizon, color="0.5", linestyle=":", linewidth=1)
            axes.annotate(" trigger", (horizon, axes.get_ylim()[0]), color="0.5", va="bottom")
    return picture, problems


def _line(
    picture: Picture, axes: Axes, series: Series, experiment: Group, paths: Mapping[int, By], alpha: float
) -> None:
    """Draw an experiment's mean with its band, ``alpha`` opaque: many bands on top of each other hide no line."""
    points = [paths[id(run)] for run in experiment.runs]
    steps = sorted(set.intersection(*(set(p) for p in points)))
    found = [estimate((run.burnin, paths[id(run)][step]) for run in experiment.runs) for step in steps]
    means = [one for one in found if one is not None]
    style: dict[str, Any] = {"color": series.color, "linestyle": series.style, "marker": series.marker, "markersize": 3}
    ragged = len({run.summary["horizon"] for run in experiment.runs}) > 1
    if ragged or not means or len(means[0].values) < FEWEST:
        for k, (run, path) in enumerate(zip(experiment.runs, points, strict=True)):
            tips = [f"{run.path.name}, update {step}: {value:.1%}" for step, value in path.items()]
            gid, values = picture.mark(series, tips), [100 * value for value in path.values()]
            axes.plot(list(path), values, label="" if k else series.label, gid=gid, linewidth=1, **style)
        return
    tips = [
        f"{series.label}, update {step}: {one.text(1, 100)} % (95% t-interval)"
        for step, one in zip(steps, means, strict=True)
    ]
    centre = [100 * one.mean for one in means]
    axes.plot(steps, centre, label=series.label, gid=picture.mark(series, tips), linewidth=1.5, **style)
    low, high = ([100 * (one.mean + sign * one.half) for one in means] for sign in (-1, 1))
    band = axes.fill_between(steps, low, high, color=series.color, alpha=alpha, linewidth=0)
    band.set_gid(picture.mark(series))


def _ends(points: Sequence[By]) -> str:
    first, last = (sum(list(one.values())[k] for one in points) / len(points) for k in (0, -1))
    return f"{first:.1%} to {last:.1%}"


def _paths(runs: Sequence[Run], tag: str, trigger: str) -> tuple[dict[int, By], list[str]]:
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
