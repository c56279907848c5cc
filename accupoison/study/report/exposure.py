"""The figures of who can be told to be a member."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray

from accupoison.study.collect import Run
from accupoison.study.groups import Group, group, label_of
from accupoison.study.outcomes import FEWEST, estimate
from accupoison.study.pictures import BAND, Missing, Picture, Series, drawing
from accupoison.study.report.audits import Audit, Exposure
from accupoison.study.report.draw import as_points, intervals_said

EXPOSED, ROC = "Accuracy against exposure", "Who can be told: ROC on logarithmic axes"
FLOOR = 1e-3
"""Where the axes of the ROC figure begin."""


def accuracy_exposure(found: Sequence[Exposure], attack: str) -> Picture:
    """Draw accuracy against how well members can be told, with the experiments that no other beats in both.

    Args:
        found: At least one.
        attack: By which members are told.
    """
    name, title = "accuracy-exposure", EXPOSED
    groups = group([run for one in found for run in one.runs])
    note = f"Best is high and to the left. Grey: the Pareto front of the means. Members are told by: {attack}."
    note = f"{note} {intervals_said()}"
    with drawing(name):
        picture = Picture(name, title, "", note)
        axes, said = picture.axes(xlabel="exposure: AUC against never-learnt samples", ylabel="accuracy (%)"), []
        front = [one for one in found if not any(_beats(other, one) for other in found)]
        best = sorted((one.auc.mean, 100 * one.accuracy.mean) for one in front)
        axes.step(*zip(*best, strict=True), where="post", color="0.5", linewidth=5, alpha=0.35, zorder=1)
        for one in found:
            series = picture.add(label_of(group(one.runs)[0], groups), one.runs)
            picture.cross(axes, series, one.auc, as_points(one.accuracy))
            mark = ", on the front" if one in front else ""
            said.append(f"{series.label}: AUC {one.auc.text(3)}, accuracy {one.accuracy.text(1, 100)} %{mark}")
    picture.alt = f"Accuracy against exposure. {'; '.join(said)}."
    return picture


def _beats(one: Exposure, other: Exposure) -> bool:
    ours, theirs = ((e.auc.mean, -e.accuracy.mean) for e in (one, other))
    return ours != theirs and ours[0] <= theirs[0] and ours[1] <= theirs[1]


def roc(runs: Sequence[Run], audits: Mapping[Path, Audit], attack: str) -> Picture | Missing:
    """Draw ROC curves on logarithmic axes, a line an experiment.

    Args:
        runs: The runs.
        audits: By run directory.
        attack: Whose curves.
    """
    name, title = "roc", ROC
    drawn = [run for run in runs if run.path in audits and attack in audits[run.path].curves]
    if not drawn:
        return Missing(name, title, "the audits have no curves, as older versions wrote none; audit the runs again")
    groups = group(drawn)
    note = f"Members are told by: {attack}. Dotted: guessing. Lines: means. Bands: {BAND}."
    with drawing(name):
        picture = Picture(name, title, "", note, (5.4, 4.2))
        axes = rate_axes(picture)
        for one in groups:
            _curve(picture, axes, picture.add(label_of(one, groups), one.runs), one, audits, attack)
    aucs = [f"{s.label}: AUC {np.mean([audits[r.path].aucs[attack] for r in s.runs]):.3f}" for s in picture.series]
    picture.alt = f"ROC curves of the {attack} attack. {'; '.join(aucs)}."
    return picture


def rate_axes(picture: Picture) -> Axes:
    """Return logarithmic axes for ROC curves, with the line of guessing."""
    axes = picture.axes(xlabel="false positive rate", ylabel="true positive rate", xscale="log", yscale="log")
    axes.set(xlim=(FLOOR, 1), ylim=(FLOOR, 1.05))
    axes.plot([FLOOR, 1], [FLOOR, 1], color="0.6", linestyle=":", linewidth=1)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    return axes


def rate_line(
    picture: Picture,
    axes: Axes,
    series: Series,
    curve: tuple[NDArray[np.float64], NDArray[np.float64]],
    half: NDArray[np.float64] | None = None,
) -> None:
    """Draw a ROC curve on the axes of :func:`rate_axes`.

    Args:
        picture: The figure.
        axes: Its axes.
        series: Whose curve it is.
        curve: False and true positive rates, [K] each.
        half: Half the width of the band around it [K]; None draws none.
    """
    shown = curve[0] >= FLOOR
    fpr, tpr = (rates[shown] for rates in curve)
    style: dict[str, Any] = {"color": series.color, "linestyle": series.style, "linewidth": 1.3}
    axes.plot(fpr, np.maximum(tpr, FLOOR), gid=picture.mark(series), **style)
    if half is not None:
        low, high = (np.clip(tpr + sign * half[shown], FLOOR, 1) for sign in (-1, 1))
        axes.fill_between(fpr, low, high, color=series.color, alpha=0.12, linewidth=0, gid=picture.mark(series))


def _curve(
    picture: Picture, axes: Axes, series: Series, experiment: Group, audits: Mapping[Path, Audit], attack: str
) -> None:
    curves = {run.path: audits[run.path].curves[attack] for run in experiment.runs}
    fpr = next(iter(curves.values()))["fpr"]
    found = [estimate((run.burnin, curves[run.path]["tpr"][k]) for run in experiment.runs) for k in range(len(fpr))]
    units = [one for one in found if one is not None]
    if len(units[0].values) < FEWEST:
        for curve in curves.values():
            rate_line(picture, axes, series, (fpr, curve["tpr"]))
        return
    mean, half = np.array([one.mean for one in units]), np.array([one.half for one in units])
    rate_line(picture, axes, series, (fpr, mean), half)
