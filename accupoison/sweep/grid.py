"""What a grid file says.

A grid is TOML: ``[burnin]`` has ``preset``, ``seeds`` and settings by section; ``[online]`` has ``preset`` and settings
that all runs share; each ``[[runs]]`` has ``name``, ``seeds``, optionally ``burnins`` (some of the burn-in seeds),
settings by section, and ``[runs.each]`` with lists of values by ``"section.key"``, of which every combination is run.
``[[claims]]`` are for the report: see :func:`accupoison.claims.read_claims`.
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accupoison import config
from accupoison.base_model import default_place
from accupoison.claims import read_claims
from accupoison.errors import InputError, did_you_mean
from accupoison.files import directory_name
from accupoison.settings import BurninConfig, OnlineConfig, burnin_config, online_config


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


def read_grid(text: Mapping[str, Any], root: Path, logs: Path) -> Grid:
    """Return the grid that a parsed TOML file describes.

    Args:
        text: The file's contents.
        root: The directory of checkpoints.
        logs: The directory that gets one directory a run.

    Raises:
        InputError: An unknown key, a missing list of seeds, or a setting that does not exist.
    """
    _check_keys("the grid", text, ("burnin", "online", "runs", "claims"))
    if "claims" in text:
        read_claims(text)  # a typing error is said before anything runs
    burnin = dict(text.get("burnin", {}))
    preset, seeds = burnin.pop("preset", "live"), _seeds("burnin", burnin)
    burnins = {seed: _burnin(preset, seed, burnin, root) for seed in seeds}
    online = dict(text.get("online", {}))
    division = {"data": burnin.get("data", {})}  # streams divide the data as their base models do, unless they say so
    common = [config.preset("online", online.pop("preset", "fresh")), division, online]
    runs = text.get("runs", [])
    if not isinstance(runs, list) or not all(isinstance(run, Mapping) for run in runs):
        raise InputError("runs is not a list of tables; write [[runs]], with two brackets, before each of them")
    specs = [spec for run in runs for spec in _runs(dict(run), common, burnins, logs)]
    if not specs:
        raise InputError("the grid has no runs; add a [[runs]] table with a name and seeds")
    names = [spec.out.name for spec in specs]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"the grid has two runs called {name}; give their [[runs]] tables different names")
    return Grid(tuple(burnins.values()), tuple(specs))


def _burnin(preset: str, seed: int, settings: Mapping[str, Any], root: Path) -> tuple[Path, BurninConfig]:
    made = burnin_config([config.preset("burnin", preset), settings, {"run": {"seed": seed}}])
    return default_place(root, made.data.name, made.model, made.train.recipe, seed), made


def _runs(
    run: dict[str, Any], common: list[Any], burnins: Mapping[int, tuple[Path, BurninConfig]], logs: Path
) -> Iterator[RunSpec]:
    if "name" not in run:
        raise InputError("a [[runs]] table of the grid has no name; give it one")
    name, seeds = str(run.pop("name")), _seeds("runs", run)
    chosen, each = run.pop("burnins", list(burnins)), run.pop("each", {})
    if not isinstance(each, Mapping) or not all(isinstance(values, list) for values in each.values()):
        raise InputError(f'runs.each of {name!r} is not a table of lists; write "section.key" = [VALUE, VALUE]')
    for values in itertools.product(*([_text(value) for value in values] for values in each.values())):
        varied = config.assignments([f"{key}={value}" for key, value in zip(each, values, strict=True)])
        label = directory_name("-".join([name, *values]))
        for burnin, seed in itertools.product(chosen, seeds):
            if burnin not in burnins:
                raise InputError(f"runs {name!r} asks for burn-in {burnin}, which is not in burnin.seeds")
            layers = [*common, run, varied, _start(*burnins[burnin], seed)]
            yield RunSpec(logs / f"{label}-b{burnin}-s{seed}", online_config(layers))


def _start(place: Path, burnin: BurninConfig, seed: int) -> dict[str, dict[str, Any]]:
    return {
        "start": {"recipe": burnin.train.recipe, "seed": burnin.run.seed},
        "data": {"name": burnin.data.name},
        "model": {key: value for key, value in vars(burnin.model).items() if value is not None},
        "run": {"seed": seed},
    }


def _text(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _seeds(where: str, table: dict[str, Any]) -> list[int]:
    seeds = table.pop("seeds", None)
    if not isinstance(seeds, list) or not seeds or not all(isinstance(seed, int) for seed in seeds):
        raise InputError(f"{where}.seeds = {seeds!r} is not a list of whole numbers; write one such as [0, 1, 2]")
    return seeds


def _check_keys(where: str, table: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key in table:
        if key not in known:
            raise InputError(f"{where} has an unknown key {key!r}{did_you_mean(key, known)}")
