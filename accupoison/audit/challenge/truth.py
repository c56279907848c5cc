"""The challenge's answers, held to the truth where it is known."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from accupoison.audit.calibration import Calibration
from accupoison.audit.results import AttackResult, Results, evaluate_attack, interval_text
from accupoison.audit.roc import clopper_pearson
from accupoison.audit.samples import Samples
from accupoison.audit.writers import write_results
from accupoison.errors import InputError
from accupoison.records.files import holds, reason, write_csv

if TYPE_CHECKING:
    from accupoison.audit.challenge.answer import Cell

TRUTH, SCORED = "truth", "scored.csv"
LEVEL = 0.1
"""The false positive rate at which the true positive rate is told."""


def read_truth(path: Path, count: int) -> NDArray[np.bool_] | None:
    """Return who of a cell's test samples is a member, bool [N]; None where nobody says.

    Args:
        path: An .npy file of true and false, or of 1 and 0.
        count: Test samples.

    Raises:
        InputError: The file is damaged, not as above, or of another number of samples, or all are alike.
    """
    if not holds(path.exists):
        return None
    try:
        member = np.load(path, allow_pickle=False)
        if not isinstance(member, np.ndarray):
            raise ValueError("it is an archive")
    except Exception as error:  # a damaged header can raise anything
        raise InputError(f"{path} cannot be read ({reason(error)}); write it with numpy.save") from error
    if member.shape != (count,) or member.dtype.kind not in "biuf" or not np.isin(member, (0, 1)).all():
        raise InputError(
            f"{path} has {member.dtype} {list(member.shape)}, not 0 or 1 for each of the {count} test samples; mend it"
        )
    if member.all() or not member.any():
        raise InputError(f"{path} has {int(member.sum())} members of {count}; both kinds are needed to score answers")
    return member.astype(bool)


def held_to_truth(
    scores: Mapping[str, NDArray[np.float64]],
    thresholds: Mapping[str, float],
    samples: Samples,
    known: Mapping[str, Calibration],
) -> Results:
    """Return what each metric achieves on the test samples of a cell.

    Args:
        scores: By metric, float64 [N].
        thresholds: By metric, of the samples with known membership.
        samples: With the truth.
        known: By metric, what it says of the samples with known membership.
    """
    return {
        name: evaluate_attack(name, scores[name], samples, (thresholds[name], {}), known[name]) for name in thresholds
    }


def write_scored(folder: Path, cells: "Sequence[Cell]") -> list[dict[str, str]]:
    """Write how the answers of the cells with a truth do, and an audit of each.

    Args:
        folder: Gets ``scored.csv``, and a directory for each cell, as of ``audit predictions``.
        cells: The cells.

    Returns:
        The rows of ``scored.csv``; none where there is no truth.

    Raises:
        InputError: A file cannot be written.
    """
    rows = []
    for cell in cells:
        if cell.held:
            write_results(folder / f"{cell.model}_{cell.dataset}", cell.held, {})
            rows.append({"model": cell.model, "data set": cell.dataset, **_row(cell.held[cell.best])})
    if rows:
        write_csv(folder / SCORED, rows)
    return rows


def _row(best: AttackResult) -> dict[str, str]:
    count, roc = len(best.score), best.roc
    tpr = roc.tpr_at_fpr[LEVEL]
    return {
        "metric": best.attack,
        "accuracy": interval_text(best.accuracy, clopper_pearson(round(best.accuracy * count), count)),
        "balanced accuracy": f"{best.balanced_accuracy:.3f}",
        "AUC": interval_text(roc.auc, roc.intervals["auc"]),
        f"TPR at {LEVEL:.0%} FPR": "withheld" if tpr is None else interval_text(tpr, roc.intervals[f"tpr@{LEVEL:g}"]),
    }
