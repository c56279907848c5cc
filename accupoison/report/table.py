"""Markdown tables of outcomes."""

import math
from collections.abc import Callable, Sequence

from accupoison.report.collect import Run
from accupoison.report.outcomes import Estimate, estimate, harm, retention, trigger_effect, yardstick

Value = Callable[[Run], float | None]


def main_table(runs: Sequence[Run]) -> str:
    """Return one row for each stream, attack, defence and trigger, accuracies in points with 95% intervals."""
    clean = yardstick(runs)
    rows = [_row(group, trigger, clean) for group in _groups(runs) for trigger in group[0].summary["branches"]]
    header = [
        "stream", "attack", "defence", "trigger", "start", "before", "after", "end", "before, BN re-est.",
        "after, BN re-est.", "harm H", "H, BN re-est.", "trigger effect", "MD AUC vs clean", "MD AUC vs noise",
        "weight change", "grad norm", "s/step", "n",
    ]  # fmt: skip
    return markdown(header, rows)


def _row(group: list[Run], trigger: str, clean: dict[tuple[str, int, str], Run]) -> list[str]:
    def points(value: Value) -> str:
        return _points(estimate((run.burnin, value(run)) for run in group))

    def mean(tag: str) -> str:
        return _plain(estimate((run.burnin, run.summary["means"].get(tag)) for run in group))

    first, again = group[0], "acc_bn_reestimated"
    return [
        first.config.stream.kind,
        first.attack,
        first.defense,
        trigger,
        points(lambda run: run.summary["start"]["acc"]),
        points(lambda run: run.summary.get("before", {}).get("acc")),
        points(lambda run: run.after(trigger)),
        points(lambda run: run.end(trigger)),
        points(lambda run: run.summary.get("before", {}).get(again)),
        points(lambda run: run.after(trigger, again)),
        points(lambda run: harm(run, trigger, clean)),
        points(lambda run: harm(run, trigger, clean, again)),
        points(lambda run: trigger_effect(run, trigger)) if trigger != "coast" else "",
        mean("defense/discrepancy_auc_clean"),
        mean("defense/discrepancy_auc_noise"),
        _plain(estimate((run.burnin, run.after(trigger, "drift")) for run in group)),
        mean("optim/grad_norm"),
        mean("time/step_s"),
        f"{len({run.burnin for run in group})} x {len({run.config.run.seed for run in group})}",
    ]


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


def _plain(value: Estimate | None) -> str:
    return "" if value is None else _with_interval(value.mean, value.half, 2)


def _with_interval(mean: float, half: float, digits: int) -> str:
    if math.isnan(mean):
        return "nan"
    return f"{mean:.{digits}f}" + ("" if math.isnan(half) else f" ± {half:.{digits}f}")
