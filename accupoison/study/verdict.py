"""A few runs on one screen: the table of ``demo`` and ``compare``, and what it comes to."""

from collections.abc import Callable, Sequence
from textwrap import wrap

from accupoison.measure.verdict import spoken
from accupoison.study.collect import Run
from accupoison.study.groups import Group, group
from accupoison.study.outcomes import Estimate
from accupoison.study.report.finding import finding
from accupoison.study.tables import Value, in_points, over

CONTROLS = ("FREEZE", "ST")
WIDTH = 110
"""Letters of a line of text."""


def verdict_text(runs: Sequence[Run], trigger: str) -> str:
    """Return the threat model, a table with a line for each attack and defence, and what it comes to in a sentence.

    Accuracies are in percent, with a 95% t-interval from three streams or base models on.

    Args:
        runs: Runs on the same streams, best with standard training on the clean one and FREEZE under attack.
        trigger: The path whose end is shown; runs on clean streams follow the clean trigger.
    """
    groups = sorted(group(runs), key=_order)
    poisoned = [one for one in groups if one.first.config.attack.name not in ("none", "noise")] or groups
    attacker = poisoned[-1].first.summary["threat_model"].partition("; defender")[0]
    names = ", ".join(dict.fromkeys(spoken(one.first.config.defense.name) for one in poisoned))
    columns = {title: [show(over(one, value)) for one in groups] for title, (value, show) in _columns(trigger).items()}
    labels = [_label(one, groups) for one in groups]
    wide = max(map(len, labels))
    widths = {title: max(map(len, [title, *cells])) + 2 for title, cells in columns.items()}
    lines = [" " * wide + "".join(f"{title:>{widths[title]}}" for title in columns)]
    for row, label in enumerate(labels):
        lines.append(f"{label:{wide}}" + "".join(f"{cells[row]:>{widths[title]}}" for title, cells in columns.items()))
    return "\n".join(
        [
            *wrap(f"{attacker}; defenders ({names}) own the training, never told which rows are poisoned", WIDTH),
            "",
            *(line.rstrip() for line in lines),
            "",
            *wrap(finding(runs, trigger), WIDTH),
        ]
    )


def _order(one: Group) -> tuple[int, bool, str]:
    """Clean streams first, then noise, and controls before other defences."""
    attack, defense = one.first.config.attack.name, one.first.config.defense.name
    return {"none": 0, "noise": 1}.get(attack, 2), defense not in CONTROLS, defense


def _label(one: Group, groups: Sequence[Group]) -> str:
    run, name = one.first, one.first.config.defense.name
    attack = "clean stream" if run.config.attack.name == "none" else run.config.attack.name
    kinds = {other.first.config.stream.kind for other in groups}
    stream = run.config.stream.kind if len(kinds) > 1 else ""
    return ", ".join(filter(None, [run.defense.replace(name, spoken(name), 1), attack, stream, one.setting]))


def _columns(trigger: str) -> dict[str, tuple[Value, Callable[[Estimate | None], str]]]:
    def moved(value: Estimate | None) -> str:
        return "" if value is None else f"{value.mean:.2f}"

    return {
        "start": (lambda run: run.summary["start"]["acc"], in_points),
        "before": (lambda run: run.summary.get("before", {}).get("acc"), in_points),
        "coast": (lambda run: run.after("coast"), in_points),
        "after": (lambda run: run.after(run.followed(trigger)), in_points),
        "weights moved": (lambda run: run.after(run.followed(trigger), "distance_from_start"), moved),
    }
