"""What a grid file says.

A grid is TOML: ``[burnin]`` has ``preset``, ``seeds`` and settings by section; ``[online]`` has ``preset`` and settings
that all runs share; each ``[[runs]]`` has ``name``, ``seeds``, optionally ``burnins`` (some of the burn-in seeds),
settings by section, and ``[runs.each]`` with lists of values by ``"section.key"``, of which every combination is run.
``[[claims]]`` are for the report: see :func:`accupoison.study.claims.read_claims`. ``controls = false`` leaves out the
controls that are added otherwise: see :mod:`accupoison.study.controls`. docs/grids.md is made of what is said below.
"""

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import accupoison
from accupoison.config import layers as config
from accupoison.config.renamed import Say, formerly, quiet
from accupoison.config.schema import BurninConfig, OnlineConfig, burnin_config, online_config
from accupoison.errors import InputError, check_choice, check_least, did_you_mean
from accupoison.records.files import directory_name, flatten, holds
from accupoison.runs.places import default_place
from accupoison.study.claims import read_claims
from accupoison.study.controls import RunSpec, with_controls

MOST = 100_000
"""Runs of a grid; more are a typing error."""
LONGEST = 200
"""Letters in the name of a run; file systems take 255, and files of a run add to it."""


KEYS: dict[str, dict[str, str]] = {
    "": {
        "controls": "Whether the controls are added that a poisoned run needs: true (default) or false.",
        "burnin": "The table of the base models.",
        "online": "The table of what all runs share.",
        "runs": "The list of kinds of runs, at least one.",
        "claims": "The list of comparisons that `report --claims` holds to the runs.",
    },
    "[burnin]": {
        "preset": "The recipe; default `online_ready`.",
        "seeds": "List of whole numbers: a base model for each.",
        "...": "Settings of a burn-in by section, such as `[burnin.model]`.",
    },
    "[online]": {
        "preset": "Default `fresh`.",
        "...": "Settings of a stream by section, such as `[online.stream]`. Model and data are those of the burn-in.",
    },
    "[[runs]]": {
        "name": "Text that the names of the runs begin with.",
        "seeds": "List of whole numbers: a stream for each.",
        "burnins": "Some of `burnin.seeds`; default all.",
        "each": 'Table of lists by `"section.key"`; every combination is run.',
        "...": "Settings of a stream by section, such as `[runs.attack]`, over those of `[online]`.",
    },
}
"""What a grid may say, by table; "..." stands for settings."""
SHIPPED = Path(accupoison.__file__).parent / "grids"


def shipped_grids() -> list[str]:
    """Return the names of the grids that ship."""
    return sorted(path.relative_to(SHIPPED).with_suffix("").as_posix() for path in SHIPPED.rglob("*.toml"))


def find_grid(path: Path) -> Path:
    """Return the file of a grid: ``path`` itself, or the one that ships by that name, such as ``datasets/mnist``.

    Raises:
        InputError: There is neither.
    """
    name = path.as_posix().removeprefix("grids/").removesuffix(".toml")  # where they were in a checkout
    if path.is_file():
        return path
    if name not in shipped_grids():
        raise InputError(f"there is no grid {str(path)!r}{did_you_mean(name, shipped_grids())}, or give a TOML file")
    return (SHIPPED / name).with_suffix(".toml")


@dataclass(frozen=True)
class Grid:
    """A whole grid.

    Attributes:
        burnins: The base models it needs, each with its directory.
        runs: The runs.
    """

    burnins: tuple[tuple[Path, BurninConfig], ...]
    runs: tuple[RunSpec, ...]

    def part(self, burnins: Sequence[int], seeds: Sequence[int]) -> "Grid":
        """Return what some base models and streams are, the controls among them: a pilot.

        Args:
            burnins: Seeds of base models; empty takes all.
            seeds: Of streams, likewise.

        Raises:
            InputError: The grid has no such base model or stream.
        """
        models = {config.run.seed for _, config in self.burnins}
        streams = {spec.config.run.seed for spec in self.runs}
        for name, asked, known in (("burnins", burnins, models), ("seeds", seeds, streams)):
            if missing := [number for number in asked if number not in known]:
                listed = ", ".join(map(str, sorted(known)))
                raise InputError(f"--{name} {missing[0]} is not in the grid; choose from {listed}")
        bases = tuple(one for one in self.burnins if not burnins or one[1].run.seed in burnins)
        runs = (spec for spec in self.runs if not burnins or spec.config.start.seed in burnins)
        return Grid(bases, tuple(spec for spec in runs if not seeds or spec.config.run.seed in seeds))


