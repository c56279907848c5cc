"""The audit of a burn-in: who was in its training set, from the last model's answers alone."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from accupoison.audit.controls import blind_of
from accupoison.audit.focus import BURNIN, focus, untouched
from accupoison.audit.samples import Samples
from accupoison.audit.twins import with_twins
from accupoison.config.schema import BurninConfig, burnin_config
from accupoison.data import DataSet
from accupoison.errors import InputError
from accupoison.measure.membership import never_learnt, subsample
from accupoison.measure.releases import answers
from accupoison.models.view import view_of
from accupoison.records.files import holds, read_json
from accupoison.records.run_directory import CONFIG, RunDirectory, check_contents
from accupoison.release import Identity
from accupoison.runs.base_model import BaseModel, open_data
from accupoison.runs.burnin import FINAL
from accupoison.types import ModelView, Saved


@dataclass(frozen=True, eq=False)
class BurninAudit:
    """What leaves a base model about members and others; no sample of either was poisoned.

    Attributes:
        config: Settings of the burn-in.
        groups: Samples by group: "burn-in", and those that its attack was after; see
            :func:`accupoison.audit.focus.focus`.
        epochs: That it was trained for.
        blind: The blind baseline of each group; see :func:`accupoison.audit.controls.blind_baseline`.
    """

    config: BurninConfig
    groups: dict[str, Samples]
    epochs: int
    blind: dict[str, dict[str, Any] | None]


def is_burnin(run: Path) -> bool:
    """Return whether a directory is that of a burn-in."""
    return RunDirectory.holds_run(run) and "train" in read_json(run / CONFIG)


def audit_burnin(run: Path, *, limit: int = 5000, twins: bool = False) -> BurninAudit:
    """Load a burn-in's last model and ask it about members and others, on clean images in eval mode.

    Args:
        run: The burn-in's directory.
        limit: At most so many members and so many others in the group of all; the groups that an attack is after are
            whole.
        twins: Also ask about the twin of each sample, as the score ``twin``; see :mod:`accupoison.attacks.twins`.

    Raises:
        InputError: The burn-in has not ended, or its data are no longer what they were.
    """
    config = burnin_config([read_json(run / CONFIG)])
    state = RunDirectory.read_state(run)
    if state is None or not holds((run / FINAL).exists):
        raise InputError(f"{run} has not ended; go on with", "burnin", {"resume": run})
    data, splits = open_data(config.data, config.run.compute())
    check_contents(run, data.name, state["data"], data.fingerprint())
    base = BaseModel.load(run / FINAL)
    view = view_of(base.build(run / FINAL, data.device), config.run.kernels)
    saved: dict[str, Saved] = state.get("parts", {}).get("attack", {})  # older versions had no attack
    relabelled = saved.get("changed_ids", torch.empty(0, dtype=torch.int64))
    assert isinstance(relabelled, Tensor)
    members, others = splits.burnin[~torch.isin(splits.burnin, relabelled.cpu())], never_learnt(splits, {})
    pairs = {BURNIN: (subsample(untouched(saved, members), limit), subsample(untouched(saved, others), limit))}
    pairs |= focus(config.attack, saved, data, members, others)
    groups = {name: asked(view, data, *pair) for name, pair in pairs.items()}
    if twins:
        groups = {name: with_twins(samples, view, data, config.attack) for name, samples in groups.items()}
    return BurninAudit(config, groups, base.epoch, blind_of(data, groups))


def asked(view: ModelView, data: DataSet, members: Tensor, others: Tensor) -> Samples:
    """Return what a model says of members and others, in this order.

    Args:
        view: The model.
        data: The samples.
        members: Ids, int64 [n].
        others: Ids, int64 [m].
    """
    ids = torch.cat([members, others])
    probs = answers(Identity(), view, data, ids).numpy()
    return Samples(probs, data.labels(ids).cpu().numpy(), np.arange(len(ids)) < len(members), ids.numpy())
