"""How well members can be recognised, by group and recency, pooled over runs."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from accupoison.audit.focus import BURNIN, STREAM, UNSEEN
from accupoison.audit.online.run import audit_run, values_of
from accupoison.audit.roc import roc_summary
from accupoison.audit.writers import save_figure
from accupoison.errors import InputError
from accupoison.records.files import write_csv, write_json
from accupoison.study.collect import Run
from accupoison.study.groups import named
from accupoison.study.outcomes import Estimate, estimate

CONTROLS = (BURNIN, UNSEEN)
SCORES = ("loss", "loss_change")
"""The scores whose AUC is followed by recency."""


@dataclass(frozen=True)
class PooledAuc:
    """An AUC against test images never learnt, over the runs of one experiment.

    Attributes:
        experiment: Attack and defence, and what else tells it from the others.
        members: "burn-in", "stream", those that a privacy attack is after, or "never seen": images of the stream's
            split that never came, the control.
        recency: Steps since they were learnt last; None for all.
        score: "loss", or "loss_change": how much it fell during the stream.
        auc: Mean and 95% t-interval over base models.
        samples: Members in all runs.
    """

    experiment: str
    members: str
    recency: int | None
    score: str
    auc: Estimate
    samples: int


Key = tuple[str, int | None, str]
"""Members, recency, score."""


def pool_recency(
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
    pooled = []
    skipped: list[str] = []
    done = 0
    for name, experiment in named(runs).items():
        aucs: defaultdict[Key, list[tuple[str, float]]] = defaultdict(list)
        members: defaultdict[Key, int] = defaultdict(int)
        for run in experiment.runs:
            try:
                for key, auc, count in _aucs(run.path, root, limit):
                    aucs[key].append((run.burnin, auc))
                    members[key] += count
            except InputError as error:
                skipped.append(f"{run.path} is left out: {error}")
            done += 1
            report(done, len(runs), run.path.name)
        for key, values in aucs.items():
            if (mean := estimate(values)) is not None:
                pooled.append(PooledAuc(name, *key, mean, members[key]))
    if not pooled:
        raise InputError(skipped[0])
    return pooled, skipped


def both_harms(runs: Sequence[Run], pooled: Sequence[PooledAuc]) -> list[dict[str, str]]:
    """Return one row an experiment, for people: accuracy lost before the trigger, and members exposed at the end.

    Args:
        runs: Finished runs.
        pooled: Of :func:`pool_recency` of the same runs; a run that has learnt nothing exposes nobody of the stream.
    """
    aucs = {(e.experiment, e.members): e.auc for e in pooled if e.recency is None and e.score == "loss"}
    members = [m for m in dict.fromkeys(e.members for e in pooled) if m not in CONTROLS]
    rows = []
    for name, experiment in named(runs).items():
        marks = [(run.burnin, run.summary["start"], run.summary.get("before")) for run in experiment.runs]
        lost = estimate(
            (base, None if end is None else 100 * (first["acc"] - end["acc"])) for base, first, end in marks
        )
        rows.append(
            {
                "experiment": name,
                "budget": experiment.first.config.attack.spending.text("sample"),
                "accuracy lost (points)": "" if lost is None else lost.text(1),
                **{f"AUC {m}": aucs[name, m].text(3) if (name, m) in aucs else "" for m in members},
                "runs": str(len(experiment.runs)),
            }
        )
    return rows


def _aucs(run: Path, root: Path, limit: int) -> Iterator[tuple[Key, float, int]]:
    """Yield the AUCs of one run, each with the number of members."""
    audited = audit_run(run, root, limit=limit)
    groups = {**audited.groups, **({} if audited.unseen is None else {UNSEEN: audited.unseen})}
    for score in SCORES:
        for name, samples in groups.items():
            roc = roc_summary(values_of(samples, score), samples.member, levels=())
            yield (name, None, score), roc.auc, roc.members
        for name in audited.groups:
            for point in audited.by_recency(score, name) if name != BURNIN else ():
                yield (name, point["recency"], score), point["auc"], point["members"]


def write_pooled(folder: Path, pooled: Sequence[PooledAuc], harms: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """Write ``recency.json``, ``recency.csv``, ``recency.png`` and ``harms.csv``.

    Args:
        folder: A directory; made if it is not there.
        pooled: Of :func:`pool_recency`.
        harms: Of :func:`both_harms`.

    Returns:
        The rows of the table that are over all recencies.

    Raises:
        InputError: A file cannot be written.
    """
    write_json(folder / "recency.json", {"aucs": [asdict(entry) for entry in pooled]})
    rows = [
        {
            "experiment": entry.experiment,
            "members": entry.members,
            "recency": "all" if entry.recency is None else str(entry.recency),
            "score": entry.score,
            "AUC": entry.auc.text(3),
            "samples": str(entry.samples),
            "burn-ins": str(entry.auc.burnins),
            "runs": str(entry.auc.runs),
        }
        for entry in pooled
    ]
    write_csv(folder / "recency.csv", rows)
    write_csv(folder / "harms.csv", harms)
    save_figure(_figure(pooled), folder / "recency.png")
    return [row for row in rows if row["recency"] == "all"]


def _figure(pooled: Sequence[PooledAuc]) -> Figure:
    """Return AUC against recency with its interval, a panel a score and a line an experiment.

    Members are those that the experiment's attack is after, or of the whole stream.
    """
    figure = Figure(figsize=(10, 4), layout="constrained")
    panels = figure.subplots(1, len(SCORES), sharey=True)
    for axes, score in zip(panels, SCORES, strict=True):
        for number, name in enumerate(dict.fromkeys(entry.experiment for entry in pooled)):
            entries = [entry for entry in pooled if (entry.experiment, entry.score) == (name, score)]
            followed = next((entry.members for entry in entries if entry.members not in (STREAM, *CONTROLS)), STREAM)
            of_members = [entry for entry in entries if entry.members == followed and entry.recency is not None]
            curve = sorted((entry.recency or 0, entry.auc.mean, entry.auc.half) for entry in of_members)
            recency, mean, half = np.array(curve, dtype=float).T
            axes.errorbar(recency, mean, yerr=np.nan_to_num(half), label=name, capsize=3, marker="o")
            for entry in entries:
                if entry.recency is None and entry.members in CONTROLS:
                    style = "--" if entry.members == BURNIN else ":"
                    axes.axhline(entry.auc.mean, color=f"C{number}", linestyle=style, linewidth=1)
        axes.set(xlabel="steps since the sample was learnt last", title=score)
    panels[0].set_ylabel("AUC against never-learnt samples")
    panels[0].legend(fontsize="x-small", title="dashed: burn-in, dotted: never seen", title_fontsize="x-small")
    return figure