def read_grid(
    text: Mapping[str, Any], root: Path, logs: Path, say: Say = quiet, over: Sequence[config.Layer] = ()
) -> Grid:
    """Return the grid that a parsed TOML file describes.

    Args:
        text: The file's contents.
        root: The directory of checkpoints.
        logs: The directory that gets one directory a run.
        say: Told of old names.
        over: Settings over those of the grid, the last of which win.

    Raises:
        InputError: An unknown key, a missing list of seeds, or a setting that does not exist.
    """
    for key in text:
        check_choice("key of the grid", key, KEYS[""])
    if "claims" in text:
        read_claims(text)  # a typing error is said before anything runs
    if not isinstance(controls := text.get("controls", True), bool):
        raise InputError(f"controls = {controls!r} is neither true nor false; write one of these")
    of_burnins, of_runs = divided(over)
    burnin = _table("burnin", text)
    preset, seeds = burnin.pop("preset", "online_ready"), _seeds("burnin", burnin)
    burnins = {seed: _burnin(preset, seed, [burnin, *of_burnins], root, say) for seed in seeds}
    online = _table("online", text)
    division = {"data": burnin.get("data", {})}  # streams divide the data as their base models do, unless they say so
    common = [config.preset("online", online.pop("preset", "fresh"), say), division, online]
    runs = text.get("runs", [])
    if not isinstance(runs, list) or not all(isinstance(run, Mapping) for run in runs):
        raise InputError("runs is not a list of tables; write [[runs]], with two brackets, before each of them")
    plans = [_plan(dict(run), burnins) for run in runs]
    _check_varied(plans, over)
    count = sum(plan.count for plan in plans)
    if count > MOST:
        raise InputError(f"the grid has {count} runs, more than {MOST}; write shorter lists in runs.each and seeds")
    specs = [spec for plan in plans for spec in _runs(plan, common, of_runs, burnins, logs, say)]
    if not specs:
        raise InputError("the grid has no runs; add a [[runs]] table with a name and seeds")
    if controls:
        specs = with_controls(specs)
    for out, times in Counter(spec.out for spec in specs).items():
        if times > 1:
            raise InputError(f"the grid has two runs called {out.name}; give their [[runs]] tables different names")
    return Grid(tuple(burnins.values()), tuple(specs))


def divided(over: Sequence[config.Layer]) -> tuple[list[config.Layer], list[config.Layer]]:
    """Return which settings are of the base models, and which of the runs, which take their model from those.

    Raises:
        InputError: The grid says such a setting for each run.
    """
    for section, key in (("run", "seed"), ("start", "seed"), ("start", "recipe")):
        if any(key in layer.get(section, {}) for layer in over):
            raise InputError(f"{section}.{key} is what the runs of a grid differ in; write it in the grid")
    burnin, online = ({f.name for f in fields(kind)} for kind in (BurninConfig, OnlineConfig))
    of_burnins: list[config.Layer] = []
    of_runs: list[config.Layer] = []
    for layer in over:
        mine = {*(burnin - online), "data", "model", "run"}  # attack and defence are those of the streams
        of_burnins.append({name: values for name, values in layer.items() if name in mine})
        of_runs.append({name: values for name, values in layer.items() if name not in burnin - online})
    return of_burnins, of_runs


def _check_varied(plans: "Sequence[_Plan]", over: Sequence[config.Layer]) -> None:
    """Raise InputError if one value is asked for where the grid has a list of them."""
    given = {key for layer in over for key, _ in flatten(layer)}
    for plan in plans:
        if both := sorted(given & set(plan.each)):
            raise InputError(f"runs.each of {plan.name!r} varies {both[0]}, so no single value can be given; drop one")


def _burnin(
    preset: str, seed: int, settings: Sequence[config.Layer], root: Path, say: Say
) -> tuple[Path, BurninConfig]:
    made = burnin_config([config.preset("burnin", preset, say), *settings, {"run": {"seed": seed}}], say)
    place = default_place(root, made.data.name, made.model, made.train.recipe, seed, made.parties, made.train.epochs)
    return place, made


