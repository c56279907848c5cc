"""A few runs on one screen: the table of ``demo`` and ``compare``, and what it comes to."""

from collections.abc import Callable, Iterator, Sequence
from math import isnan, nan
from textwrap import wrap

from accupoison.measure.verdict import SIZE, points, spoken
from accupoison.study.collect import Run
from accupoison.study.controls import THEMSELVES
from accupoison.study.groups import Group, group
from accupoison.study.outcomes import Estimate
from accupoison.study.report.finding import finding
from accupoison.study.tables import Value, in_points, over

CONTROLS = ("FREEZE", "ST")
WIDTH = 110
"""Letters of a line of text."""
LITTLE = 0.1
"""A defence whose weights move less than this share of the way that standard training goes hardly learns."""


def verdict_text(runs: Sequence[Run], trigger: str) -> str:
    """Return the threat model, a table with a line for each attack and defence, and what it comes to.

    Accuracies are in percent, with a 95% t-interval from three streams or base models on; "re-estimated" is the one
    after the path with batch norm's statistics made afresh.

    Args:
        runs: Runs on the same streams, best with standard training on the clean one and FREEZE under attack.
        trigger: The path whose end is shown; runs on clean streams follow the clean trigger, too.
    """
    groups = sorted(group(runs), key=_order)
    poisoned = [one for one in groups if one.first.config.attack.name not in THEMSELVES] or groups
    attacker = poisoned[-1].first.summary["threat_model"].partition("; defender")[0]
    names = ", ".join(dict.fromkeys(spoken(one.first.config.defense.name) for one in poisoned))
    threat = f"{attacker}; defenders ({names}) own the training, never told which rows are poisoned"
    said = [finding(runs, trigger), *_learners(poisoned, groups, trigger)]
    parts = [wrap(threat, WIDTH), list(_table(groups, trigger)), *(wrap(sentence, WIDTH) for sentence in said)]
    return "\n\n".join("\n".join(lines) for lines in parts)


def _table(groups: Sequence[Group], trigger: str) -> Iterator[str]:
    rows = []
    for one in groups:
        followed = one.first.followed(trigger)
        rows.append((_label(one, groups), one, followed))
        if followed != trigger and trigger in one.first.config.trigger.types:
            rows.append((f"{_label(one, groups)}, then the trigger", one, trigger))
    columns = {
        title: [show(over(one, value(path))) for _, one, path in rows] for title, (value, show) in COLUMNS.items()
    }
    columns = {title: cells for title, cells in columns.items() if any(cells)}
    widths = {title: max(map(len, [title, *cells])) + 2 for title, cells in columns.items()}
    wide = max(len(label) for label, _, _ in rows)
    yield " " * wide + "".join(f"{title:>{widths[title]}}" for title in columns)
    for k, (label, _, _) in enumerate(rows):
        yield (f"{label:{wide}}" + "".join(f"{cells[k]:>{widths[title]}}" for title, cells in columns.items())).rstrip()


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


def _moved(value: Estimate | None) -> str:
    return "" if value is None else f"{value.mean:.2f}"


COLUMNS: dict[str, tuple[Callable[[str], Value], Callable[[Estimate | None], str]]] = {
    "start": (lambda path: lambda run: run.summary["start"]["acc"], in_points),
    "before": (lambda path: lambda run: run.summary.get("before", {}).get("acc"), in_points),
    "coast": (lambda path: lambda run: run.after("coast"), in_points),
    "after": (lambda path: lambda run: run.after(path), in_points),
    "re-estimated": (lambda path: lambda run: run.after(path, "acc_bn_reestimated"), in_points),
    "weights moved": (lambda path: lambda run: run.after(path, "distance_from_start"), _moved),
}
"""What of a run is shown after a path, and how; a column that has nothing stays empty."""


def _learners(poisoned: Sequence[Group], groups: Sequence[Group], trigger: str) -> Iterator[str]:
    """Yield a sentence for each defence: what it costs by itself, what the poison adds, and how far FREEZE is."""
    frozen = [one for one in poisoned if one.first.config.defense.name == "FREEZE"]
    clean = {one.first.defense: one for one in groups if one.first.config.attack.name == "none"}
    if not frozen or "ST" not in clean:
        return
    still, path = _mean(frozen[0], trigger), clean["ST"].first.followed(trigger)
    way = _mean(clean["ST"], path, "distance_from_start")
    for one in poisoned:
        reached, moved = _mean(one, trigger), _mean(one, trigger, "distance_from_start")
        if one.first.config.defense.name in CONTROLS or isnan(reached - still):
            continue
        said = []
        if (own := clean.get(one.first.defense)) is not None:
            alone = _mean(own, path)
            cost = _changed(_mean(clean["ST"], path) - alone)
            added = _changed(alone - reached)
            said.append(f"on the clean stream it {cost} against ST, and the poison {added}")
        gap = reached - still
        beside = "level with" if abs(gap) < SIZE else f"{points(abs(gap))} {'above' if gap > 0 else 'below'}"
        little = ", so it learns next to nothing" if moved < LITTLE * way else ""
        said.append(f"it ends {beside} FREEZE, which drops every batch")
        said.append(f"its weights moved {moved:.2f}, those of ST on the clean stream {way:.2f}{little}")
        yield f"{spoken(one.first.config.defense.name)}: {'; '.join(said)}."


def _changed(lost: float) -> str:
    return "costs nothing" if abs(lost) < SIZE else f"{'costs' if lost > 0 else 'gains'} {points(abs(lost))}"


def _mean(one: Group, trigger: str, key: str = "acc") -> float:
    found = over(one, lambda run: run.after(trigger, key))
    return nan if found is None else found.mean
