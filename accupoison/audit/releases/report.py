"""What a study of releases leaves: tables, a figure, and everything in JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from accupoison.audit.releases.attackers import ATTACKERS
from accupoison.audit.releases.rows import UNDEFENDED
from accupoison.audit.releases.settings import ReleasesConfig
from accupoison.audit.releases.stages import Replicate
from accupoison.audit.writers import save_figure, write_events
from accupoison.records.files import expect, read_json, write_atomically, write_csv, write_json
from accupoison.study.outcomes import half_width
from accupoison.study.tables import markdown

CAPTION = """\
{replicates} Of each attacker, the strongest attack, by mean over replicates and in hindsight; all
attacks are in releases.csv. Unaware: directions, thresholds and network come from an undefended shadow model; adaptive:
from the shadow's answers through the same release, fitted by the attacker; informed: through the release as the
defender has fitted it, metric attacks alone; label-only: whether the label is right, which no release that keeps labels
changes. An AUC below a half is that of a
score whose direction the attacker has wrong. l1: mean change of an answer. TPR is pooled: one threshold for all samples
of a model. The time is that of a query, the model's own included; the peak memory, {peak:.0f} MB, is that of a whole
process."""
Table = list[dict[str, str]]


@dataclass(frozen=True, eq=False)
class Study:
    """The finished replicates of a study.

    Attributes:
        rows: What is known of each release, a list over replicates, by its name.
        peak: Largest memory of a process that attacked, in megabytes.
        tuned: Name of the row of DP-SGD that is shown; None without any.
        replicates: What the intervals are over, in a sentence.
    """

    rows: dict[str, list[dict[str, Any]]]
    peak: float
    tuned: str | None
    replicates: str

    @classmethod
    def read(cls, config: ReleasesConfig, out: Path) -> "Study":
        """Read the last stage's files in ``out``; InputError if one is missing or damaged."""
        paths = [Replicate(config, out, number).needs("attack") for number in range(config.study.seeds)]
        found = [read_json(path) for path in paths]
        for path, replicate in zip(paths, found, strict=True):
            expect(path, replicate, {"rows": list, "peak_megabytes": float})
        rows = {one["name"]: [replicate["rows"][i] for replicate in found] for i, one in enumerate(found[0]["rows"])}
        over = "models and splits" if config.parts.order == "seeded" else "models on the same split"
        words = f"± is half a 95% t-interval over {len(found)} replicates: {over}."
        peak = max(replicate["peak_megabytes"] for replicate in found)
        return cls(rows, peak, _tuned(rows, config.private.accuracy_loss), words if found[1:] else "One replicate.")

    @property
    def changed(self) -> dict[str, float]:
        """The least share of labels that a release kept which promises to keep all, if it did not, by its name."""
        kept = {n: min(r["labels_kept"] if r.get("keeps_label") else 1.0 for r in rs) for n, rs in self.rows.items()}
        return {name: share for name, share in kept.items() if share < 1}

    def values(self, name: str, attacker: str, attack: str | None = None, key: str = "auc") -> list[float]:
        """Return a number of an attack in each replicate.

        Args:
            name: Of the release.
            attacker: Of ``ATTACKERS``.
            attack: Of those that the attacker has; None for the strongest by this number or, of rates, by AUC.
            key: Of :func:`accupoison.audit.releases.attackers.figures`.
        """
        used = self.best(name, attacker, key) if attack is None else attack
        return [row["attackers"][attacker][used][key] for row in self.rows[name]]

    def best(self, name: str, attacker: str, key: str = "auc") -> str:
        """Return an attacker's strongest attack on a release, by the mean of a number.

        Args:
            name: Of the release.
            attacker: Of ``ATTACKERS``.
            key: "balanced_accuracy"; all others go by AUC.
        """
        by = key if key == "balanced_accuracy" else "auc"
        attacks: dict[str, Any] = self.rows[name][0]["attackers"][attacker]
        return max(attacks, key=lambda attack: float(np.mean(self.values(name, attacker, attack, by))))