@dataclass(frozen=True)
class _Plan:
    """A ``[[runs]]`` table, checked: its name, seeds, burn-ins, lists of values as text, and settings."""

    name: str
    seeds: list[int]
    burnins: list[int]
    each: dict[str, list[str]]
    settings: dict[str, Any]

    @property
    def count(self) -> int:
        """How many runs it stands for."""
        return len(self.seeds) * len(self.burnins) * math.prod(len(values) for values in self.each.values())


def _plan(run: dict[str, Any], burnins: Mapping[int, Any]) -> _Plan:
    if "name" not in run:
        raise InputError("a [[runs]] table of the grid has no name; give it one")
    name, seeds = run.pop("name"), _seeds("runs", run)
    if not isinstance(name, str) or not directory_name(name).strip("-.") or "/" in name or "\\" in name:
        raise InputError(f"runs.name = {name!r} cannot be the name of a directory; write letters and digits")
    chosen = _numbers("runs.burnins", run.pop("burnins")) if "burnins" in run else list(burnins)
    for burnin in chosen:
        if burnin not in burnins:
            raise InputError(f"runs {name!r} asks for burn-in {burnin}, which is not in burnin.seeds")
    each = run.pop("each", {})
    if not isinstance(each, Mapping) or not all(isinstance(values, list) for values in each.values()):
        raise InputError(f'runs.each of {name!r} is not a table of lists; write "section.key" = [VALUE, VALUE]')
    return _Plan(name, seeds, chosen, {key: list(map(_text, values)) for key, values in each.items()}, run)


def _runs(
    plan: _Plan,
    common: list[Any],
    over: Sequence[config.Layer],
    burnins: Mapping[int, tuple[Path, BurninConfig]],
    logs: Path,
    say: Say,
) -> Iterator[RunSpec]:
    for values in itertools.product(*plan.each.values()):
        varied = config.assignments([f"{key}={value}" for key, value in zip(plan.each, values, strict=True)])
        label = directory_name("-".join([plan.name, *map(_label, plan.each, values)]))
        old = directory_name("-".join([plan.name, *map(formerly, plan.each, values)]))
        for burnin, seed in itertools.product(plan.burnins, plan.seeds):
            out, made = (logs / f"{named}-b{burnin}-s{seed}" for named in (label, old))
            if len(out.name) > LONGEST:
                raise InputError(
                    f"the run {out.name!r} has a name of over {LONGEST} letters; give runs.name a shorter one"
                )
            out = made if holds(made.exists) and not holds(out.exists) else out
            layers = [*common, _base_place(*burnins[burnin]), plan.settings, varied, *over]
            layers += [_start(burnins[burnin][1], seed)]
            yield RunSpec(out, online_config(layers, say))


def _label(key: str, value: str) -> str:
    """Return what a directory calls a value: of a component that is named by its path, the class."""
    return value.rpartition(":")[2] if key in ("attack.name", "defense.name") else value


def _start(burnin: BurninConfig, seed: int) -> dict[str, dict[str, Any]]:
    return {
        "start": {
            "recipe": burnin.train.recipe,
            "seed": burnin.run.seed,
        },
        "data": {"name": burnin.data.name},
        "model": {key: value for key, value in vars(burnin.model).items() if value is not None},
        "run": {"seed": seed},
    }


def _base_place(place: Path, burnin: BurninConfig) -> config.Layer:
    """Return the setting that names the base model, where a run would look for it somewhere else."""
    usual = default_place(place.parent, burnin.data.name, burnin.model, burnin.train.recipe, burnin.run.seed)
    return {} if place == usual else {"start": {"checkpoint": str(place)}}


def _text(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _table(name: str, text: Mapping[str, Any]) -> dict[str, Any]:
    table = text.get(name, {})
    if not isinstance(table, Mapping):
        raise InputError(f"{name} = {table!r} is not a table; write [{name}] and its settings below")
    return dict(table)


def _seeds(where: str, table: dict[str, Any]) -> list[int]:
    seeds = _numbers(f"{where}.seeds", table.pop("seeds", None))
    for seed in seeds:
        check_least(f"{where}.seeds", seed, 0, "0 or more")
    return seeds


def _numbers(where: str, value: object) -> list[int]:
    if not isinstance(value, list) or not value or not all(type(item) is int for item in value):
        raise InputError(f"{where} = {value!r} is not a list of whole numbers; write one such as [0, 1, 2]")
    return value
