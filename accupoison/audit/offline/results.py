"""What all attacks achieve on the models of an audit by the offline protocol."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from accupoison.attacks.targeted import Targeted
from accupoison.audit.controls import inputs_of
from accupoison.audit.focus import focus, untouched
from accupoison.audit.offline.shadow_models import Division, OfflineConfig, divide, model_name
from accupoison.audit.results import Results
from accupoison.audit.shadow_attacks import ShadowAttacks, accuracies, model_facts, shadow_controls
from accupoison.audit.signals import Audited, ModelSignals, read_signals
from accupoison.data import DataSet
from accupoison.runs.population import training_population
from accupoison.types import Access

Controls = dict[str, Any]
KINDS = {True: "other models attack each", False: "models trained on a pool that no target learns from"}
"""What the shadows are, by whether they attack each other."""


def audit_offline(
    config: OfflineConfig, out: Path, data: DataSet
) -> tuple[dict[str, tuple[list[Results], Controls]], dict[str, Any]]:
    """Attack every target model with all shadows, or every shadow with all others.

    Args:
        config: All settings.
        out: The directory that :func:`run_offline` has filled.
        data: The data set.

    Returns:
        What the attacks achieve on each model, with the controls of the audit, for all audited samples under the name
        "" and, where the models were poisoned, for those that the attack is after under theirs, if every model has some
        of them and lacks some; and facts about the models.

    Raises:
        InputError: A file of signals is missing or damaged, or holds those of other samples.
    """
    division = divide(data, config.shadows, config.run.seed)
    audited = Audited(data, division.audited, division.population)
    models = {name: read_signals(out, model_name(*name), audited) for name in config.shadows.models()}
    shadows = [model for (pool, _), model in models.items() if pool == "shadows"]
    targets = [model for (pool, _), model in models.items() if pool != "shadows"]
    found: dict[str, tuple[list[Results], Controls]] = {}
    after: dict[str, dict[str, list[float]]] = {}
    facts: dict[str, Any] = {}
    for name, rows in _focus(config, data, division).items():
        member = np.stack([model.samples.member[rows] for model in models.values()])
        if member.all(axis=1).any() or not member.any(axis=1).all():
            continue  # some model has all of these samples, or none: too few to attack it by
        some = [[model.rows(rows) for model in pool] for pool in (shadows, targets)]
        controls = shadow_controls(some[0], some[1], KINDS[not targets], inputs_of(data, division.audited[rows]))
        found[name] = _attacked(*some), controls
        if name:
            after[name] = accuracies(some[1] or some[0])
        else:
            facts = model_facts(some[1] or some[0], [*some[1], *some[0]])
    return found, {
        **facts,
        **({"focus": after} if after else {}),
        "epsilon": max(model.epsilon for model in [*targets, *shadows]),
        "dropped_duplicates": division.dropped,
    }


def _attacked(shadows: Sequence[ModelSignals], targets: Sequence[ModelSignals]) -> list[Results]:
    if targets:
        attacks = ShadowAttacks(shadows)
        return [attacks.attack(target) for target in targets]
    return [ShadowAttacks(shadow.apart(shadows), crossed=True).attack(shadow) for shadow in shadows]


def _focus(config: OfflineConfig, data: DataSet, division: Division) -> dict[str, NDArray[np.int64]]:
    """Return which audited samples, [n], the attack is after, by the name of their group."""
    attack, audited = config.attack.fresh(), division.audited
    state: dict[str, Tensor] = {}
    if isinstance(attack, Targeted):
        none = data.batch(audited[:0])
        population = training_population(data, audited, audited, config.shadows.size, config.run.kernels, None)
        attack.access = Access(none, none, crafted=False, reoptimise=False, population=population)
        state["targets"] = attack.choose()
    groups = {"": untouched(state, audited)}
    groups |= {name: ids for name, (ids, _) in focus(attack, state, data, audited, audited).items()}
    return {name: torch.isin(audited, ids).nonzero().flatten().numpy() for name, ids in groups.items()}
