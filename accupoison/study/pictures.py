"""A figure with what readers need beside it: words for those who cannot see it, values to hover over, its runs."""

import math
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from accupoison.study.collect import Run
from accupoison.study.colors import MARKERS, color_of, style_of
from accupoison.study.outcomes import FEWEST, Estimate

BAND = f"95% t-interval over base models, or over streams of one base model; below n = {FEWEST} each value by itself"
DPI = 160


@dataclass(frozen=True)
class Series:
    """What one entry of a legend stands for.

    Attributes:
        label: In the legend.
        color: Of the defence.
        style: Of lines: "-", "--", ":" or "".
        marker: Of points.
        runs: What is drawn.
    """

    label: str
    color: str
    style: Any
    marker: str
    runs: tuple[Run, ...]


@dataclass
class Picture:
    """A figure under construction.

    Attributes:
        name: Of its files.
        title: Above it.
        alt: What it shows, for those who do not see it.
        note: What its marks mean.
        series: In the order of the legend.
        tips: What to say of each point of an artist, by the artist's id.
        figure: The figure.
    """

    name: str
    title: str
    alt: str
    note: str
    size: tuple[float, float] = (5.4, 3.5)
    series: list[Series] = field(default_factory=list)
    tips: dict[str, list[str]] = field(default_factory=dict)
    figure: Figure = field(init=False)

    def __post_init__(self) -> None:
        self.figure = Figure(figsize=self.size, layout="constrained")

    def axes(self, **labels: Any) -> Axes:  # noqa: ANN401
        """Return new axes over the whole figure, with a light grid; ``labels`` are for :meth:`Axes.set`."""
        axes = self.figure.add_subplot()
        axes.grid(linewidth=0.5, alpha=0.35)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set(**labels)
        return axes

    def add(self, label: str, runs: Sequence[Run], marker: str | None = None) -> Series:
        """Return a new series, in its defence's colour and its attack's style.

        Args:
            label: In the legend.
            runs: What it is about: runs of one defence and one attack.
            marker: Of points; None is the first that tells it from series of the same colour and style.
        """
        config = runs[0].config
        color, style = color_of(config.defense.name), style_of(config.attack.name)
        alike = Counter((other.color, other.style) for other in self.series)[color, style]
        return self.enter(Series(label, color, style, marker or MARKERS[alike % len(MARKERS)], tuple(runs)))

    def enter(self, series: Series) -> Series:
        """Return a series, which is now in the legend."""
        self.series.append(series)
        return series

    def mark(self, series: Series, tips: Sequence[str] = ()) -> str:
        """Return an id for an artist of a series, which a page can hide and whose points say ``tips``."""
        gid = f"s{self.series.index(series)}"
        if tips:
            gid += f"p{len(self.tips)}"
            self.tips[gid] = list(tips)
        return gid

    def cross(self, axes: Axes, series: Series, x: Estimate, y: Estimate) -> None:
        """Draw a point with its intervals; below three units, each pair of values.

        Args:
            axes: Where.
            series: Whose.
            x: Its x, with its interval.
            y: Its y.
        """
        for value_x, value_y in [(x.mean, y.mean)] if interval(x) or interval(y) else pairs(x, y):
            tip = f"{series.label}: {value_x:.3g}, {value_y:.3g}"
            gid = self.mark(series, [tip])
            axes.plot([value_x], [value_y], color=series.color, marker=series.marker, linestyle="", gid=gid)
        for ends in ("xerr", "yerr"):
            if interval(x if ends == "xerr" else y):
                half = (x if ends == "xerr" else y).half
                self.bar(axes, series, (x.mean, y.mean), ends, half)

    def bar(self, axes: Axes, series: Series, at: tuple[float, float], ends: str, half: float) -> None:
        """Draw an interval.

        Args:
            axes: Where.
            series: Whose.
            at: The point's x and y.
            ends: "xerr" or "yerr".
            half: Half its width.
        """
        dx, dy = (half, 0) if ends == "xerr" else (0, half)
        x, y = at
        gid = self.mark(series)
        axes.plot([x - dx, x + dx], [y - dy, y + dy], color=series.color, linewidth=1.2, gid=gid, marker="")

    def save(self, file: IO[bytes], kind: str) -> None:
        """Write the figure with its legend.

        Args:
            file: Gets it.
            kind: "png", "svg" or "pdf".
        """
        with drawing(self.name):
            handles = [
                Line2D([], [], color=one.color, linestyle=one.style, marker=one.marker, markersize=4, label=one.label)
                for one in self.series
            ]
            columns = 1 if max((len(one.label) for one in self.series), default=0) > 40 else 2
            width, height = self.size
            self.figure.set_size_inches(width, height + 0.19 * math.ceil(len(handles) / columns))
            legend = self.figure.legend(handles=handles, loc="outside lower center", fontsize="small", ncols=columns)
            legend.set_frame_on(False)
            axes = self.figure.axes[0]
            axes.set_title(self.title, fontsize="medium")
            metadata = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[kind]
            self.figure.savefig(file, format=kind, dpi=DPI, metadata=metadata)
            legend.remove()
            axes.set_title("")
            self.figure.set_size_inches(*self.size)


@dataclass(frozen=True)
class Missing:
    """A figure that the runs have nothing for.

    Attributes:
        name: Of the figure.
        title: Above it.
        reason: Why it is not there, and what to do about it.
    """

    name: str
    title: str
    reason: str


def interval(value: Estimate) -> bool:
    """Return whether an estimate has an interval to draw."""
    return math.isfinite(value.half)


def pairs(x: Estimate, y: Estimate) -> list[tuple[float, float]]:
    """Return the values of two estimates side by side, or their means where they are not over the same units."""
    same = len(x.values) == len(y.values) and len(x.values) > 0
    return list(zip(x.values, y.values, strict=True)) if same else [(x.mean, y.mean)]


@contextmanager
def drawing(name: str) -> Iterator[None]:
    """Draw so that the same figure gives the same bytes, its text stays text, and a dollar sign is no formula."""
    settings: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": f"accupoison {name}",
        "pdf.fonttype": 42,
        "text.parse_math": False,
        "font.size": 10.5,
        "font.family": "DejaVu Sans",
    }
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a name in letters that the font lacks: browsers have them
        yield
