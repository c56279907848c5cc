"""What an audit leaves: JSON, CSV, figures, and an event file for TensorBoard."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.image
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import stats
from sklearn.metrics import roc_curve
from torch.utils.tensorboard import SummaryWriter

from accupoison.audit.attack_suite import Outcome
from accupoison.audit.challenge.answer import Cell
from accupoison.audit.roc import RocSummary
from accupoison.audit.samples import AttackResult, Samples, table
from accupoison.records.files import write_atomically, write_json, writing

FLOOR = 1e-4
"""Where the axes of the ROC figure begin."""


def write_results(
    folder: Path, results: Sequence[AttackResult], scores: dict[str, NDArray[np.float64]], samples: Samples
) -> None:
    """Write ``audit.json``, ``audit.csv``, ``roc.png``, ``scores.png`` and an event file in ``folder``.

    Args:
        folder: A directory; made if it is not there.
        results: What the attacks achieve.
        scores: Their scores on ``samples``, by attack.
        samples: The samples reported.

    Raises:
        InputError: A file cannot be written.
    """
    write_json(folder / "audit.json", {"samples": len(samples.labels), "attacks": [one.as_dict() for one in results]})
    write_csv(folder / "audit.csv", table(list(results)))
    save_figure(_roc(results, scores, samples), folder / "roc.png")
    best = max(results, key=lambda one: one.roc.auc).attack
    save_figure(_histogram(best, scores[best], samples), folder / "scores.png")
    values = {f"{one.attack}/auc": one.roc.auc for one in results}
    values |= {f"{one.attack}/balanced_accuracy": one.balanced_accuracy for one in results}
    write_events(folder, values, pictures=("roc.png", "scores.png"))


def write_victims(folder: Path, outcomes: Sequence[Outcome], facts: Mapping[str, Any]) -> list[dict[str, str]]:
    """Write ``audit.json``, ``audit.csv`` and an event file in ``folder``; return the table's rows, best attack first.

    Raises:
        InputError: A file cannot be written.
    """
    attacks = [asdict(one) for one in outcomes]
    write_json(folder / "audit.json", {**facts, "attacks": attacks})
    ordered = sorted(outcomes, key=lambda one: -float(np.mean(one.auc)))
    rows = [
        {
            "attack": one.attack,
            "accuracy": _spread(one.accuracy),
            "AUC": _spread(one.auc),
            "TPR at 1.0% FPR": "withheld" if None in one.tpr else _spread([t for t in one.tpr if t is not None]),
        }
        for one in ordered
    ]
    write_csv(folder / "audit.csv", rows)
    values = {f"{one.attack}/auc": float(np.mean(one.auc)) for one in outcomes}
    write_events(folder, values | {f"{one.attack}/accuracy": float(np.mean(one.accuracy)) for one in outcomes})
    return rows


def _spread(values: Sequence[float]) -> str:
    return f"{np.mean(values):.3f}" + (f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else "")


def write_csv(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    """Write rows with the same keys as a CSV file; InputError if it cannot be written."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, lambda file: file.write(text.getvalue().encode()))


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG file; InputError if it cannot be written."""
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=120, metadata={"Software": None}))


def _roc(results: Sequence[AttackResult], scores: dict[str, NDArray[np.float64]], samples: Samples) -> Figure:
    """Return ROC curves on logarithmic axes, the best one with a Clopper-Pearson band of its true positive rate."""
    figure = Figure(figsize=(6, 5.5), layout="constrained")
    axes = figure.add_subplot()
    best, members = max(results, key=lambda one: one.roc.auc), int(samples.member.sum())
    for color, one in zip(matplotlib.color_sequences["tab20"], results, strict=False):
        fpr, tpr, _ = roc_curve(samples.member, stats.rankdata(scores[one.attack]))
        axes.plot(
            np.maximum(fpr, FLOOR), np.maximum(tpr, FLOOR), label=f"{one.attack} ({one.roc.auc:.3f})", color=color
        )
        if one is best:
            hits = np.round(tpr * members)
            low = np.nan_to_num(stats.beta.ppf(0.025, hits, members - hits + 1), nan=0.0)
            high = np.nan_to_num(stats.beta.ppf(0.975, hits + 1, members - hits), nan=1.0)
            axes.fill_between(np.maximum(fpr, FLOOR), np.maximum(low, FLOOR), high, color=color, alpha=0.2, linewidth=0)
    axes.plot([FLOOR, 1], [FLOOR, 1], color="0.6", linestyle=":", linewidth=1)
    axes.set(xscale="log", yscale="log", xlim=(FLOOR, 1), ylim=(FLOOR, 1))
    axes.set(xlabel="false positive rate", ylabel="true positive rate", title="AUC in brackets; band: 95%, best attack")
    axes.legend(fontsize="x-small")
    return figure


def _histogram(name: str, score: NDArray[np.float64], samples: Samples) -> Figure:
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    edges = np.histogram_bin_edges(score, bins=50)
    for label, chosen in (("members", samples.member), ("others", ~samples.member)):
        axes.hist(score[chosen], bins=[float(edge) for edge in edges], alpha=0.5, density=True, label=label)
    axes.set(xlabel=f"score of the {name} attack", ylabel="density", yscale="log")
    axes.legend()
    return figure


def write_challenge(folder: Path, found: Sequence[Cell]) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """Write ``task{1,2,3}_MODEL_DATASET.npy``, a picture a cell and ``result.json``; return the last one's contents.

    Raises:
        InputError: A file cannot be written.
    """
    result: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for cell in found:
        name = f"{cell.model}_{cell.dataset}"
        for task, answer in ((1, cell.predicted), (2, cell.predicted), (3, cell.correct)):
            write_atomically(folder / f"task{task}_{name}.npy", lambda file, to=answer: np.save(file, to))  # type: ignore[misc]
        result.setdefault(cell.model, {})[cell.dataset] = {
            metric: {"max_acc": m.max_acc, "threshold": m.threshold, "cross_validated_acc": m.cross_validated}
            for metric, m in cell.metrics.items()
        }
        save_figure(_accuracies(cell), folder / f"accuracy_{name}.png")
    write_json(folder / "result.json", result)
    return result


def _accuracies(cell: Cell) -> Figure:
    """Return accuracy against threshold; thresholds are shares of the samples below, so that metrics fit one axis."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    for name, metric in cell.metrics.items():
        order = np.argsort(metric.score)
        member = cell.member[order]
        right = np.concatenate([[0], np.cumsum(~member)]) + member.sum() - np.concatenate([[0], np.cumsum(member)])
        share = np.linspace(0, 1, len(member) + 1)
        axes.plot(share, right / len(member), label=f"{name} ({metric.cross_validated:.3f})")
    axes.set(xlabel="share of samples with a score below the threshold", ylabel="accuracy")
    axes.set_title(f"{cell.model} on {cell.dataset}; cross-validated accuracy in brackets")
    axes.legend()
    return figure


def write_ages(folder: Path, curves: Mapping[str, Sequence[tuple[int, RocSummary]]]) -> None:
    """Draw AUC against the steps since a sample was learnt last, with its 95% interval, one line a score.

    Writes ``age.png`` and an event file in ``folder``.

    Raises:
        InputError: A file cannot be written.
    """
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    for name, points in curves.items():
        ages, aucs = [age for age, _ in points], np.array([one.auc for _, one in points])
        low, high = (np.array([one.intervals["auc"][side] for _, one in points]) for side in (0, 1))
        axes.errorbar(ages, aucs, yerr=(aucs - low, high - aucs), label=name, marker="o", capsize=3)
    axes.axhline(0.5, color="0.6", linestyle=":", linewidth=1)
    axes.set(xlabel="steps since the sample was learnt last", ylabel="AUC against never-learnt samples")
    axes.legend()
    save_figure(figure, folder / "age.png")
    by_age = {f"{name}/auc_by_age": [(age, one.auc) for age, one in points] for name, points in curves.items()}
    write_events(folder, {}, by_age, ("age.png",))


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
        curves: (x, value) pairs by name, such as an AUC against ages.
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
