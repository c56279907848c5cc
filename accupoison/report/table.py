"""Markdown tables of outcomes.

Intervals are 95% t-intervals over base models, or over streams where there is one base model; n is base models /
runs.
"""

import math
from collections.abc import Callable, Sequence

from accupoison.report.collect import Run
from accupoison.report.outcomes import Estimate, estimate, harm, retention, trigger_effect, yardstick

Value = Callable[[Run], float | None]


def outcome_table(runs: Sequence[Run]) -> str:
    """Return one row for each stream, attack, defence and trigger: accuracies and their differences, in points."""
    clean = yardstick(runs)
    again = "acc_bn_reestimated"
    rows = []
    for group in _groups(runs):
        for trigger in group[0].summary["branches"]:
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
            rows.append([*_names(group), trigger, *(_points(_over(group, value)) for value in values), _count(group)])
    header = [
        *("stream", "attack", "defence", "trigger", "start", "before", "after", "end"),
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
        "time/attack_s",
        "time/defense_s",
        "time/update_s",
    )
    rows = []
    for group in _groups(runs):
        means = [_over(group, lambda run, tag=tag: run.summary["means"].get(tag)) for tag in tags]  # type: ignore[misc]
        moved = _over(group, lambda run: run.summary.get("before", {}).get("drift"))
        horizon = _over(group, lambda run: run.summary["horizon"])
        rows.append([*_names(group), _plain(horizon, 0), *(_plain(mean) for mean in means[:-3]), _plain(moved)])
        rows[-1] += [*(_plain(mean) for mean in means[-3:]), _count(group)]
    header = [
        *("stream", "attack", "defence", "steps", "MD clean", "MD sent", "MD AUC vs clean", "MD AUC vs noise"),
        *("inner steps", "gradient norm", "weights moved", "s attack", "s defence", "s update", "n"),
    ]
    return markdown(header, rows)


def _over(group: Sequence[Run], value: Value) -> Estimate | None:
    return estimate((run.burnin, value(run)) for run in group)


def _names(group: Sequence[Run]) -> list[str]:
    return [group[0].config.stream.kind, group[0].attack, group[0].defense]


def _count(group: Sequence[Run]) -> str:
    return f"{len({run.burnin for run in group})} / {len(group)}"


def retention_table(runs: Sequence[Run]) -> str:
    """Return the cost of each defence on clean streams, and the learning it retains where the world shifts.

    Empty without clean runs of ST and FREEZE.
    """
    rows = []
    clean = [run for run in runs if run.config.attack.name == "none"]
    for kind in sorted({run.config.stream.kind for run in clean}):
        here = [run for run in clean if run.config.stream.kind == kind]
        by_defense = {group[0].defense: _accuracy_at_end(group) for group in _groups(here)}
        if not {"ST", "FREEZE"} <= set(by_defense):
            continue
        for name, values in by_defense.items():
            cost = estimate(
                (pair[0], by_defense["ST"][pair] - values[pair]) for pair in values if pair in by_defense["ST"]
            )
            kept = retention(values, by_defense["FREEZE"], by_defense["ST"])
            accuracy = estimate((pair[0], value) for pair, value in values.items())
            rows.append(
                [
                    kind,
                    name,
                    _points(accuracy),
                    _points(cost),
                    "withheld" if kept is None else f"{kept:.2f}",
                    str(len(values)),
                ]
            )
    if not rows:
        return ""
    return markdown(["clean stream", "defence", "accuracy at the end", "cost against ST", "retention R", "runs"], rows)


def _accuracy_at_end(group: Sequence[Run]) -> dict[tuple[str, int, str], float]:
    """Return, by pair, the last accuracy of clean runs: under the current corruption where the stream shifts."""
    found = {}
    for run in group:
        key = "shifted_acc" if run.config.stream.kind.startswith("shift:") else "acc"
        value = run.end("clean", key)
        if value is not None:
            found[run.pair] = value
    return found


def _groups(runs: Sequence[Run]) -> list[list[Run]]:
    groups: dict[tuple[str, str, str, tuple[str, ...]], list[Run]] = {}
    for run in runs:
        key = (run.config.stream.kind, run.attack, run.defense, tuple(run.summary["branches"]))
        groups.setdefault(key, []).append(run)
    return list(groups.values())


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table, with columns that have no value left out."""
    used = [i for i in range(len(header)) if any(row[i] for row in rows)]
    lines = [[header[i] for i in used], ["---"] * len(used), *([row[i] for i in used] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _points(value: Estimate | None) -> str:
    """Return an accuracy or a difference of accuracies in points."""
    return "" if value is None else _with_interval(100 * value.mean, 100 * value.half, 1)


def _plain(value: Estimate | None, digits: int = 2) -> str:
    return "" if value is None else _with_interval(value.mean, value.half, digits)


def _with_interval(mean: float, half: float, digits: int) -> str:
    if math.isnan(mean):
        return "nan"
    exact = math.isnan(half) or half == 0
    return f"{mean:.{digits}f}" + ("" if exact else f" ± {half:.{digits}f}")
