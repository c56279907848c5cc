"""What audits beside the runs say of their members."""

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accupoison.errors import InputError
from accupoison.records.files import expect, read_json, reading
from accupoison.study.collect import Run
from accupoison.study.groups import group, named
from accupoison.study.outcomes import Estimate, estimate

AUDIT, POOLED = "audit.json", "recency.json"
GENERAL = ("burn-in", "stream", "never seen")
"""Groups of members that every audit has; others are those that a privacy attack is after."""
Table = dict[str, NDArray[np.float64]]
"""Columns of numbers by name."""


@dataclass(frozen=True)
class Audit:
    """The audit of a run.

    Attributes:
        group: Whose membership: the samples that the attack is after, or those of the stream.
        trigger: Whose model.
        aucs: AUC by membership attack.
        curves: By membership attack ``fpr`` and ``tpr``; empty for audits of older versions.
        flags: A sentence for each control that fails.
    """

    group: str
    trigger: str
    aucs: dict[str, float]
    curves: dict[str, Table]
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Exposure:
    """How well members of the runs of one experiment can be told, and how accurate its models are.

    Attributes:
        runs: The runs behind it.
        auc: By one and the same attack for all experiments.
        accuracy: Of the audited models, in [0, 1].
    """

    runs: tuple[Run, ...]
    auc: Estimate
    accuracy: Estimate


def read_audits(runs: Sequence[Run], leave_out: Callable[[str], None]) -> dict[Path, Audit]:
    """Return the audits of ``audit --run`` by run directory; ``leave_out`` is told of damaged ones."""
    audits = {}
    for run in runs:
        try:
            if (run.path / "audit" / AUDIT).exists():
                audits[run.path] = _read(run.path / "audit")
        except (InputError, ValueError, KeyError) as error:
            leave_out(f"the audit of {run.path} is left out: {error}")
    return audits


def _read(folder: Path) -> Audit:
    content = read_json(folder / AUDIT)
    expect(folder / AUDIT, content, {"trigger": str, "groups": {str: list}, "controls?": {str: {"flags?": list}}})
    groups = content["groups"]
    chosen = next((name for name in groups if name not in GENERAL), "stream")
    if chosen not in groups:
        raise InputError(f"{folder / AUDIT} has no group of the stream; audit the run again")
    for attack in groups[chosen]:
        expect(folder / AUDIT, attack, {"attack": str, "roc": {"auc": float}})
    aucs = {attack["attack"]: float(attack["roc"]["auc"]) for attack in groups[chosen]}
    flags = tuple(content.get("controls", {}).get(chosen, {}).get("flags", ()))
    return Audit(chosen, content["trigger"], aucs, columns(folder / chosen.replace(" ", "-") / "roc.csv"), flags)


def lines(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file; none where it is not there."""
    with reading(path):
        return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines())) if path.exists() else []


def columns(path: Path) -> dict[str, Table]:
    """Return the numbers of a CSV file by its column ``attack``."""
    rows: dict[str, list[dict[str, str]]] = {}
    for row in lines(path):
        rows.setdefault(row.pop("attack"), []).append(row)
    return {
        attack: {key: np.array([float(row[key]) for row in some]) for key in some[0]} for attack, some in rows.items()
    }


def strongest(audits: Mapping[Path, Audit]) -> str:
    """Return the attack with the highest mean AUC over all audits, which have it in common."""
    common = set.intersection(*(set(audit.aucs) for audit in audits.values()))
    return max(sorted(common), key=lambda name: fmean(audit.aucs[name] for audit in audits.values()))


def exposures(runs: Sequence[Run], audits: Mapping[Path, Audit], attack: str) -> Iterator[Exposure]:
    """Yield the exposure of each experiment that was audited.

    Args:
        runs: The runs.
        audits: Of :func:`read_audits`.
        attack: By which members are told.
    """
    for experiment in group(runs):
        seen = tuple(run for run in experiment.runs if run.path in audits)
        auc = estimate((run.burnin, audits[run.path].aucs[attack]) for run in seen)
        accuracy = estimate((run.burnin, accuracy_of(run, audits[run.path].trigger)) for run in seen)
        if auc is not None and accuracy is not None:
            yield Exposure(seen, auc, accuracy)


def accuracy_of(run: Run, trigger: str) -> float | None:
    """Return the accuracy of the model that an audit asks: at the end of the path of a trigger."""
    end = run.end(trigger)
    return run.after(trigger) if end is None else end


def pooled_exposures(runs: Sequence[Run], places: Sequence[Path]) -> Iterator[Exposure]:
    """Yield the exposures that ``audit recency`` of the same runs has found, by the loss.

    Args:
        runs: The runs.
        places: Directories where ``recency.json`` may be.

    Raises:
        InputError: The file is damaged.
    """
    files = [place / POOLED for place in places if (place / POOLED).exists()]
    if not files:
        return
    wanted: dict[Any, Any] = {"mean": float, "half": float, "burnins": int, "runs": int, "over": str, "values?": list}
    chosen: dict[str, dict[str, Any]] = {}
    for entry in read_json(files[0]).get("aucs", []):
        expect(files[0], entry, {"experiment": str, "members": str, "score": str, "auc": wanted})
        name, members = entry["experiment"], entry["members"]
        whole = entry["score"] == "loss" and entry.get("recency") is None and members not in ("burn-in", "never seen")
        if whole and (members != "stream" or name not in chosen):
            chosen[name] = entry["auc"]
    for name, experiment in named(runs).items():
        last = experiment.first.config.trigger.types[-1]
        accuracy = estimate((run.burnin, accuracy_of(run, last)) for run in experiment.runs)
        if name in chosen and accuracy is not None:
            auc = Estimate(**chosen[name] | {"values": tuple(chosen[name].get("values", ()))})
            yield Exposure(experiment.runs, auc, accuracy)
