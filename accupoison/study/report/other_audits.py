"""Audits that are no run's own: shadow models, replays, files of predictions, the cells of the challenge."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from accupoison.errors import InputError
from accupoison.records.files import expect, read_json
from accupoison.study.colors import OTHERS
from accupoison.study.pictures import Missing, Picture, Series, drawing
from accupoison.study.report.audits import AUDIT, Table, columns, lines
from accupoison.study.report.exposure import rate_axes, rate_line
from accupoison.study.tables import Row

MOST = len(OTHERS)
"""Attacks in a figure: those with the highest AUC; one whose curve is another one's is left out."""
CAPTION = """\
Members told by attacks on models whose training set is known: means and standard deviations over the models of an
audit, or of one model with 95% intervals. The figures show the attacks with the highest AUC."""
BELOW = ("*", "*/shadow-replays-*", "*/worlds-*", "results/*")
"""Where below a directory audits may be, beside the directory itself."""


@dataclass(frozen=True)
class Audited:
    """An audit of models whose members are known.

    Attributes:
        path: Its directory.
        models: How many models.
        aucs: Mean AUC by attack, the highest first.
        rows: Of its table.
        curves: By attack: ``fpr`` and ``tpr``, and of several models ``half``; empty in audits of older versions.
        scores: By attack: ``low`` and ``high`` of bins, and how many ``members`` and ``others`` are in each.
        flags: A sentence for each control that fails.
    """

    path: Path
    models: int
    aucs: dict[str, float]
    rows: tuple[dict[str, str], ...]
    curves: dict[str, Table]
    scores: dict[str, Table]
    flags: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The last two parts of the path."""
        return "/".join(self.path.resolve().parts[-2:])


def read_audited(paths: Sequence[Path], leave_out: Callable[[str], None]) -> list[Audited]:
    """Return the audits in and below directories; ``leave_out`` is told of damaged ones.

    Args:
        paths: Directories.
        leave_out: Gets a sentence.
    """
    places = [place for path in paths for place in (path, *(found for how in BELOW for found in path.glob(how)))]
    audits, todo = [], sorted({place.resolve(): place for place in places if (place / AUDIT).exists()}.values())
    for place in todo:
        try:
            content = read_json(place / AUDIT)
            if "attacks" in content:
                audits.append(_read(place, content))
            if not {"trigger", "groups"} <= set(content):  # else it is of a run, whose figures are over runs
                todo += sorted(group for group in place.glob("*") if (group / AUDIT).exists() and group not in todo)
        except (InputError, ValueError, LookupError, TypeError) as error:
            leave_out(f"the audit in {place} is left out: {error}")
    return sorted(audits, key=lambda audit: audit.path.resolve())


def _read(place: Path, content: dict[str, Any]) -> Audited:
    several = all(isinstance(attack, dict) and "target_models" in attack for attack in content["attacks"])
    expect(place / AUDIT, content, {"controls?": {"flags?": list}})
    for attack in content["attacks"]:
        expect(place / AUDIT, attack, {"attack": str, **({"auc": list} if several else {"roc": {"auc": float}})})
    aucs = {one["attack"]: fmean(one["auc"]) if several else one["roc"]["auc"] for one in content["attacks"]}
    models = len(content["attacks"][0]["auc"]) if several else 1
    ordered = dict(sorted(aucs.items(), key=lambda entry: -entry[1]))
    rows = tuple(lines(place / "audit.csv"))
    flags = tuple(content.get("controls", {}).get("flags", ()))
    return Audited(place, models, ordered, rows, columns(place / "roc.csv"), columns(place / "scores.csv"), flags)


def audited_rows(audits: Sequence[Audited]) -> list[Row]:
    """Return a row for each attack of each audit, with the columns of all of them."""
    keys = list(dict.fromkeys(key for audit in audits for row in audit.rows for key in row))
    return [
        Row({"audit": audit.title, **{key: row.get(key, "") for key in keys}}, ())
        for audit in audits
        for row in audit.rows
    ]


def sentence(audits: Sequence[Audited]) -> str:
    """Return the finding of a report that is of audits alone."""
    best = max(audits, key=lambda audit: max(audit.aucs.values()))
    attack, auc = next(iter(best.aucs.items()))
    models = "one model" if best.models == 1 else f"mean over {best.models} models"
    flagged = "".join(f" FLAGGED: {flag}." for flag in best.flags)
    return f"Members are told best in {best.title}: by {attack} with an AUC of {auc:.3f} ({models}).{flagged}"


def audited_pictures(audits: Sequence[Audited]) -> Iterator[Picture | Missing]:
    """Yield the ROC curves and the histogram of scores of each audit."""
    first = (attack for audit in audits for attack in list(audit.aucs)[:MOST])
    names = list(dict.fromkeys([*first, *(attack for audit in audits for attack in _shown(audit))]))  # by colour
    for number, audit in enumerate(audits):
        roc, hist = f"audit-{number}-roc", f"audit-{number}-scores"
        titles = [f"{what}: {audit.title}" for what in ("Who can be told", "Scores of members and others")]
        if not audit.curves or not audit.scores:
            reason = f"{audit.path} has no curves, as older versions wrote none; give the audit's command again"
            yield from (Missing(name, title, reason) for name, title in zip((roc, hist), titles, strict=True))
            continue
        yield _roc(audit, roc, titles[0], names)
        yield _histogram(audit, hist, titles[1])


def _shown(audit: Audited) -> list[str]:
    """Return the attacks that are drawn: of those with one and the same curve, the first."""
    apart: dict[bytes, str] = {}
    for attack in audit.aucs:
        if attack in audit.curves:
            apart.setdefault(audit.curves[attack]["tpr"].tobytes(), attack)
    return list(apart.values())[:MOST]


def _roc(audit: Audited, name: str, title: str, names: Sequence[str]) -> Picture:
    shown = _shown(audit)
    several = "half" in audit.curves[shown[0]]
    means = f"Lines: means over {audit.models} models. Band: 95% t-interval over models, best attack. "
    flagged = "".join(f" FLAGGED: {flag}." for flag in audit.flags)
    note = f"{means if several else ''}Dotted: guessing. From {audit.path}.{flagged}"
    with drawing(name):
        picture = Picture(name, title, "", note, (5.4, 4.2))
        axes = rate_axes(picture)
        for attack in shown:
            place = names.index(attack)
            style = ("-", "--", ":")[place // MOST % 3]
            series = picture.enter(Series(f"{attack} ({audit.aucs[attack]:.3f})", OTHERS[place % MOST], style, "", ()))
            curve = audit.curves[attack]
            half = curve.get("half") if attack == shown[0] else None
            rate_line(picture, axes, series, (curve["fpr"], curve["tpr"]), half)
    said = "; ".join(f"{attack}: AUC {audit.aucs[attack]:.3f}" for attack in shown)
    picture.alt = f"ROC curves of {audit.title} on logarithmic axes. {said}."
    return picture


def _histogram(audit: Audited, name: str, title: str) -> Picture:
    attack = next(attack for attack in audit.aucs if attack in audit.scores)
    bins = audit.scores[attack]
    edges = np.append(bins["low"], bins["high"][-1])
    note = f"Of the {attack} attack. The outermost bars hold what lies beyond them. From {audit.path}."
    said = []
    with drawing(name):
        picture = Picture(name, title, "", note)
        axes = picture.axes(xlabel=f"score of the {attack} attack", ylabel="share of its kind (%)")
        for kind, color in (("members", OTHERS[5]), ("others", OTHERS[1])):
            share = 100 * bins[kind] / max(bins[kind].sum(), 1)
            series = picture.enter(Series(f"{kind} ({bins[kind].sum():.0f})", color, "-", "", ()))
            axes.stairs(share, edges, fill=True, color=color, alpha=0.45, gid=picture.mark(series))
            middle = edges[int(np.searchsorted(np.cumsum(share), 50))]
            said.append(f"half of the {kind} score below about {middle:.3g}")
    picture.alt = f"Histogram of the scores of {attack} in {audit.title}: {', '.join(said)}."
    return picture
