"""A few runs on one screen: the table of ``demo``."""

from collections.abc import Sequence
from statistics import fmean

from accupoison.study.collect import Run


def brief(runs: Sequence[Run], trigger: str) -> str:
    """Return a plain table, one line for each attack and defence, and what FREEZE means for the others.

    Args:
        runs: Runs with the same stream, among them standard training and FREEZE under attack.
        trigger: The path whose end is shown.
    """
    poisoned = [run for run in runs if run.config.attack.name != "none"]
    control = [run for run in runs if run.config.attack.name == "none"]
    attacker = poisoned[-1].summary["threat_model"].partition("; defender")[0]
    names = ", ".join(sorted({run.config.defense.name for run in poisoned}, key=_order))
    lines = [f"{attacker}; defenders ({names}) own the training, never told which rows are poisoned", ""]
    lines.append(f"{'':28}{'start':>8}{'before':>8}{'after':>8}{'weights moved':>15}")
    for title, group in (("clean stream", control), ("poisoned stream", poisoned)):
        for defense in sorted({run.config.defense.name for run in group}, key=_order):
            here = [run for run in group if run.config.defense.name == defense]
            lines.append(_line(f"{defense}, {title}", here, trigger))
    return "\n".join([*lines, "", _meaning(poisoned, control, trigger)])


def _order(defense: str) -> tuple[bool, str]:
    """Controls first."""
    return defense not in ("FREEZE", "ST"), defense


def _line(label: str, runs: Sequence[Run], trigger: str) -> str:
    start = fmean(run.summary["start"]["acc"] for run in runs)
    before = fmean(run.summary["before"]["acc"] for run in runs)
    moved = _after(runs, trigger, "distance_from_start")
    return f"{label:28}{start:>8.1%}{before:>8.1%}{_after(runs, trigger):>8.1%}{moved:>15.2f}"


def _after(runs: Sequence[Run], trigger: str, key: str = "acc") -> float:
    return fmean(value for run in runs if (value := run.after(run.followed(trigger), key)) is not None)


def _meaning(poisoned: Sequence[Run], control: Sequence[Run], trigger: str) -> str:
    def of(defense: str) -> list[Run]:
        return [run for run in poisoned if run.config.defense.name == defense]

    frozen, standard = _after(of("FREEZE"), trigger), _after(of("ST"), trigger)
    lines = [f"FREEZE drops every batch and ends at the {frozen:.1%} it began with; to end below that is not to win."]
    ours = of("DSC")
    if ours:
        reached = _after(ours, trigger)
        gap = 100 * (reached - frozen)
        verdict = "level with" if abs(gap) < 0.5 else f"{abs(gap):.1f} points {'above' if gap > 0 else 'below'}"
        lines.append(
            f"OURS (DSC) ends at {reached:.1%}, {100 * (reached - standard):+.1f} points against ST, {verdict} FREEZE; "
            f"its weights moved {_after(ours, trigger, 'distance_from_start'):.2f}, ST's on the clean stream "
            f"{_after(control, trigger, 'distance_from_start'):.2f}."
        )
    return "\n".join(lines)
