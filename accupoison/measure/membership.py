"""How well members can be recognised while a stream goes on, by their loss and without shadow models."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from accupoison.data import DataSet, Splits
from accupoison.loop.discrepancy_probe import auroc
from accupoison.measure.accuracy import predict_correct_and_loss
from accupoison.records.ledger import Ledger
from accupoison.types import ModelView

LIMIT = 1000
"""Of members, and of others, at most so many are asked about."""


def subsample(ids: Tensor, limit: int) -> Tensor:
    """Return ``limit`` of the ids [N], evenly spaced: their order is a random draw, or that of the data set."""
    if len(ids) <= limit:
        return ids
    return ids[torch.from_numpy(np.unique(np.linspace(0, len(ids) - 1, limit).astype(np.int64)))]


def never_learnt(splits: Splits, learnt: Mapping[int, int]) -> Tensor:
    """Return the test ids, int64 [n], that are not the attacker's and have not been learnt.

    Args:
        splits: Whose samples are whose.
        learnt: What has been learnt, by id; see :meth:`accupoison.records.ledger.Ledger.learnt`.
    """
    known = torch.tensor([*splits.val.tolist(), *learnt], dtype=torch.int64)
    return splits.test[~torch.isin(splits.test, known)]


def mislabelled(data: DataSet, ledger: Ledger, branch: str) -> set[int]:
    """Return the samples that were learnt under a wrong label, which says nothing of who was learnt.

    Args:
        data: For the true labels.
        ledger: Which label each was sent with.
        branch: The path that the run is on.
    """
    rows = ledger.path(branch)
    rows = rows[rows["offered"]]
    ids = torch.from_numpy(rows["id"].copy())
    return set(ids[data.labels(ids).cpu() != torch.from_numpy(rows["label"].astype(np.int64))].tolist())


def membership_auc(
    view: ModelView, data: DataSet, splits: Splits, burnin: Tensor | None, ledger: Ledger, branch: str
) -> dict[str, float]:
    """Return ``audit/auc`` and ``audit/auc_burnin``, in [0, 1], each where there are such members.

    Args:
        view: The model as it is now.
        data: The samples, asked about clean and in eval mode.
        splits: Whose they are.
        burnin: Ids that the base model was trained on, int64 [N]; None if unknown.
        ledger: Who has been learnt from.
        branch: The path that the run is on.
    """
    wrong, known = mislabelled(data, ledger, branch), ledger.learnt(branch)
    learnt = {i: step for i, step in known.items() if i not in wrong}
    members = {"audit/auc": torch.tensor(list(learnt), dtype=torch.int64)}
    if burnin is not None:
        members["audit/auc_burnin"] = burnin[~torch.isin(burnin, torch.tensor(sorted(known), dtype=torch.int64))]

    def minus_losses(ids: Tensor) -> Tensor:
        return -predict_correct_and_loss(view, data, subsample(ids, LIMIT))[1]

    others = minus_losses(never_learnt(splits, known))
    return {tag: auroc(minus_losses(ids), others) for tag, ids in members.items() if len(ids)}
