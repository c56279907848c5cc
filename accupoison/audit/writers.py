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

from accupoison.audit.curves import FLOOR, roc_of, roc_rows, score_rows
from accupoison.audit.results import AttackResult, Results, by_attack, released_table, spread_table, table
from accupoison.audit.roc import clopper_pearson
from accupoison.records.files import write_atomically, write_csv, write_json, writing


def write_results(folder: Path, results: Results) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """Write what the attacks achieve on one model.

    Args:
        folder: Gets ``audit.json``, ``audit.csv``, ``roc.png``, ``roc.csv``, ``scores.png``, ``scores.csv`` and an
            event file; made if it is not there.
        results: By attack.

    Returns:
        The contents of ``audit.json``, and the rows of the table.

    Raises:
        InputError: A file cannot be written.
    """
    best = max(results.values(), key=lambda result: result.roc.auc)
    save_figure(_roc(results, best), folder / "roc.png")
    save_figure(_histogram(best), folder / "scores.png")
    content = {"samples": len(best.score), "attacks": [result.as_dict() for result in results.values()]}
    return _write(folder, [results], content, table(results), ("roc.png", "scores.png"))


def write_released(
    folder: Path, attackers: Mapping[str, Results], facts: Mapping[str, Any]
) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """Write what the attacks of several attackers achieve on what leaves one model.

    Args:
        folder: Gets the files of :func:`write_results`, of the adaptive attacker, and ``attackers.csv``; ``audit.json``
            has all attackers.
        attackers: Of :func:`accupoison.audit.attack_suite.audit_released`.
        facts: What ``audit.json`` says of the release.

    Returns:
        The contents of ``audit.json``, and the rows of ``attackers.csv``.

    Raises:
        InputError: A file cannot be written.
    """
    content, _ = write_results(folder, attackers["adaptive"])
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
    folder: Path, models: Sequence[Results], facts: Mapping[str, Any], *, crossed: bool = False
) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """Write what the attacks achieve on several models.

    Args:
        folder: Gets ``audit.json``, ``audit.csv``, ``roc.csv``, ``scores.csv`` and an event file; made if it is not
            there.
        models: What they achieve on each model.
        facts: What ``audit.json`` says beside the attacks.
        crossed: The models attack each other; see :func:`accupoison.audit.results.by_attack`.

    Returns:
        The contents of ``audit.json``, and the rows of the table, best attack first.

    Raises:
        InputError: A file cannot be written.
    """
    attacks = by_attack(models, crossed=crossed)
    return _write(folder, models, {**facts, "attacks": attacks}, spread_table(attacks))


def _write(
    folder: Path,
    models: Sequence[Results],
    content: dict[str, Any],
    rows: list[dict[str, str]],
    pictures: Iterable[str] = (),
) -> tuple[dict[str, Any], list[dict[str, str]]]:
    write_json(folder / "audit.json", content)
    for name, some in (("audit.csv", rows), ("roc.csv", roc_rows(models)), ("scores.csv", score_rows(models))):
        write_csv(folder / name, some)
    values: dict[str, float] = {}
    for name in models[0]:
        results = [model[name] for model in models]
        values[f"{name}/auc"] = float(np.mean([result.roc.auc for result in results]))
        values[f"{name}/accuracy"] = float(np.mean([result.accuracy for result in results]))
        values[f"{name}/balanced_accuracy"] = float(np.mean([result.balanced_accuracy for result in results]))
    write_events(folder, values, pictures=pictures)
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
    write_events(folder, {}, by_recency, ("recency.png",))


SUFFIX = ".audit"
"""Tells an audit's event files from those of a run in the same directory."""


def write_events(
    folder: Path,
    values: Mapping[str, float],
    curves: Mapping[str, Sequence[tuple[int, float]]] | None = None,
    pictures: Iterable[str] = (),
) -> None:
    """Write an event file in ``folder`` in the place of those of an earlier audit.

    Args:
        folder: Where the audit's other files are.
        values: A number by name, such as ``loss/auc``; shown under ``audit/``.
        curves: (x, value) pairs by name, such as an AUC against recency.
        pictures: Names of PNG files in ``folder``.

    Raises:
        InputError: The file cannot be written.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob(f"events.out.tfevents.*{SUFFIX}"):
            old.unlink()
        with SummaryWriter(str(folder), filename_suffix=SUFFIX) as writer:
            for name, value in values.items():
                writer.add_scalar(f"audit/{name}", value)
            for name, points in (curves or {}).items():
                for x, value in points:
                    writer.add_scalar(f"audit/{name}", value, x)
            for name in pictures:
                image = matplotlib.image.imread(folder / name)[..., :3]
                writer.add_image(f"audit/{Path(name).stem}", image, dataformats="HWC")
