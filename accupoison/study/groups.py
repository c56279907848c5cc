"""Which runs replicate one experiment, and what tells the experiments of a set apart."""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from accupoison.config.layers import as_text
from accupoison.study.collect import BUDGET, Run

NAMED = ("stream.kind", "update.clip_norm", "attack.", "defense.")
"""Settings that a label or a column shows already, except budgets."""
TYPES = "trigger.types"
DEFENCE = ("defense.", "update.")
"""Settings that defences differ in."""
SETTINGS = re.compile(r" \(.*\)")


@dataclass(frozen=True)
class Group:
    """Runs of one experiment, from several base models and seeds.

    Attributes:
        runs: The runs.
        setting: What tells this experiment from others of the set, beyond stream, attack, defence and trigger.
    """

    runs: tuple[Run, ...]
    setting: str

    @property
    def first(self) -> Run:
        """Any of the runs: they share all that a label shows."""
        return self.runs[0]

    @property
    def diverged(self) -> int:
        """How many of the runs diverged."""
        return sum(run.summary["status"] == "diverged" for run in self.runs)


def group(runs: Sequence[Run]) -> list[Group]:
    """Return the experiments among ``runs``, in order of first appearance."""
    by_settings: defaultdict[str, list[Run]] = defaultdict(list)
    for run in runs:
        by_settings[json.dumps(run.experiment, sort_keys=True)].append(run)
    settings = [members[0].experiment for members in by_settings.values()]
    alike = Counter(settings_but(one, TYPES) for one in settings)
    parted = {settings_but(one, TYPES, *DEFENCE) for one in settings if alike[settings_but(one, TYPES)] > 1}
    return [
        Group(tuple(members), _setting(one, settings, types=settings_but(one, TYPES, *DEFENCE) in parted))
        for one, members in zip(settings, by_settings.values(), strict=True)
    ]


def settings_but(experiment: dict[str, Any], *left_out: str) -> str:
    """Return the settings of an experiment as text, without those whose names begin with one of ``left_out``."""
    return json.dumps({key: value for key, value in experiment.items() if not key.startswith(left_out)}, sort_keys=True)


def _setting(experiment: dict[str, Any], others: Sequence[dict[str, Any]], *, types: bool) -> str:
    """Return what tells an experiment from others; its triggers where ``types``: these alone tell some apart."""
    shown = [f"{TYPES} {as_text(experiment[TYPES])}"] if types else []
    for key, value in experiment.items():
        section, _, name = key.partition(".")
        if (
            section in ("attack", "defense") and name in BUDGET
        ):  # compared where the attack, or the defence, is the same
            peers = [other for other in others if other.get(f"{section}.name") == experiment[f"{section}.name"]]
        elif key.startswith((TYPES, *NAMED)):
            continue
        else:
            peers = list(others)
        if any(other.get(key) != value for other in peers):
            shown.append(f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}")
    return ", ".join(shown)


def label_of(experiment: Group, others: Sequence[Group]) -> str:
    """Return what a figure calls an experiment; ``others`` are all that are in it.

    Settings of a defence or an attack are in it where two of its name differ in them: tables have all.
    """
    run = experiment.first
    defenses = {(one.first.config.defense.name, one.first.defense) for one in others}
    attacks = {(one.first.config.attack.name, one.first.attack) for one in others}
    defense = _short(run.config.defense.name, run.defense, defenses)
    attack = _short(run.config.attack.name, run.attack, attacks)
    parts = [defense, "clean stream" if run.config.attack.name == "none" else attack]
    parts += [run.config.stream.kind] if len({one.first.config.stream.kind for one in others}) > 1 else []
    text = ", ".join([*parts, experiment.setting] if experiment.setting else parts)
    return "".join(c if c.isprintable() else "\ufffd" for c in text)  # SVG takes no control characters


def _short(name: str, label: str, known: set[tuple[str, str]]) -> str:
    """Return a label without settings, unless there is another one of its name among ``known`` names and labels."""
    return label if sum(other == name for other, _ in known) > 1 else SETTINGS.sub("", label)


def named(runs: Sequence[Run]) -> dict[str, Group]:
    """Return the experiments among runs by what tells them apart, in words."""
    groups, names = group(runs), {}
    streams = {experiment.first.config.stream.kind for experiment in groups}
    triggers = {_audited(experiment) for experiment in groups if "trigger.types" not in experiment.setting}
    for experiment in groups:
        run = experiment.first
        parts = [run.attack, run.defense, experiment.setting]
        parts += [run.config.stream.kind] * (len(streams) > 1) + [_audited(experiment)] * (len(triggers) > 1)
        names[", ".join(filter(None, parts))] = experiment
    return names


def _audited(experiment: Group) -> str:
    """Return the trigger whose model an audit asks."""
    return f"trigger {experiment.first.config.trigger.types[-1]}"
