"""What an audit leaves: JSON, CSV, figures, and an event file for TensorBoard."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.image
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch.utils.tensorboard import SummaryWriter

from accupoison.audit.calibration import best_rows
from accupoison.audit.controls import control_rows, flags
from accupoison.audit.curves import FLOOR, roc_of, roc_rows, score_rows
from accupoison.audit.results import AttackResult, Results, by_attack, released_table, spread_table, table
from accupoison.audit.roc import clopper_pearson
from accupoison.records.files import write_atomically, write_csv, write_json, writing
from accupoison.records.run_directory import RunDirectory
from accupoison.study.tables import table_text


def write_results(
    folder: Path, results: Results, controls: Mapping[str, Any]
) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """Write what the attacks achieve on one model.

    Args:
        folder: Gets ``audit.json``, ``audit.csv``, ``roc.png``, ``roc.csv``, ``scores.png``, ``scores.csv`` and an
            event file; made if it is not there.
        results: By attack.
        controls: Of the audit; see :mod:`accupoison.audit.controls`. They get a table of their own, ``controls.csv``.

    Returns:
        The contents of ``audit.json``, and the rows of the table.

    Raises:
        InputError: A file cannot be written.
    """
    best = max(results.values(), key=lambda result: result.roc.auc)
    save_figure(_roc(results, best), folder / "roc.png")
    save_figure(_histogram(best), folder / "scores.png")
    content: dict[str, Any] = {"samples": len(best.score), "controls": with_flags(controls)}
    content |= {"attacks": [result.as_dict() for result in results.values()]}
    return _write(folder, [results], content, table(results), ("roc.png", "scores.png"))


def write_released(
    folder: Path, attackers: Mapping[str, Results], facts: Mapping[str, Any], controls: Mapping[str, Any]
) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """Write what the attacks of several attackers achieve on what leaves one model.

    Args:
        folder: Gets the files of :func:`write_results`, of the adaptive attacker, and ``attackers.csv``; ``audit.json``
            has all attackers.
        attackers: Of :func:`accupoison.audit.attack_suite.audit_released`.
        facts: What ``audit.json`` says of the release.
        controls: See :func:`write_results`.

    Returns:
        The contents of ``audit.json``, and the rows of ``attackers.csv``.

    Raises:
        InputError: A file cannot be written.
    """
    content, _ = write_results(folder, attackers["adaptive"], controls)
    others = {
        name: [result.as_dict() for result in results.values()]
        for name, results in attackers.items()
        if name != "adaptive"
    }
    content |= {"release": dict(facts), "attackers": others}
    write_json(folder / "audit.json", content)
    rows = released_table(attackers)
    write_csv(folder / "attackers.csv", rows)
    return content, rows


def write_models(
    folder: Path,
    models: Sequence[Results],
    facts: Mapping[str, Any],
    controls: Mapping[str, Any],
    *,
    crossed: bool = False,
    columns: Mapping[str, Mapping[str, str]] | None = None,
) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """Write what the attacks achieve on several models.

    Args:
        folder: Gets ``audit.json``, ``audit.csv``, ``roc.csv``, ``scores.csv`` and an event file; made if it is not
            there.
        models: What they achieve on each model.
        facts: What ``audit.json`` says beside the attacks.
        controls: See :func:`write_results`.
        crossed: The models attack each other; see :func:`accupoison.audit.results.by_attack`.
        columns: Further cells of the table, by attack.

    Returns:
        The contents of ``audit.json``, and the rows of the table, best attack first.

    Raises:
        InputError: A file cannot be written.
    """
    attacks = by_attack(models, crossed=crossed)
    rows = [{**row, **(columns or {}).get(row["attack"], {})} for row in spread_table(attacks)]
    return _write(folder, models, {**facts, "controls": with_flags(controls), "attacks": attacks}, rows)


def with_flags(controls: Mapping[str, Any]) -> dict[str, Any]:
    """Return the controls of an audit as JSON holds them, with a sentence for each that fails."""
    return {**controls, "flags": flags(controls)}


def all_rows(content: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the controls of the contents of an ``audit.json`` as rows for people."""
    several = "exposed" in content["attacks"][0]
    return [*control_rows(content["controls"]), *(best_rows(content["attacks"]) if several else [])]


