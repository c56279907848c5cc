"""How well members can be told, by group and age, pooled over runs."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from accupoison.audit.online.run import audit_run, values_of
from accupoison.audit.roc import roc_summary
from accupoison.audit.writers import save_figure, write_csv
from accupoison.errors import InputError
from accupoison.records.files import write_json
from accupoison.study.collect import Run
from accupoison.study.groups import Group, group
from accupoison.study.outcomes import Estimate, estimate

SCORES = ("loss", "loss_change")
UNSEEN, BURNIN, STREAM = "never seen", "burn-in", "stream"


@dataclass(frozen=True)
class PooledAuc:
    """An AUC against test images never learnt, over the runs of one experiment.

    Attributes:
        experiment: Attack and defence, and what else tells it from the others.
        members: "burn-in", "stream", or "never seen": images of the stream's split that never came, the control.
        age: Steps since they were learnt last; None for all.
        score: "loss", or "loss_change": how much it fell during the stream.
        auc: Mean and 95% t-interval over base models.
        samples: Members in all runs.
    """

    experiment: str
    members: str
    age: int | None
    score: str
    auc: Estimate
    samples: int


Key = tuple[str, int | None, str]
"""Members, age, score."""


def pool_ages(
    runs: Sequence[Run], root: Path, report: Callable[[int, int, str], None], limit: int = 5000
) -> tuple[list[PooledAuc], list[str]]:
    """Audit every run and pool the AUCs of those that replicate one experiment.

    Args:
        runs: Finished runs.
        root: The directory of checkpoints.
        report: Told (runs done, runs in all, the last one).
        limit: At most so many members of the burn-in, images that never came, and others a run.

    Returns:
        The AUCs, and what was wrong with the runs that could not be audited, one sentence each.

    Raises:
        InputError: No run could be audited.
    """
    pooled, skipped, done = [], list[str](), 0
    groups = group(runs)
    streams, delivered = ({_parts(one)[i] for one in groups} for i in (0, 1))
    for one in groups:
        stream, deliver = _parts(one)
        parts = [one.first.attack, one.first.defense, one.setting]
        parts += [stream] * (len(streams) > 1) + [f"trigger {deliver}"] * (len(delivered) > 1)
        name = ", ".join(part for part in parts if part)
        found: defaultdict[Key, list[tuple[str, float]]] = defaultdict(list)
        counts: defaultdict[Key, int] = defaultdict(int)
        for run in one.runs:
            try:
                for key, value, count in _aucs(run.path, root, limit):
                    found[key].append((run.burnin, value))
                    counts[key] += count
            except InputError as error:
                skipped.append(f"{run.path} is left out: {error}")
            done += 1
            report(done, len(runs), run.path.name)
        for key, values in found.items():
            if (auc := estimate(values)) is not None:
                pooled.append(PooledAuc(name, *key, auc, counts[key]))
    if not pooled:
        raise InputError(skipped[0])
    return pooled, skipped


def _parts(one: Group) -> tuple[str, str]:
    """Return what the setting of a group does not say: the stream, and the trigger whose model is audited."""
    return one.first.config.stream.kind, one.first.config.trigger.types[-1]


def _aucs(run: Path, root: Path, limit: int) -> list[tuple[Key, float, int]]:
    """Return ((members, age, score), AUC, members) of one run."""
    audited = audit_run(run, root, limit=limit)
    groups = dict(audited.groups)
    if audited.unseen is not None:
        groups[UNSEEN] = audited.unseen
    found: list[tuple[Key, float, int]] = []
    for score in SCORES:
        for name, samples in groups.items():
            roc = roc_summary(values_of(samples, score), samples.member, levels=())
            found.append(((name, None, score), roc.auc, roc.members))
        found += [((STREAM, age, score), roc.auc, roc.members) for age, roc in audited.by_age(score)]
    return found


def write_pooled(folder: Path, pooled: Sequence[PooledAuc]) -> list[dict[str, str]]:
    """Write ``ages.json``, ``ages.csv`` and ``ages.png`` in ``folder`` and return the rows of the table over all ages.

    Raises:
        InputError: A file cannot be written.
    """
    write_json(folder / "ages.json", {"aucs": [asdict(one) for one in pooled]})
    rows = [
        {
            "experiment": one.experiment,
            "members": one.members,
            "age": "all" if one.age is None else str(one.age),
            "score": one.score,
            "AUC": _with_interval(one.auc),
            "samples": str(one.samples),
            "burn-ins": str(one.auc.burnins),
            "runs": str(one.auc.runs),
        }
        for one in pooled
    ]
    write_csv(folder / "ages.csv", rows)
    save_figure(_figure(pooled), folder / "ages.png")
    return [row for row in rows if row["age"] == "all"]


def _with_interval(auc: Estimate) -> str:
    return f"{auc.mean:.3f}" + (f" ± {auc.half:.3f}" if np.isfinite(auc.half) else "")


def _figure(pooled: Sequence[PooledAuc]) -> Figure:
    """Return AUC against age with its interval, a panel a score and a line an experiment."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    panels = figure.subplots(1, len(SCORES), sharey=True)
    experiments = list(dict.fromkeys(one.experiment for one in pooled))
    for axes, score in zip(panels, SCORES, strict=True):
        for number, name in enumerate(experiments):
            mine = [one for one in pooled if (one.experiment, one.score) == (name, score)]
            aged = sorted(((one.age, one.auc) for one in mine if one.age is not None), key=lambda point: point[0])
            half = [0.0 if np.isnan(auc.half) else auc.half for _, auc in aged]
            axes.errorbar(
                [age for age, _ in aged], [auc.mean for _, auc in aged], yerr=half, label=name, capsize=3, marker="o"
            )
            for style, members in (("--", BURNIN), (":", UNSEEN)):
                for one in mine:
                    if one.members == members:
                        axes.axhline(one.auc.mean, color=f"C{number}", linestyle=style, linewidth=1)
        axes.set(xlabel="steps since the sample was learnt last", title=score)
    panels[0].set_ylabel("AUC against never-learnt samples")
    panels[0].legend(fontsize="x-small", title="dashed: burn-in, dotted: never seen", title_fontsize="x-small")
    return figure
