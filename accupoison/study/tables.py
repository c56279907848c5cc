"""Markdown tables of outcomes."""

import math
from collections.abc import Callable, Sequence

from accupoison.study.collect import Run
from accupoison.study.groups import Group, group
from accupoison.study.outcomes import Estimate, Pair, estimate, harm, retention, trigger_effect, yardstick

Value = Callable[[Run], float | None]

CAPTION = """\
Accuracies and their differences are in points; "re-est." is after batch-norm re-estimation on trusted images.
H = A(ST on the clean stream with the clean trigger) - A(this run), after the trigger, on the same images; trigger
effect = A(coast) - A(trigger) from the same state; retention R = (A - A of FREEZE) / (A of ST - A of FREEZE). MD is the
memorization discrepancy in nats, its AUC that of telling poisoned rows from the clean ones, or from the clean ones with
noise of equal size. ± is half a 95% t-interval over base models, or over streams where there is one base model, and
then says nothing of other base models. n: base models / runs; a cell with fewer says so. A value that a diverged run of
the group lacks is withheld. Times are of runs side by side."""


def outcome_table(runs: Sequence[Run]) -> str:
    """Return one row for each stream, attack, defence and trigger: accuracies and their differences, in points."""
    clean = yardstick(runs)
    again = "acc_bn_reestimated"
    rows = []
    for one in group(runs):
        for trigger in one.first.config.trigger.types:
            values: list[Value] = [
                lambda run: run.summary["start"]["acc"],
                lambda run: run.summary.get("before", {}).get("acc"),
                lambda run, to=trigger: run.after(to),  # type: ignore[misc]
                lambda run, to=trigger: run.end(to),  # type: ignore[misc]
                lambda run: run.summary.get("before", {}).get(again),
                lambda run, to=trigger: run.after(to, again),  # type: ignore[misc]
                lambda run, to=trigger: harm(run, to, clean),  # type: ignore[misc]
                lambda run, to=trigger: harm(run, to, clean, again),  # type: ignore[misc]
                lambda run, to=trigger: None if to == "coast" else trigger_effect(run, to),  # type: ignore[misc]
            ]
            cells = (in_points(_over(one, value), len(one.runs)) for value in values)
            rows.append([*_names(one), trigger, *cells, _count(one)])
    header = [
        *("stream", "attack", "defence", "setting", "trigger", "start", "before", "after", "end"),
        *("before, re-est.", "after, re-est.", "harm H", "H, re-est.", "trigger effect", "n"),
    ]
    return markdown(header, rows)


def mechanism_table(runs: Sequence[Run]) -> str:
    """Return one row for each stream, attack and defence: what happened on the ordinary steps, as means over them."""
    tags = (
        "defense/discrepancy_clean",
        "defense/discrepancy_sent",
        "defense/discrepancy_auc_clean",
        "defense/discrepancy_auc_noise",
        "defense/inner_steps",
        "optim/grad_norm",
        "time/step_s",
        "time/attack_s",
        "time/defense_s",
        "time/update_s",
    )
    rows = []
    for one in group(runs):
        means = [_over(one, lambda run, tag=tag: run.summary["means"].get(tag)) for tag in tags]  # type: ignore[misc]
        moved = _over(one, lambda run: run.distance_from_start)
        horizon = _over(one, lambda run: run.summary["horizon"])
        rows.append([*_names(one), _plain(horizon, 0), *(_plain(mean) for mean in means[:-4]), _plain(moved)])
        rows[-1] += [*(_plain(mean) for mean in means[-4:]), _count(one)]
    header = [
        *(
            "stream",
            "attack",
            "defence",
            "setting",
            "steps",
            "MD clean",
            "MD sent",
            "MD AUC vs clean",
            "MD AUC vs noise",
        ),
        *("inner steps", "gradient norm", "weights moved", "s step", "s attack", "s defence", "s update", "n"),
    ]
    return markdown(header, rows)


def _over(one: Group, value: Value) -> Estimate | None:
    values = [(run.burnin, value(run)) for run in one.runs]
    if one.diverged and any(found is None for _, found in values):
        return None  # the mean of the others would leave out where the attack did most
    return estimate(values)


def _names(one: Group) -> list[str]:
    return [one.first.config.stream.kind, one.first.attack, one.first.defense, one.setting]


def _count(one: Group) -> str:
    diverged = f", {one.diverged} diverged" if one.diverged else ""
    return f"{len({run.burnin for run in one.runs})} / {len(one.runs)}{diverged}"


def retention_table(runs: Sequence[Run]) -> str:
    """Return the cost of each defence on clean streams, and the learning it retains where the world shifts.

    Empty without clean runs of ST and FREEZE on the same images.
    """
    clean = [run for run in runs if run.config.attack.name == "none" and _learnt(run) is not None]
    standard, frozen = (_at_the_end([run for run in clean if run.defense == name]) for name in ("ST", "FREEZE"))
    rows = []
    for one in group(clean):
        values = _at_the_end(one.runs)
        paired = {pair: value for pair, value in values.items() if pair in standard and pair in frozen}
        if paired:
            accuracy = estimate((pair[0], value) for pair, value in paired.items())
            cost = estimate((pair[0], standard[pair] - value) for pair, value in paired.items())
            kept = retention(paired, frozen, standard)
            shown = "withheld" if kept is None else _plain(kept)
            kind, _, name, setting = _names(one)
            models = len({pair[0] for pair in paired})
            rows.append([kind, name, setting, in_points(accuracy), in_points(cost), shown, f"{models} / {len(paired)}"])
    header = ["clean stream", "defence", "setting", "accuracy at the end", "cost against ST", "retention R", "n"]
    return markdown(header, rows) if rows else ""


def _learnt(run: Run) -> float | None:
    """Return the accuracy at the end of a clean run, in the world as it is then."""
    return run.end("clean", "shifted_acc" if run.config.stream.kind.startswith("shift:") else "acc")


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


def in_points(value: Estimate | None, runs: int | None = None) -> str:
    """Return an accuracy or a difference of accuracies in points; with its own n, where that is not ``runs``."""
    if value is None:
        return ""
    fewer = "" if runs in (None, value.runs) else f" (n {value.burnins} / {value.runs})"
    return _with_interval(100 * value.mean, 100 * value.half, 1) + fewer


def _plain(value: Estimate | None, digits: int = 2) -> str:
    return "" if value is None else _with_interval(value.mean, value.half, digits)


def _with_interval(mean: float, half: float, digits: int) -> str:
    if math.isnan(mean):
        return "nan"
    exact = math.isnan(half) or half == 0
    return f"{mean:.{digits}f}" + ("" if exact else f" ± {half:.{digits}f}")
