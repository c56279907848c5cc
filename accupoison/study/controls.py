"""The controls of a grid, which are added to it: what a poisoned run has to be set beside before it says anything.

- coast: the poisoned run also takes a step without any batch where the trigger would come, from the same state;
- clean: the same stream, without poison: without defence, with the defence, and for a model that learns nothing, which
  says what the defence costs and how much of the learning it retains;
- noise: the same stream with random perturbations of the same size, without defence;
- FREEZE: the same poison for a model that learns nothing.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from accupoison.attacks import ATTACKS
from accupoison.attacks.pixel import PixelAttack
from accupoison.config.layers import plain
from accupoison.config.schema import OnlineConfig, changes
from accupoison.defenses import DEFENSES
from accupoison.records.run_directory import RunDirectory
from accupoison.registry import C, Registry

THEMSELVES = ("none", "noise")
"""Attacks that are controls."""


@dataclass(frozen=True)
class RunSpec:
    """One run of a grid.

    Attributes:
        out: Its directory.
        config: All settings.
    """

    out: Path
    config: OnlineConfig


def with_controls(specs: Sequence[RunSpec]) -> list[RunSpec]:
    """Return runs with the coast trigger where it is missing, and after them the controls that are not among them.

    A control that several runs share is there once, under the name of the first of them.

    Args:
        specs: The runs that a grid asks for.
    """
    runs = [RunSpec(spec.out, _coasting(spec)) for spec in specs]
    there: dict[str, list[set[str]]] = {}
    for run in runs:
        there.setdefault(_key(run.config), []).append(set(run.config.trigger.types))
    for spec in list(runs):
        for name, config in _controls(spec.config):
            known, types = there.setdefault(_key(config), []), set(config.trigger.types)
            if not any(types <= others for others in known):
                known.append(types)
                runs.append(RunSpec(spec.out.with_name(f"control-{name}-{spec.out.name}"), config))
    return runs


def _poisoned(config: OnlineConfig) -> bool:
    return config.attack.name not in THEMSELVES and config.defense.name != "FREEZE"


def _coasting(spec: RunSpec) -> OnlineConfig:
    """Return the settings of a run with the coast trigger; a run that was started without it goes on as it began."""
    config, types = spec.config, spec.config.trigger.types
    if not _poisoned(config) or {"coast", "none"} & set(types):
        return config
    if RunDirectory.holds_run(spec.out) and not changes(config, spec.out):
        return config
    return replace(config, trigger=replace(config.trigger, types=("coast", *types)))  # the last one goes on to audits


def _controls(config: OnlineConfig) -> Iterator[tuple[str, OnlineConfig]]:
    if not _poisoned(config):
        return
    undefended = replace(config, defense=like(config.defense, DEFENSES, "ST"))
    clean = replace(undefended, attack=like(config.attack, ATTACKS, "none"))
    yield "clean", _triggers(clean, "clean")
    frozen = like(config.defense, DEFENSES, "FREEZE")
    for name, defense in (("clean-defended", config.defense), ("clean-FREEZE", frozen)):
        untriggered = replace(clean, defense=defense)
        ends = untriggered.trigger.types if "none" in untriggered.trigger.types else ("coast", "clean")
        yield name, replace(untriggered, trigger=replace(untriggered.trigger, types=ends))
    if isinstance(config.attack, PixelAttack):
        noise = like(config.attack, ATTACKS, "noise", kind="rademacher")  # as large as signed gradient steps are
        yield "noise", _triggers(replace(undefended, attack=noise))
    yield "FREEZE", replace(config, defense=frozen)


def _triggers(config: OnlineConfig, *more: str) -> OnlineConfig:
    """Return settings with ``more`` triggers, if any arrive; one crafted anew at each step is crafted once."""
    types = tuple("adversarial" if name == "optimised" else name for name in config.trigger.types)
    if "none" in types:
        return config
    first = tuple(name for name in ("coast", *more) if name not in types)
    return replace(config, trigger=replace(config.trigger, types=(*first, *types)))


def like(old: C, registry: Registry[C], name: str, **own: object) -> C:
    """Return a component with the settings that it has in common with another, such as the budget.

    Args:
        old: The other one.
        registry: Of both.
        name: Of what is returned.
        own: Settings of its own.
    """
    shared = {key: value for key, value in old.settings.items() if key in registry.settings(name)}
    return registry.build(name, {**shared, **own})


def _key(config: OnlineConfig) -> str:
    """Return what runs share that differ at most in what arrives at the end."""
    settings = plain(config)
    settings["trigger"] = {**settings["trigger"], "types": []}
    return json.dumps(settings, sort_keys=True)
