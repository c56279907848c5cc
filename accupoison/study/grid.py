"""What a grid file says.

A grid is TOML: ``[burnin]`` has ``preset``, ``seeds`` and settings by section; ``[online]`` has ``preset`` and settings
that all runs share; each ``[[runs]]`` has ``name``, ``seeds``, optionally ``burnins`` (some of the burn-in seeds),
settings by section, and ``[runs.each]`` with lists of values by ``"section.key"``, of which every combination is run.
``[[claims]]`` are for the report: see :func:`accupoison.study.claims.read_claims`.
"""

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import accupoison
from accupoison.config import layers as config
from accupoison.config.renamed import Say, formerly, quiet
from accupoison.config.schema import BurninConfig, OnlineConfig, burnin_config, online_config
from accupoison.errors import InputError, check_choice, check_least, did_you_mean
from accupoison.records.files import directory_name, holds
from accupoison.runs.base_model import default_place
from accupoison.study.claims import read_claims

MOST = 100_000
"""Runs of a grid; more are a typing error."""
LONGEST = 200
"""Letters in the name of a run; file systems take 255, and files of a run add to it."""


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
    if path.exists():
        return path
    if name not in shipped_grids():
        raise InputError(f"there is no grid {str(path)!r}{did_you_mean(name, shipped_grids())}, or give a TOML file")
    return (SHIPPED / name).with_suffix(".toml")


@dataclass(frozen=True)
class RunSpec:
    """One run of a grid.

    Attributes:
        out: Its directory.
        config: All settings.
    """

    out: Path
    config: OnlineConfig


@dataclass(frozen=True)
class Grid:
    """A whole grid.

    Attributes:
        burnins: The base models it needs, each with its directory.
        runs: The runs.
    """

    burnins: tuple[tuple[Path, BurninConfig], ...]
    runs: tuple[RunSpec, ...]


def read_grid(text: Mapping[str, Any], root: Path, logs: Path, say: Say = quiet) -> Grid:
    """Return the grid that a parsed TOML file describes.

    Args:
        text: The file's contents.
        root: The directory of checkpoints.
        logs: The directory that gets one directory a run.
        say: Told of old names.

    Raises:
        InputError: An unknown key, a missing list of seeds, or a setting that does not exist.
    """
    for key in text:
        check_choice("key of the grid", key, ("burnin", "online", "runs", "claims"))
    if "claims" in text:
        read_claims(text)  # a typing error is said before anything runs
    burnin = _table("burnin", text)
    preset, seeds = burnin.pop("preset", "online_ready"), _seeds("burnin", burnin)
    burnins = {seed: _burnin(preset, seed, burnin, root, say) for seed in seeds}
    online = _table("online", text)
    division = {"data": burnin.get("data", {})}  # streams divide the data as their base models do, unless they say so
    common = [config.preset("online", online.pop("preset", "fresh"), say), division, online]
    runs = text.get("runs", [])
    if not isinstance(runs, list) or not all(isinstance(run, Mapping) for run in runs):
        raise InputError("runs is not a list of tables; write [[runs]], with two brackets, before each of them")
    plans = [_plan(dict(run), burnins) for run in runs]
    count = sum(plan.count for plan in plans)
    if count > MOST:
        raise InputError(f"the grid has {count} runs, more than {MOST}; write shorter lists in runs.each and seeds")
    specs = [spec for plan in plans for spec in _runs(plan, common, burnins, logs, say)]
    if not specs:
        raise InputError("the grid has no runs; add a [[runs]] table with a name and seeds")
    for out, times in Counter(spec.out for spec in specs).items():
        if times > 1:
            raise InputError(f"the grid has two runs called {out.name}; give their [[runs]] tables different names")
    return Grid(tuple(burnins.values()), tuple(specs))


def _burnin(preset: str, seed: int, settings: Mapping[str, Any], root: Path, say: Say) -> tuple[Path, BurninConfig]:
    made = burnin_config([config.preset("burnin", preset, say), settings, {"run": {"seed": seed}}], say)
    return default_place(root, made.data.name, made.model, made.train.recipe, seed, made.parties), made


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
    plan: _Plan, common: list[Any], burnins: Mapping[int, tuple[Path, BurninConfig]], logs: Path, say: Say
) -> Iterator[RunSpec]:
    for values in itertools.product(*plan.each.values()):
        varied = config.assignments([f"{key}={value}" for key, value in zip(plan.each, values, strict=True)])
        label = directory_name("-".join([plan.name, *values]))
        old = directory_name("-".join([plan.name, *map(formerly, plan.each, values)]))
        for burnin, seed in itertools.product(plan.burnins, plan.seeds):
            out, made = (logs / f"{named}-b{burnin}-s{seed}" for named in (label, old))
            if len(out.name) > LONGEST:
                raise InputError(
                    f"the run {out.name!r} has a name of over {LONGEST} letters; give runs.name a shorter one"
                )
            out = made if holds(made.exists) and not holds(out.exists) else out
            layers = [*common, plan.settings, varied, _start(*burnins[burnin], seed)]
            yield RunSpec(out, online_config(layers, say))


def _start(place: Path, burnin: BurninConfig, seed: int) -> dict[str, dict[str, Any]]:
    return {
        "start": {
            "recipe": burnin.train.recipe,
            "seed": burnin.run.seed,
            **({"checkpoint": str(place)} if burnin.parties else {}),
        },
        "data": {"name": burnin.data.name},
        "model": {key: value for key, value in vars(burnin.model).items() if value is not None},
        "run": {"seed": seed},
    }


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