def _write(
    folder: Path,
    models: Sequence[Results],
    content: dict[str, Any],
    rows: list[dict[str, str]],
    pictures: Iterable[str] = (),
) -> tuple[dict[str, Any], list[dict[str, str]]]:
    write_json(folder / "audit.json", content)
    controls = all_rows(content)
    files = {"audit": rows, "controls": controls, "roc": roc_rows(models), "scores": score_rows(models)}
    for name, some in files.items():
        if some:
            write_csv(folder / f"{name}.csv", some)
    write_events(folder, (rows, controls), pictures=pictures)
    return content, rows


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG file; InputError if it cannot be written."""
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=120, metadata={"Software": None}))


def _roc(results: Results, best: AttackResult) -> Figure:
    """Return ROC curves on logarithmic axes, the best one with a Clopper-Pearson band of its true positive rate."""
    figure = Figure(figsize=(6, 5.5), layout="constrained")
    axes = figure.add_subplot()
    for color, (name, result) in zip(matplotlib.color_sequences["tab20"], results.items(), strict=False):
        fpr, tpr = roc_of(result)
        axes.plot(np.maximum(fpr, FLOOR), np.maximum(tpr, FLOOR), label=f"{name} ({result.roc.auc:.3f})", color=color)
        if result is best:
            low, high = _band(tpr, result.roc.members)
            axes.fill_between(np.maximum(fpr, FLOOR), np.maximum(low, FLOOR), high, color=color, alpha=0.2, linewidth=0)
    axes.plot([FLOOR, 1], [FLOOR, 1], color="0.6", linestyle=":", linewidth=1)
    axes.set(xscale="log", yscale="log", xlim=(FLOOR, 1), ylim=(FLOOR, 1))
    axes.set(xlabel="false positive rate", ylabel="true positive rate", title="AUC in brackets; band: 95%, best attack")
    axes.legend(fontsize="x-small")
    return figure


def _band(rates: NDArray[np.float64], trials: int) -> list[NDArray[np.float64]]:
    """Return both ends of the 95% interval of each rate, interpolated: an exact interval takes milliseconds."""
    hits = np.unique(np.round(trials * np.linspace(0, 1, 100) ** 2))  # closest where the axis is widest
    ends = np.array([clopper_pearson(int(count), trials) for count in hits])
    return [np.interp(rates * trials, hits, end) for end in ends.T]


def _histogram(result: AttackResult) -> Figure:
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    edges = [float(edge) for edge in np.histogram_bin_edges(result.score, bins=50)]
    for label, chosen in (("members", result.samples.member), ("others", ~result.samples.member)):
        axes.hist(result.score[chosen], bins=edges, alpha=0.5, density=True, label=label)
    axes.set(xlabel=f"score of the {result.attack} attack", ylabel="density", yscale="log")
    axes.legend()
    return figure


def write_recency(folder: Path, curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Draw AUC against the steps since a sample was learnt last, with its 95% interval, one line a score.

    Args:
        folder: Gets ``recency.png`` and an event file.
        curves: By score; see :meth:`accupoison.audit.online.run.RunAudit.by_recency`.

    Raises:
        InputError: A file cannot be written.
    """
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    by_recency = {}
    for name, points in curves.items():
        recency, aucs, intervals = (
            np.array([point[key] for point in points]) for key in ("recency", "auc", "interval")
        )
        axes.errorbar(recency, aucs, yerr=np.abs(intervals.T - aucs), label=name, marker="o", capsize=3)
        by_recency[f"{name}/auc_by_recency"] = list(zip(recency.tolist(), aucs.tolist(), strict=True))
    axes.axhline(0.5, color="0.6", linestyle=":", linewidth=1)
    axes.set(xlabel="steps since the sample was learnt last", ylabel="AUC against never-learnt samples")
    axes.legend()
    save_figure(figure, folder / "recency.png")
    write_events(folder, (), by_recency, ("recency.png",))


def write_events(
    folder: Path,
    tables: Sequence[Sequence[Mapping[str, str]]] = (),
    curves: Mapping[str, Sequence[tuple[int, float]]] | None = None,
    pictures: Iterable[str] = (),
) -> None:
    """Write an event file for TensorBoard in the place of that of an earlier audit in ``folder``.

    The file is in the directory of the run that is audited, so that a run stays one entry there, if ``folder`` is in
    one; else in ``folder``.

    Args:
        folder: Where the audit's other files are.
        tables: For the TEXT tab.
        curves: (x, value) pairs by name, such as an AUC against recency; one of a single point is left out.
        pictures: Names of PNG files in ``folder``.

    Raises:
        InputError: The file cannot be written.
    """
    home = next((at for at in reversed([folder, *folder.parents][:4]) if RunDirectory.holds_run(at)), folder)
    name = "/".join(["audit", *(part for part in folder.relative_to(home).parts if part != "audit")])
    suffix = f".{name.replace('/', '-')}"
    with writing(home):
        home.mkdir(parents=True, exist_ok=True)
        for old in home.glob("events.out.tfevents.*"):
            if old.name.endswith(suffix):
                old.unlink()
        with SummaryWriter(str(home), filename_suffix=suffix) as writer:
            if texts := [table_text(rows) for rows in tables if rows]:
                writer.add_text(f"{name}/tables", "\n\n".join(texts))
            for curve, points in (curves or {}).items():
                for x, value in points if len(points) > 1 else ():
                    writer.add_scalar(f"{name}/{curve}", value, x)
            for picture in pictures:
                image = matplotlib.image.imread(folder / picture)[..., :3]
                writer.add_image(f"{name}/{Path(picture).stem}", image, dataformats="HWC")
