"""What a set of runs found, in one sentence."""

from collections.abc import Mapping, Sequence

from accupoison.measure.verdict import spoken
from accupoison.study.collect import Run
from accupoison.study.controls import THEMSELVES
from accupoison.study.groups import Group, group, label_of
from accupoison.study.outcomes import Estimate, Pair, harm, trigger_effect, yardstick
from accupoison.study.report.audits import Exposure
from accupoison.study.tables import Value, in_points, over


def finding(runs: Sequence[Run], trigger: str) -> str:
    """Return what the strongest attack does to standard training, beside noise, and what is left under defences.

    Args:
        runs: The runs.
        trigger: After which harm is measured.
    """
    clean = yardstick(runs)
    harms = [(one, found) for one in group(runs) if (found := _harm(one, trigger, clean)) is not None]
    attacked = [(one, found) for one, found in harms if one.first.config.attack.name not in THEMSELVES]
    if not attacked:
        return _without_harm(runs, trigger)
    undefended = [entry for entry in attacked if entry[0].first.defense == "ST"]
    worst, lost = max(undefended or attacked, key=lambda entry: entry[1].mean)
    run = worst.first
    trained = "standard training" if run.defense == "ST" else spoken(run.defense)
    parts = [f"{_name(worst)} with the {trigger} trigger costs {trained} {_points(lost)}"]
    own = over(worst, lambda run: None if trigger == "coast" else trigger_effect(run, trigger))
    parts += [] if own is None else [f"of these the trigger itself, against a step without a batch, {_points(own)}"]
    parts += _noise(worst, lost, harms) + _defended(worst, lost, attacked)
    beside = "harm H, against standard training on the clean stream with a clean trigger"
    return f"On {run.config.data.name}, {'; '.join(parts)} ({beside}; {how_sure(lost)})."


def most_exposed(found: Sequence[Exposure], attack: str) -> str:
    """Return whose members are told best, in a sentence; nothing without audits.

    Args:
        found: The experiments that were audited.
        attack: By which members are told.
    """
    if not found:
        return ""
    worst = max(found, key=lambda one: one.auc.mean)
    label = label_of(group(worst.runs)[0], group([run for one in found for run in one.runs]))
    return f" Members are told best under {label}: AUC {worst.auc.text(3)} by {attack} ({how_sure(worst.auc)})."


def _harm(experiment: Group, trigger: str, clean: Mapping[Pair, Run]) -> Estimate | None:
    followed = experiment.first.followed(trigger)
    return over(experiment, lambda run: harm(run, followed, clean))


def _noise(worst: Group, cost: Estimate, harms: Sequence[tuple[Group, Estimate]]) -> list[str]:
    run = worst.first
    found = [
        (one.first.attack, lost)
        for one, lost in harms
        if one.first.config.attack.name == "noise"
        and (one.first.defense, one.first.pair[2]) == (run.defense, run.pair[2])
    ]
    return [
        f"{attack} before the same trigger costs it {'as much or more, ' * (lost.mean >= cost.mean)}{_points(lost)}"
        for attack, lost in found[:1]
    ]


def _defended(worst: Group, cost: Estimate, attacked: Sequence[tuple[Group, Estimate]]) -> list[str]:
    """Return what is left under the defence that leaves least, if any does, and under FREEZE, which learns nothing."""
    run = worst.first
    same = [
        (one, lost)
        for one, lost in attacked
        if (one.first.attack, one.first.pair[2]) == (run.attack, run.pair[2]) and one is not worst
    ]
    learning = [entry for entry in same if entry[0].first.defense not in ("ST", "FREEZE")]
    frozen = [entry for entry in same if entry[0].first.defense == "FREEZE"]
    parts = []
    if learning:
        best, left = min(learning, key=lambda entry: entry[1].mean)
        name, fewer = spoken(best.first.defense), left.mean < cost.mean
        found = f"{name} leaves the least" if fewer else f"none leaves less; {name} comes closest"
        parts.append(f"of the other defences, {found}, {_points(left)}")
    if frozen:
        parts.append(f"FREEZE, which learns nothing, ends at {_points(frozen[0][1])}")
    return parts


def _name(experiment: Group) -> str:
    run = experiment.first
    setting = f" ({experiment.setting})" if experiment.setting else ""
    return f"{run.attack} poisoning of the {run.config.stream.kind} stream{setting}"


def _points(value: Estimate) -> str:
    return f"{in_points(value)} points"


def how_sure(value: Estimate) -> str:
    """Return what an estimate is over, in words."""
    unit, count = "base model" if value.over == "burn-ins" else "stream", len(value.values)
    replicates = f"{count} {unit}{'s' * (count != 1)}"
    return f"mean and 95% t-interval over {replicates}" if value.half >= 0 else f"{replicates}, too few for an interval"


def _without_harm(runs: Sequence[Run], trigger: str) -> str:
    """Return accuracies alone, where there is no clean control or nobody attacks: after the trigger, or without one."""
    for when, value in (("after the trigger", _after(trigger)), ("at the end of the stream", _before)):
        found = [(one, mean) for one in group(runs) if (mean := over(one, value)) is not None]
        poisoned = [entry for entry in found if entry[0].first.config.attack.name not in THEMSELVES]
        if found:
            worst, mean = min(poisoned or found, key=lambda entry: entry[1].mean)
            run, reached = worst.first, f"{in_points(mean)}% ({how_sure(mean)})"
            if not poisoned:
                return f"No run is poisoned; accuracy {when} is lowest with {run.defense}: {reached}."
            why = "harm H needs ST on the clean stream with the clean trigger, which these runs lack"
            return f"Accuracy {when} is lowest under {run.attack} with {run.defense}: {reached}; {why}."
    return "No run has come to the end of its stream, so there is nothing to say of harm."


def _after(trigger: str) -> Value:
    return lambda run: run.after(run.followed(trigger))


def _before(run: Run) -> float | None:
    accuracy: float | None = run.summary.get("before", {}).get("acc")
    return accuracy
