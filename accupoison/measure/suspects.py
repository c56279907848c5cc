"""What a defence has found out about samples, held against what the attacker did."""

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from accupoison.data.fabricated import source_ids
from accupoison.loop.discrepancy_probe import auroc
from accupoison.records.files import write_atomically
from accupoison.records.ledger import Ledger

SUSPECTS = "suspects.csv"


def suspects_auc(found: tuple[Tensor, Tensor], ledger: Ledger) -> dict[str, float]:
    """Return how well a defence tells the samples that the attacker altered or made from the others.

    Args:
        found: True ids, int64 [N], and scores [N]; see :meth:`accupoison.defenses.Defense.suspects`.
        ledger: Who is poisoned.

    Returns:
        The number of ``samples`` and of ``poisoned`` ones among them, the number ``flagged`` with a score above a half,
        and, where there are both kinds, the ``auc`` in [0, 1].
    """
    ids, scores = found[0].cpu(), found[1].cpu()
    poisoned = _poisoned(ids, ledger)
    facts = {"samples": float(len(ids)), "poisoned": float(poisoned.sum()), "flagged": float((scores > 0.5).sum())}
    if len(ids) and bool(poisoned.any()) and not bool(poisoned.all()):
        facts["auc"] = auroc(scores[poisoned], scores[~poisoned])
    return facts


def write_suspects(folder: Path, found: tuple[Tensor, Tensor], ledger: Ledger) -> dict[str, Any]:
    """Write ``suspects.csv``, the likeliest first, and return :func:`suspects_auc`.

    Args:
        folder: Of the run.
        found: True ids, int64 [N], and scores [N].
        ledger: Who is poisoned, and with which label samples were sent.

    Raises:
        InputError: The file cannot be written.
    """
    ids, scores = found[0].cpu(), found[1].cpu()
    labels = dict(zip(ledger.rows["id"].tolist(), ledger.rows["label"].tolist(), strict=True))  # the last one sent
    poisoned, sources = _poisoned(ids, ledger), source_ids(ids)
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["id", "source", "label", "score", "poisoned"])
    for row in np.argsort(-scores.numpy(), kind="stable").tolist():
        i = int(ids[row])
        writer.writerow([i, int(sources[row]), labels.get(i, ""), f"{float(scores[row]):.6g}", int(poisoned[row])])
    write_atomically(folder / SUSPECTS, lambda file: file.write(text.getvalue().encode()))
    return suspects_auc(found, ledger)


def _poisoned(ids: Tensor, ledger: Ledger) -> Tensor:
    changed = torch.from_numpy(np.unique(ledger.rows["id"][ledger.rows["changed"]]))
    return torch.isin(ids, changed)
