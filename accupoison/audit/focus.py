"""The samples that a privacy attack is after: those of a class, or chosen ones, and never a poisoned one."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from accupoison.attacks import Attack
from accupoison.attacks.planned import PlannedAttack
from accupoison.audit.samples import Samples
from accupoison.data import DataSet
from accupoison.data.fabricated import source_ids
from accupoison.types import Saved

STREAM, BURNIN, UNSEEN = "stream", "burn-in", "never seen"
"""Groups of members; the last one is a control."""
BASES = (STREAM, BURNIN)
TARGETS = "targets"
"""The group of the samples that an attack has chosen."""


def focus(
    attack: Attack, state: Mapping[str, Saved], data: DataSet, members: Tensor, others: Tensor
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the members and the others that an attack is after, int64 [n] and [m], by the name of their group.

    Args:
        attack: With its settings.
        state: What it has saved, in which chosen samples are ``targets``.
        data: For the labels.
        members: Samples that the model has learnt as they are, int64 [N].
        others: Samples that it has never learnt, int64 [M].

    Returns:
        "class K" for an attack on a class and "targets" for one on chosen samples; groups that lack members or others
        are left out.
    """
    if not isinstance(attack, PlannedAttack):
        return {}
    groups = {}
    targets, label = state.get("targets"), attack.target_class
    if isinstance(targets, Tensor):
        groups[TARGETS] = tuple(ids[torch.isin(ids, targets.cpu())] for ids in (members, others))
    elif label is not None:
        groups[f"class {label}"] = tuple(ids[(data.labels(ids) == label).cpu()] for ids in (members, others))
    return {name: (inside, outside) for name, (inside, outside) in groups.items() if len(inside) and len(outside)}


def untouched(state: Mapping[str, Saved], ids: Tensor) -> Tensor:
    """Return the samples that an attack has neither mislabelled nor copied, int64 [n].

    A model that has learnt copies of a sample under a wrong label answers as if it had not learnt it.

    Args:
        state: What the attack has saved.
        ids: Samples, int64 [N].
    """
    touched = [state.get("changed_ids"), state.get("targets"), state.get("own_ids")]
    poisoned = [source_ids(part.cpu()) for part in touched if isinstance(part, Tensor)]
    return ids[~torch.isin(ids, torch.cat(poisoned))] if poisoned else ids


def others_of(name: str, groups: Mapping[str, Samples]) -> Samples | None:
    """Return the samples on which an attacker sets thresholds for a group that an attack is after.

    They are those of the stream, or else of the burn-in, that are not in the group: the attacker knows the membership
    of some. So the whole group can be reported. None for the groups of all, of which a half serves.

    Args:
        name: Of the group.
        groups: All of them, by name.
    """
    if name in BASES:
        return None
    everybody = groups[next(base for base in BASES if base in groups)]
    return everybody.rows(~np.isin(everybody.ids, groups[name].ids))
