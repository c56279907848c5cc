"""Markdown tables of outcomes."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from accupoison.records.tags import AGAINST, AUCS, DETECTORS
from accupoison.study.collect import Run
from accupoison.study.groups import Group, group
from accupoison.study.outcomes import Estimate, Pair, estimate, harm, retention, trigger_effect, yardstick

Value = Callable[[Run], float | None]
TOLD_BY = {
    "MD": "defense/discrepancy_auc",
    **{"loss drift" if name == "loss" else name.upper(): f"detectors/{name}_auc" for name in DETECTORS},
}
"""What poisoned rows are told by, with the beginning of its tags."""

CAPTION = """\
Accuracies and their differences are in points; "re-est." is after batch-norm re-estimation on trusted images.
H = A(ST on the clean stream with the clean trigger) - A(this run), after the trigger, on the same images; trigger
effect = A(coast) - A(trigger) from the same state; retention R = (A - A of FREEZE) / (A of ST - A of FREEZE). MD is the
memorization discrepancy in nats, its AUC that of telling poisoned rows from the clean ones, or from the clean ones with
noise of equal size. ± is half a 95% t-interval over base models, or over streams where there is one base model, and
then says nothing of other base models; of two, both values stand there. n: base models / runs; a cell with fewer says
so. A value that a diverged run of the group lacks is withheld. Times are of runs side by side."""

DETECTED = """\
AUC of telling poisoned rows from the clean ones they were made of, and from these with Rademacher noise of equal size,
as means over the ordinary steps; 0.5 is guessing, below it the poison looks the cleaner. MD: memorization discrepancy;
KD: kernel density, LID: local intrinsic dimensionality, GDA: Mahalanobis distance to the nearest class, GMM: Gaussian
mixture, all of penultimate features of the early snapshot and fitted to trusted images; loss drift: loss under the live
model minus loss under the early snapshot. ± as above."""


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        cells: Text by column.
        runs: What the numbers are of.
    """

    cells: dict[str, str]
    runs: tuple[Run, ...]


def rows_text(rows: Sequence[Row]) -> str:
    """Return rows as a table in Markdown; empty where there are none."""
    return table_text([row.cells for row in rows]) if rows else ""


def outcome_rows(runs: Sequence[Run]) -> list[Row]:
    """Return one row for each stream, attack, defence and trigger: accuracies and their differences, in points."""
    clean = yardstick(runs)
    rows = []
    for experiment in group(runs):
        for trigger in experiment.first.config.trigger.types:
            estimates = {title: over(experiment, value) for title, value in outcomes(trigger, clean).items()}
            cells = {title: in_points(value, len(experiment.runs)) for title, value in estimates.items()}
            named = {**_names(experiment), "trigger": trigger, **cells, "n": _count(experiment)}
            rows.append(Row(named, experiment.runs))
    return rows


def outcomes(trigger: str, clean: Mapping[Pair, Run]) -> dict[str, Value]:
    """Return what the outcomes of a trigger are, by the title of their column, as fractions.

    Args:
        trigger: The trigger.
        clean: The control of each pair; see :func:`accupoison.study.outcomes.yardstick`.
    """
    again = "acc_bn_reestimated"
    return {
        "start": lambda run: run.summary["start"]["acc"],
        "before": lambda run: run.summary.get("before", {}).get("acc"),
        "after": lambda run: run.after(trigger),
        "end": lambda run: run.end(trigger),
        "before, re-est.": lambda run: run.summary.get("before", {}).get(again),
        "after, re-est.": lambda run: run.after(trigger, again),
        "harm H": lambda run: harm(run, trigger, clean),
        "H, re-est.": lambda run: harm(run, trigger, clean, again),
        "trigger effect": lambda run: None if trigger == "coast" else trigger_effect(run, trigger),
    }


def mechanism_rows(runs: Sequence[Run]) -> list[Row]:
    """Return one row for each stream, attack and defence: what happened on the ordinary steps, as means over them."""
    columns: dict[str, Value] = {
        "MD clean": _mean_of("defense/discrepancy_clean"),
        "MD sent": _mean_of("defense/discrepancy_sent"),
        "MD AUC vs clean": _mean_of("defense/discrepancy_auc_clean"),
        "MD AUC vs noise": _mean_of("defense/discrepancy_auc_noise"),
        "inner steps": _mean_of("defense/inner_steps"),
        "gradient norm": _mean_of("optim/grad_norm"),
        "weights moved": lambda run: run.distance_from_start,
        "s step": _mean_of("time/step_s"),
        "s attack": _mean_of("time/attack_s"),
        "s defence": _mean_of("time/defense_s"),
        "s update": _mean_of("time/update_s"),
    }
    rows = []
    for experiment in group(runs):
        steps = _plain(over(experiment, lambda run: run.summary["horizon"]), 0)
        cells = {title: _plain(over(experiment, value)) for title, value in columns.items()}
        rows.append(Row({**_names(experiment), "steps": steps, **cells, "n": _count(experiment)}, experiment.runs))
    return rows