def _tuned(rows: Mapping[str, Sequence[Mapping[str, Any]]], loss: float) -> str | None:
    """Return the row of DP-SGD with the lowest AUC among those about as accurate as the undefended model.

    Where none is, the most accurate.
    """
    private = [name for name, found in rows.items() if found[0]["family"] == "dpsgd"]
    accuracy = {name: np.mean([row["test_accuracy"] for row in rows[name]]) for name in (UNDEFENDED, *private)}
    near = [name for name in private if accuracy[name] > accuracy[UNDEFENDED] - loss]
    if near:
        return min(near, key=lambda name: max(_aucs(rows[name])))
    return max(private, key=lambda name: accuracy[name], default=None)


def _aucs(found: Sequence[Mapping[str, Any]]) -> list[float]:
    attacks = found[0]["attackers"]["adaptive"]
    return [float(np.mean([row["attackers"]["adaptive"][attack]["auc"] for row in found])) for attack in attacks]


def summary_table(study: Study) -> Table:
    """Return one row a release, for people: what it costs, and what each attacker still achieves."""
    table = []
    for name, found in study.rows.items():
        if found[0]["family"] == "dpsgd" and name != study.tuned:
            continue
        epsilon = found[0].get("epsilon")
        cells = {
            "release": name if epsilon is None else f"{name} (no release; epsilon {epsilon:.3g})",
            **{title: _spread(found, key) for title, key in FACTS.items()},
            "labels kept": f"{min(row['labels_kept'] for row in found):.2%}" if "labels_kept" in found[0] else "",
        }
        for attacker in ATTACKERS:
            cells[f"{attacker} AUC"] = _strongest(study, name, attacker, "auc")
        for attacker in (*ATTACKERS[:2], "informed"):
            knows = attacker in found[0]["attackers"]
            text = _strongest(study, name, attacker, "balanced_accuracy") if knows else ""
            cells[f"{attacker} balanced accuracy"] = text
        for attacker in ATTACKERS[:2]:
            cells[f"{attacker} TPR at 1% FPR (pooled)"] = spread(study.values(name, attacker, key="tpr@0.01"))
        seconds = [row["seconds_per_query"] for row in found if "seconds_per_query" in row]
        table.append({**cells, "ms a query": f"{1000 * np.mean(seconds):.2f}" if seconds else ""})
    return table


FACTS = {
    "train accuracy": "train_accuracy",
    "test accuracy": "test_accuracy",
    "l1 members": "l1_members",
    "l1 others": "l1_others",
}


def attack_table(study: Study) -> Table:
    """Return one row for each release, attacker and attack, with means and half-widths in columns of their own."""
    keys = ("auc", "balanced_accuracy", "balanced_accuracy_per_class", "tpr@0.1", "tpr@0.01", "tpr@0.001")
    table = []
    for name, found in study.rows.items():
        for attacker, attacks in found[0]["attackers"].items():
            for attack in attacks:
                row = {"release": name, "attacker": attacker, "attack": attack}
                for key in keys:
                    numbers = study.values(name, attacker, attack, key)
                    known = None not in numbers
                    title = f"{key} (pooled)" if key.startswith("tpr") else key
                    row[title] = f"{np.mean(numbers):.4f}" if known else "withheld"
                    row[f"{title} ±"] = f"{half_width(numbers):.4f}" if known else ""
                table.append(row)
    return table


def _strongest(study: Study, name: str, attacker: str, key: str) -> str:
    return f"{spread(study.values(name, attacker, key=key))} {study.best(name, attacker, key)}"


def spread(numbers: Sequence[float | None]) -> str:
    """Return the mean of numbers over replicates, with half its 95% t-interval."""
    known = [number for number in numbers if number is not None]
    if len(known) < len(numbers):
        return "withheld"
    return f"{np.mean(known):.3f}" + (f" ± {half_width(known):.3f}" if len(known) > 1 else "")


