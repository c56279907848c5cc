"""A few runs on one screen: the table of ``demo``."""

from collections.abc import Sequence
from statistics import fmean

from accupoison.study.collect import Run

LITTLE = 0.1
"""A defence whose weights move less than this share of the way that standard training goes hardly learns."""


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
            lines.append(_line(f"{defense}, {title}", here, here[0].followed(trigger)))
            if triggered := _triggered(here, trigger):
                lines.append(_line(f"{defense}, clean, then trigger", triggered, trigger))
    return "\n".join([*lines, "", _meaning(poisoned, control, trigger)])


def _order(defense: str) -> tuple[bool, str]:
    """Controls first."""
    return defense not in ("FREEZE", "ST"), defense


def _line(label: str, runs: Sequence[Run], trigger: str) -> str:
    start = fmean(run.summary["start"]["acc"] for run in runs)
    before = fmean(run.summary["before"]["acc"] for run in runs)
    moved = _after(runs, trigger, "distance_from_start")
    return f"{label:28}{start:>8.1%}{before:>8.1%}{_after(runs, trigger):>8.1%}{moved:>15.2f}"


def _triggered(runs: Sequence[Run], trigger: str) -> list[Run]:
    """Return those runs on a clean stream that leave to the trigger as well as to the clean one."""
    return [run for run in runs if run.followed(trigger) != trigger and trigger in run.config.trigger.types]


def _after(runs: Sequence[Run], trigger: str, key: str = "acc") -> float:
    return fmean(value for run in runs if (value := run.after(trigger, key)) is not None)


def _lost(runs: Sequence[Run], trigger: str) -> float:
    """Return the points of accuracy that the trigger takes."""
    return 100 * (fmean(run.summary["before"]["acc"] for run in runs) - _after(runs, trigger))


def _meaning(poisoned: Sequence[Run], control: Sequence[Run], trigger: str) -> str:
    def of(defense: str) -> list[Run]:
        return [run for run in poisoned if run.config.defense.name == defense]

    frozen, standard = _after(of("FREEZE"), trigger), _after(of("ST"), trigger)
    lines = [
        f"ST ends {_beside(standard, frozen)} FREEZE, which drops every batch and ends at the {frozen:.1%} it began "
        "with; to end below that is not to win."
    ]
    if triggered := _triggered(control, trigger):
        lines.append(
            f"At the trigger ST loses {_lost(of('ST'), trigger):.1f} points after the poisoned stream and "
            f"{_lost(triggered, trigger):.1f} after the clean one."
        )
    ours = of("DSC")
    if ours:
        reached = _after(ours, trigger)
        moved = _after(ours, trigger, "distance_from_start")
        learning = _after(control, control[0].followed(trigger), "distance_from_start")
        little = ", so it learns next to nothing" if moved < LITTLE * learning else ""
        lines.append(
            f"OURS (DSC) ends at {reached:.1%}, {100 * (reached - standard):+.1f} points against ST, "
            f"{_beside(reached, frozen)} FREEZE; its weights moved {moved:.2f}, ST's on the clean stream "
            f"{learning:.2f}{little}."
        )
    return "\n".join(lines)


def _beside(accuracy: float, other: float) -> str:
    gap = 100 * (accuracy - other)
    return "level with" if abs(gap) < 0.5 else f"{abs(gap):.1f} points {'above' if gap > 0 else 'below'}"
