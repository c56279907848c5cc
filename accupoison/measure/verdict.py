"""What one run comes to: a sentence, and what TensorBoard shows of it beside the curves."""

from collections.abc import Mapping
from typing import Any

from accupoison.config.layers import plain
from accupoison.config.schema import OnlineConfig
from accupoison.data import Splits
from accupoison.records.files import flatten

SIZE = 0.005
"""A difference of accuracy that is called none."""
RELEASED = {"DSC": "OURS"}
"""Defences that the released code has another name for."""


def spoken(defense: str) -> str:
    """Return the name of a defence with the one that the released code calls it by, as in "OURS (DSC)"."""
    return f"{RELEASED[defense]} ({defense})" if defense in RELEASED else defense


def points(difference: float) -> str:
    """Return a difference of two accuracies, each in [0, 1], in percentage points."""
    return f"{100 * difference:.1f} points"


def verdict(summary: Mapping[str, Any], config: OnlineConfig) -> str:
    """Return what the last trigger did to a run: against its start, and against a step without any batch.

    Args:
        summary: The run's; accuracies are fractions in [0, 1].
        config: Its settings.
    """
    name, trigger = spoken(config.defense.name), config.trigger.types[-1]
    start, reached = summary["start"]["acc"], summary["branches"].get(trigger, {})
    if summary["status"] != "finished" or not reached:
        return f"{name} began at {start:.1%}; the run has not come to the end of its stream."
    if trigger == "none":
        return f"{name} ends at {reached['end']['acc']:.1%}, from {start:.1%} at the start; no trigger came."
    after, before = reached["after"]["acc"], summary["before"]["acc"]
    told = f"{name} ends at {after:.1%} after the {trigger} trigger, from {start:.1%} at the start"
    told += f" and {before:.1%} before it"
    coast = summary["branches"].get("coast", {}).get("after", {}).get("acc")
    if trigger == "coast":
        return f"{told}."
    if coast is None:
        unknown = "What the trigger itself does is not known without a coast step beside it"
        return f"{told}. {unknown}; ask for both triggers: coast,{trigger}."
    drop = coast - after
    share = "nothing" if abs(drop) < SIZE else points(abs(drop))
    does = "gains" if drop <= -SIZE else "costs"
    return f"{told}. A step without any batch in its place ends at {coast:.1%}, so the trigger itself {does} {share}."


def milestones(summary: Mapping[str, Any], config: OnlineConfig) -> dict[str, Any]:
    """Return the test accuracies of a summary, and whose they are.

    TensorBoard sorts columns by name and shows five: those after up to three triggers, that before them, and "of".

    Args:
        summary: The run's.
        config: Its settings.
    """
    after = {name: found["after"]["acc"] for name, found in summary["branches"].items() if "after" in found}
    shared = {name: summary[name]["acc"] for name in ("before", "start") if name in summary}
    return {
        **({"after": after} if after else {}),
        **shared,
        "of": f"{spoken(config.defense.name)}, {config.attack.name}",
    }


def settings_text(settings: Mapping[str, Any]) -> str:
    """Return settings, by section, as a Markdown list with a line for each section."""
    parts = {name: ", ".join(f"{key} {value}" for key, value in flatten(part)) for name, part in settings.items()}
    return "\n".join(f"- **{name}**: {text}" for name, text in parts.items())


def as_used(config: OnlineConfig, splits: Splits, lr: float) -> dict[str, Any]:
    """Return the settings of a run, the sizes of the parts and the learning rate as they came to be.

    Args:
        config: The settings.
        splits: The parts of the data.
        lr: The learning rate of the stream.
    """
    settings = plain(config)
    sizes = {name: len(ids) for name, ids in vars(splits).items() if name in settings["data"]}
    return {**settings, "data": {**settings["data"], **sizes}, "optim": {**settings["optim"], "lr": lr}}