def _spread(found: Sequence[Mapping[str, Any]], key: str) -> str:
    return spread([row[key] for row in found]) if key in found[0] else ""


def write_study(config: ReleasesConfig, out: Path) -> tuple[Study, Table, str]:
    """Write ``releases.json``, ``releases.csv``, ``releases.md``, ``releases.png`` and an event file.

    Args:
        config: All settings.
        out: The directory of the study, whose stages are all done.

    Returns:
        The study, the rows of the summary, and what is to be said about them.

    Raises:
        InputError: A replicate is missing or damaged, or a file cannot be written.
    """
    study = Study.read(config, out)
    summary, attacks = summary_table(study), attack_table(study)
    caption = CAPTION.format(replicates=study.replicates, peak=study.peak)
    tables = [markdown(list(rows[0]), [list(row.values()) for row in rows]) for rows in (summary, attacks)]
    text = f"{tables[0]}\n\n{caption}\n\n{tables[1]}\n"
    write_atomically(out / "releases.md", lambda file: file.write(text.encode()))
    write_csv(out / "releases.csv", attacks)
    about = {"replicates": config.study.seeds, "peak_megabytes": study.peak, "tuned": study.tuned}
    write_json(out / "releases.json", {**about, "broken_promises": study.changed, "rows": study.rows})
    save_figure(figure(study), out / "releases.png")
    write_events(out, [attacks], pictures=["releases.png"])
    return study, summary, caption


def figure(study: Study) -> Figure:
    """Return AUC against distortion: three lines a defence with budgets, three marks for one without."""
    picture = Figure(figsize=(8, 5), layout="constrained")
    axes = picture.add_subplot()
    families: dict[str, list[str]] = {}
    for name, found in study.rows.items():
        if found[0]["family"] not in (UNDEFENDED, "dpsgd"):
            families.setdefault(found[0]["family"], []).append(name)
    styles: dict[str, Any] = dict(zip(ATTACKERS, ("-", "--", ":"), strict=True))
    marks = dict(zip(ATTACKERS, ("o", "s", "^"), strict=True))
    colors = matplotlib.color_sequences["tab10"]
    for number, names in enumerate(families.values()):
        points = sorted((float(np.mean([_moved(row) for row in study.rows[name]])), name) for name in names)
        for attacker in ATTACKERS:
            aucs = [study.values(name, attacker) for _, name in points]
            axes.errorbar(
                [distortion for distortion, _ in points],
                [float(np.mean(one)) for one in aucs],
                None if len(aucs[0]) < 2 else [half_width(one) for one in aucs],
                color=colors[number % len(colors)],
                linestyle=styles[attacker] if len(points) > 1 else "",
                marker=marks[attacker],
                markersize=4,
                capsize=2,
                linewidth=1.2,
            )
    at: dict[str, Any] = {"ha": "right", "va": "bottom", "fontsize": "x-small"}
    for level_of, style in ((UNDEFENDED, "-."), (study.tuned, (0, (1, 3)))):
        if level_of is not None:
            level = float(np.mean(study.values(level_of, "adaptive")))
            axes.axhline(level, color="0.3", linewidth=1, linestyle=style)
            label = "undefended" if level_of == UNDEFENDED else f"{level_of}, adaptive"
            axes.annotate(label, (0.99, level), xycoords=("axes fraction", "data"), **at)
    axes.axhline(0.5, color="0.8", linewidth=1)
    axes.set(xlabel="distortion: mean l1 change of an answer", ylabel="AUC of the strongest attack")
    shown = [Line2D([], [], color=colors[number % len(colors)], label=name) for number, name in enumerate(families)]
    shown += [
        Line2D([], [], color="0.3", linestyle=styles[a], marker=marks[a], markersize=4, label=a) for a in ATTACKERS
    ]
    axes.legend(handles=shown, fontsize="x-small")
    return picture


def _moved(row: Mapping[str, float]) -> float:
    return (row["l1_members"] + row["l1_others"]) / 2