def _mean_of(tag: str) -> Value:
    return lambda run: run.summary["means"].get(tag)


def told(runs: Sequence[Run]) -> Iterator[tuple[Group, dict[str, dict[str, Estimate]]]]:
    """Yield each experiment with detectors, and their AUCs by name in :data:`TOLD_BY` and "clean" or "noise"."""
    for experiment in group([run for run in runs if run.summary["means"].keys() & AUCS.keys()]):
        found = {
            name: {kind: one for kind in AGAINST if (one := over(experiment, _mean_of(f"{tag}_{kind}"))) is not None}
            for name, tag in TOLD_BY.items()
        }
        yield experiment, {name: aucs for name, aucs in found.items() if aucs}


def detector_rows(runs: Sequence[Run]) -> list[Row]:
    """Return one row for each experiment and detector: how well it tells poisoned rows, as means over the steps."""
    return [
        Row(
            {
                **_names(experiment),
                "detector": name,
                **{f"AUC vs {kind}": _plain(aucs.get(kind)) for kind in AGAINST},
                "n": _count(experiment),
            },
            experiment.runs,
        )
        for experiment, found in told(runs)
        for name, aucs in found.items()
    ]


def over(experiment: Group, value: Value) -> Estimate | None:
    """Return the estimate of a value over an experiment's runs; None where a run that diverged lacks it."""
    values = [(run.burnin, value(run)) for run in experiment.runs]
    if experiment.diverged and any(number is None for _, number in values):
        return None  # the mean of the others would leave out where the attack did most
    return estimate(values)


def _names(experiment: Group) -> dict[str, str]:
    run = experiment.first
    kind = run.config.stream.kind
    return {"stream": kind, "attack": run.attack, "defence": run.defense, "setting": experiment.setting}


def _count(experiment: Group) -> str:
    diverged = f", {experiment.diverged} diverged" if experiment.diverged else ""
    return f"{len({run.burnin for run in experiment.runs})} / {len(experiment.runs)}{diverged}"


def retention_rows(runs: Sequence[Run]) -> list[Row]:
    """Return the cost of each defence on clean streams, and the learning it retains where the world shifts.

    None without clean runs of ST and FREEZE on the same images.
    """
    return [
        Row(
            {
                "clean stream": experiment.first.config.stream.kind,
                "defence": experiment.first.defense,
                "setting": experiment.setting,
                "accuracy at the end": in_points(estimate((pair[0], value) for pair, value in paired.items())),
                "cost against ST": in_points(estimate((p[0], standard[p] - value) for p, value in paired.items())),
                "retention R": "withheld" if retained is None else _plain(retained),
                "n": f"{len({pair[0] for pair in paired})} / {len(paired)}",
            },
            experiment.runs,
        )
        for experiment, paired, standard, retained in retained_by(runs)
    ]


def retained_by(
    runs: Sequence[Run],
) -> Iterator[tuple[Group, dict[Pair, float], dict[Pair, float], Estimate | None]]:
    """Yield each experiment on a clean stream that has ST and FREEZE beside it, with what it retains.

    Beside the experiment: its accuracy at the end by pair, that of ST, and the retention, None where it is withheld.
    """
    clean = [run for run in runs if run.config.attack.name == "none" and _learnt(run) is not None]
    standard, frozen = (_at_the_end([run for run in clean if run.defense == name]) for name in ("ST", "FREEZE"))
    for experiment in group(clean):
        values = _at_the_end(experiment.runs)
        paired = {pair: value for pair, value in values.items() if pair in standard and pair in frozen}
        if paired:
            yield experiment, paired, standard, retention(paired, frozen, standard)


def _learnt(run: Run) -> float | None:
    """Return the accuracy at the end of a clean run, in the world as it is then."""
    return run.end("clean", run.accuracy_now)


def _at_the_end(runs: Sequence[Run]) -> dict[Pair, float]:
    return {run.pair: value for run in runs if (value := _learnt(run)) is not None}


def threat_lines(runs: Sequence[Run]) -> str:
    """Return the threat model of each experiment, a line each, every one once."""
    return "\n".join(dict.fromkeys(f"- {run.summary['threat_model']}" for run in runs))


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table, with columns that have no value left out."""
    used = [i for i in range(len(header)) if any(row[i] for row in rows)]
    lines = [[header[i] for i in used], ["---"] * len(used), *([row[i] for i in used] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def table_text(rows: Sequence[Mapping[str, str]]) -> str:
    """Return rows with the same keys as a Markdown table with these as its header."""
    return markdown(list(rows[0]), [list(row.values()) for row in rows])


def in_points(value: Estimate | None, runs: int | None = None) -> str:
    """Return an accuracy or a difference of accuracies in points; with its own n, where that is not ``runs``."""
    if value is None:
        return ""
    fewer = "" if runs in (None, value.runs) else f" (n {value.burnins} / {value.runs})"
    return value.text(1, 100) + fewer


def _plain(value: Estimate | None, digits: int = 2) -> str:
    return "" if value is None else value.text(digits)
