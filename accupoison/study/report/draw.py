"""The figures of a report beside the curves."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from accupoison.records.tags import AGAINST
from accupoison.study.collect import Run
from accupoison.study.groups import Group, group, label_of
from accupoison.study.outcomes import Estimate, Pair, harm, yardstick
from accupoison.study.pictures import BAND, Missing, Picture, Series, drawing, interval
from accupoison.study.tables import Value, over, retained_by, told

MOST = 24
"""Rows of a figure that one can still read."""
Part = tuple[str, str, float, str | None]
PARTS: tuple[Part, ...] = (
    ("before", "", 0.4, None),
    ("after", "", 1.0, None),
    ("before", "_bn", 0.4, "////"),
    ("after", "_bn", 1.0, "////"),
)
"""Bars of an experiment: when, which accuracy, how opaque, how hatched."""
AT_END: tuple[Part, ...] = (("before", "", 1.0, None), ("before", "_bn", 1.0, "////"))
"""The same where no trigger arrives."""
WORDS = {"": "", "_bn": ", batch norm re-estimated"}
KINDS = {"none": ("o", "clean batches"), "noise": ("x", "noise of equal size")}
"""Markers of what arrives; everything else is poison."""
POISON = ("D", "poison")


def before_after(runs: Sequence[Run], trigger: str) -> Picture | Missing:
    """Draw test accuracy before and after the trigger, as it is and with batch norm re-estimated."""
    name, title = "before-after", "Accuracy before and after the trigger"
    has = {when: [one for one in group(runs) if _has(one, when, trigger)] for when in ("before", "after")}
    untriggered = bool(has["before"]) and all(run.config.trigger.types == ("none",) for run in runs)
    groups = has["before" if untriggered else "after"]
    if not groups or len(groups) > MOST:
        return Missing(name, title, _count(groups, f"no run has the {trigger} trigger; give another with --trigger"))
    bars = "Pale: before the trigger; full: after it."
    if untriggered:
        title, bars = "Accuracy at the end of the stream", "No trigger arrives."
    note = f"{bars} Hatched: batch norm re-estimated on trusted images. {intervals_said()}"
    with drawing(name):
        picture = Picture(name, title, "", note, (5.4, 0.7 + (0.4 if untriggered else 0.62) * len(groups)))
        axes = picture.axes(xlabel="test accuracy (%)", xlim=(0, 100))
        parts = AT_END if untriggered else PARTS
        labels = [label_of(one, groups) for one in groups]
        said = [_bars(picture, axes, row, one, labels[row], trigger, parts) for row, one in enumerate(groups)]
        _rows(axes, labels)
    what = title if untriggered else f"Bars of accuracy before and after the {trigger} trigger"
    picture.alt = f"{what}. {'; '.join(said)}."
    return picture


def _has(experiment: Group, when: str, trigger: str) -> bool:
    return over(experiment, _accuracy(when, "", experiment.first.followed(trigger))) is not None


def _bars(
    picture: Picture, axes: Axes, row: int, experiment: Group, label: str, trigger: str, parts: Sequence[Part]
) -> str:
    series = picture.add(label, experiment.runs)
    followed, said = experiment.first.followed(trigger), []
    for k, (when, kind, alpha, hatch) in enumerate(parts):
        found = over(experiment, _accuracy(when, kind, followed))
        if found is None:
            continue
        words = "at the end" if parts is AT_END else when
        y, text = row + 0.19 * (k - (len(parts) - 1) / 2), f"{words}{WORDS[kind]} {found.text(1, 100)} %"
        gid = picture.mark(series, [f"{label}: {text}"])
        colors: dict[str, Any] = {"facecolor": series.color, "edgecolor": "w" if hatch else "none", "linewidth": 0}
        axes.barh(y, 100 * found.mean, 0.17, alpha=alpha, hatch=hatch, gid=gid, **colors)
        _spread(picture, axes, series, found, y)
        said.append(text)
    return f"{label}: {', '.join(said)}"


def _spread(picture: Picture, axes: Axes, series: Series, found: Estimate, y: float) -> None:
    """Draw an interval, or the values where there is none, in points on the x axis."""
    if interval(found):
        low, high = (100 * (found.mean + sign * found.half) for sign in (-1, 1))
        axes.plot([low, high], [y, y], color="k", linewidth=1, gid=picture.mark(series))
    elif len(found.values) > 1:
        values = [100 * value for value in found.values]
        axes.plot(values, [y] * len(values), "k.", markersize=3, gid=picture.mark(series))


def discrepancy(runs: Sequence[Run]) -> Picture | Missing:
    """Draw the memorization discrepancy of clean batches, of noise and of poison, by defence."""
    name, title = "discrepancy", "Memorization discrepancy of what arrives"
    every = [(one, found) for one in group(runs) if (found := _arriving(one)) is not None]
    groups = [one for one, _ in every]
    if not groups:
        return Missing(name, title, "no run has recorded a discrepancy: its base models have no early snapshot")
    labels = list(dict.fromkeys(one.first.defense for one in groups))
    kinds = [KINDS.get(one.first.config.attack.name, POISON) for one in groups]
    order = {"o": 0, "x": 1, "D": 2}
    rows = [[k for k, one in enumerate(groups) if one.first.defense == label] for label in labels]
    rows = [sorted(row, key=lambda k: order[kinds[k][0]]) for row in rows]
    tallest = max(map(len, rows))
    note = f"Circles: clean batches; crosses: noise of equal size; diamonds: poison. {intervals_said()}"
    with drawing(name):
        picture = Picture(name, title, "", note, (5.4, 1.1 + max(0.42, 0.16 * tallest) * len(labels)))
        axes, said = picture.axes(xlabel="mean before the trigger (nats)"), []
        for (one, found), (marker, words) in zip(every, kinds, strict=True):
            label = label_of(one, groups)
            series = picture.add(label, one.runs, marker)
            number = labels.index(one.first.defense)
            place = (rows[number].index(groups.index(one)) + 0.5) / len(rows[number])  # side by side within the row
            picture.cross(axes, series, found, Estimate(number + 0.76 * (place - 0.5), np.nan, 1, 1, ""))
            said.append(f"{label}: {found.text(2)} nats ({words})")
        _rows(axes, labels)
    picture.alt = f"Discrepancy by defence. {'; '.join(said)}."
    return picture


def _arriving(experiment: Group) -> Estimate | None:
    tag = "defense/discrepancy_clean" if experiment.first.config.attack.name == "none" else "defense/discrepancy_sent"
    return over(experiment, lambda run: run.summary["means"].get(tag))


def detectors(runs: Sequence[Run]) -> Iterator[Picture | Missing]:
    """Draw how well discrepancy and other detectors tell poison, where runs have asked for them."""
    name, title, every = "detectors", "What tells poison from clean rows and from noise", list(told(runs))
    if len(every) > MOST // 2:
        yield Missing(name, title, _count([one for one, _ in every], ""))
    if not 0 < len(every) <= MOST // 2:
        return
    groups, names = [one for one, _ in every], list(dict.fromkeys(name for _, found in every for name in found))
    note = f"Circles: against clean rows; crosses: against noise of equal size. Dotted: guessing. {intervals_said()}"
    with drawing(name):
        size = (5.4, 1.1 + len(names) * max(0.3, 0.15 * len(every)))
        picture = Picture(name, title, "", note, size)
        axes, said = picture.axes(xlabel="AUC, mean before the trigger"), []
        axes.axvline(0.5, color="0.6", linestyle=":", linewidth=1)
        for k, (one, found) in enumerate(every):
            for kind, marker in zip(AGAINST, "ox", strict=True):
                series = picture.add(f"{label_of(one, groups)}, against {kind}", one.runs, marker)
                y = 0.7 * ((2 * k + (kind == "noise") + 0.5) / (2 * len(every)) - 0.5)
                shown = {name: aucs[kind] for name, aucs in found.items() if kind in aucs}
                for row, value in shown.items():
                    picture.cross(axes, series, value, Estimate(names.index(row) + y, np.nan, 1, 1, ""))
                said.append(f"{series.label}: {', '.join(f'{name} {v.text(2)}' for name, v in shown.items())}")
        _rows(axes, names)
    picture.alt = f"AUC by detector. {'; '.join(said)}."
    yield picture


def harm_retention(runs: Sequence[Run], trigger: str) -> Picture | Missing:
    """Draw the harm under each attack against the learning that the same defence retains on clean streams."""
    name, title = "harm-retention", "Harm against retention"
    clean, kept = yardstick(runs), [one for one in retained_by(runs) if one[3] is not None]
    if not kept:
        reason = "R is withheld: learning on the clean streams is not told from zero; add clean runs on a shift: stream"
        missing = "no clean runs of ST and FREEZE on the same images; sweep a grid that has both"
        return Missing(name, title, reason if any(retained_by(runs)) else missing)
    pairs = [
        (one, lost, retained)
        for one in group(runs)
        if one.first.config.attack.name != "none"
        and not one.first.shifts  # accuracy before the shift is no harm there
        and (lost := over(one, lambda run: harm(run, trigger, clean))) is not None
        and (retained := _retention(one, kept)) is not None
    ]
    if not pairs:
        return Missing(name, title, f"no poisoned run with the {trigger} trigger has both its clean control and R")
    groups = [one for one, _, _ in pairs]
    note = f"Best is low and to the right: FREEZE is at R = 0, standard training at R = 1. {intervals_said()}"
    with drawing(name):
        picture = Picture(name, title, "", note)
        axes = picture.axes(xlabel="retention R of clean learning", ylabel="harm H (points of accuracy)")
        said = []
        for one, lost, retained in pairs:
            series = picture.add(
                label_of(one, groups), one.runs, "x" if one.first.config.attack.name == "noise" else None
            )
            picture.cross(axes, series, retained, as_points(lost))
            said.append(f"{series.label}: H {lost.text(1, 100)} points, R {retained.text(2)}")
        axes.axhline(0, color="0.5", linewidth=0.8)
    picture.alt = f"Harm against retention. {'; '.join(said)}."
    return picture


def _retention(
    experiment: Group, kept: Sequence[tuple[Group, Mapping[Pair, float], Mapping[Pair, float], Estimate | None]]
) -> Estimate | None:
    """Return the retention of a defence, on the same kind of stream where it is known there, else on another."""
    run = experiment.first
    same = [(one, retained) for one, _, _, retained in kept if one.first.defense == run.defense]
    same.sort(key=lambda entry: entry[0].first.config.stream.kind != run.config.stream.kind)
    return same[0][1] if same else None


def as_points(value: Estimate) -> Estimate:
    """Return an estimate of a fraction in percentage points."""
    scaled = tuple(100 * one for one in value.values)
    return Estimate(100 * value.mean, 100 * value.half, value.burnins, value.runs, value.over, scaled)


def _accuracy(when: str, kind: str, trigger: str) -> Value:
    key = "acc" if not kind else "acc_bn_reestimated"
    if when == "before":
        return lambda run: run.summary.get("before", {}).get(key)
    return lambda run: run.after(trigger, key)


def intervals_said() -> str:
    """Return what a figure says of its intervals."""
    return f"Thin lines: {BAND}."


def _rows(axes: Axes, labels: Sequence[str]) -> None:
    axes.set_yticks(range(len(labels)), [textwrap.fill(label, 26) for label in labels], fontsize="small")
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")


def _count(groups: Sequence[Group], none: str) -> str:
    return f"{len(groups)} experiments are too many for one figure; report fewer runs at once" if groups else none
