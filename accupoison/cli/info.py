"""What there is, and whether it works here: ``list`` and ``doctor``."""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import accupoison
from accupoison.cli.group import CHECKPOINTS, PROGRAM, cli, command_line
from accupoison.cli.options import PATH, option_names

if TYPE_CHECKING:  # imports torch, which --help can do without
    from accupoison.registry import Lookup, Registry


KEEP_MEMORY = {
    "MALLOC_MMAP_MAX_": 0,
    "MALLOC_TRIM_THRESHOLD_": 1 << 40,
    "MALLOC_TOP_PAD_": 1 << 26,
}
"""With these glibc keeps what a tensor leaves for the next one, which is otherwise a page fault for every 4 KiB."""


@cli.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def list_(as_json: bool) -> None:
    """List what can be chosen, each with what it is.

    Attacks, defences, updates and releases with their settings; triggers, streams, detectors, burn-in recipes, presets,
    grids, data sets, models; and the checkpoints that are here.
    """
    sections = _everything()
    if as_json:
        click.echo(json.dumps(sections, indent=2))
        return
    for title, entries in sections.items():
        width = max(map(len, entries))
        lines = [f"  {name:{width}}  {text}".rstrip() for name, text in entries.items()]
        click.echo("\n".join([title, *lines]))


def _everything() -> dict[str, dict[str, str]]:
    from accupoison.config.docstrings import gist
    from accupoison.config.schema import REGISTRIES
    from accupoison.data.sources import DATA, PATHS
    from accupoison.data.stream import STREAMS
    from accupoison.loop.detectors import DETECTORS
    from accupoison.loop.schedule import TRIGGERS
    from accupoison.models.factory import MODELS
    from accupoison.release import RELEASES
    from accupoison.study.grid import SHIPPED
    from accupoison.updates import UPDATES

    components = {
        "attacks": REGISTRIES["attack"],
        "defences": REGISTRIES["defense"],
        "updates": UPDATES,
        "releases": RELEASES,
    }
    parts = {title: _components(registry) for title, registry in components.items()}
    checkpoints = sorted(str(path) for path in CHECKPOINTS.glob("*/final.pt"))
    presets = Path(accupoison.__file__).parent / "presets"
    return parts | {
        "triggers": TRIGGERS,
        "streams": {
            name: said or gist(STREAMS.get(name).__doc__)  # what an installed package offers is not loaded for it
            for name, said in _names(STREAMS).items()
        },
        "detectors": {name: gist(cls.__doc__) for name, cls in DETECTORS.items()},
        "burn-in recipes": _openings(presets / "burnin"),
        "online presets": _openings(presets / "online"),
        "presets of audit releases": _openings(presets / "releases"),
        "grids": _openings(SHIPPED),
        "data sets": {(f"{name}:PATH" if name in PATHS else name): text for name, text in _names(DATA).items()},
        "models": _names(MODELS) | {"package.module:factory": "of your own"},
        "checkpoints": dict.fromkeys(checkpoints or [f"none yet: {command_line('burnin')}"], ""),
    }


def _openings(folder: Path) -> dict[str, str]:
    """Return the TOML files below a folder by name, each with the first sentence of its comment."""
    from accupoison.config.docstrings import comment, gist

    files = {path.relative_to(folder).with_suffix("").as_posix(): path for path in sorted(folder.rglob("*.toml"))}
    return {name: gist(comment(path.read_text(encoding="utf-8"))) for name, path in files.items()}


def _names(lookup: "Lookup[Any]") -> dict[str, str]:
    """Return the names of a kind, each with what there is to say of it."""
    return {name: "of an installed package" if lookup.offered(name) else _also(lookup, name) for name in lookup.names()}


def _also(lookup: "Lookup[Any]", name: str) -> str:
    return f"(also {', '.join(lookup.aliases(name))})" if lookup.aliases(name) else ""


def _components(registry: "Registry[Any]") -> dict[str, str]:
    from accupoison.config.docstrings import gist

    report = {}
    for name in registry.names():
        cls = registry.get(name)
        values = {
            key: f"{v:.4g}" if isinstance(v, float) else v for key, v in registry.build(name, {}).settings.items()
        }
        settings = ", ".join(f"{key}={value}" for key, value in values.items())
        report[name] = " ".join(filter(None, (gist(cls.__doc__), _also(registry, name), settings and f"[{settings}]")))
    return report


@cli.command()
@click.option("--data-dir", type=PATH, envvar="ACCUPOISON_DATA", help="Where the data files are.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def doctor(data_dir: Path | None, as_json: bool) -> None:
    """Say what this machine offers, and what is missing."""
    import torch

    from accupoison.device import DEVICE, resolve_device
    from accupoison.measure.hardware import ceiling
    from accupoison.records.run_directory import environment

    device = str(resolve_device("auto"))
    facts: dict[str, Any] = environment(device)
    facts[DEVICE] = os.environ.get(DEVICE) or "not set: --device auto takes what there is"
    facts["matrix product, GFLOP/s"] = round(ceiling(torch.device(device)) / 1e9)
    if sys.platform == "linux" and (unset := [name for name in KEEP_MEMORY if name not in os.environ]):
        facts["freed memory"] = "given back at once; kept, evaluations take a tenth less, with " + " ".join(
            f"{name}={KEEP_MEMORY[name]}" for name in unset
        )
    facts["free disk, GB"] = round(shutil.disk_usage(Path.cwd()).free / 1e9, 1)
    facts["writable here"] = os.access(Path.cwd(), os.W_OK)
    facts["CIFAR-10"] = _cifar(data_dir)
    names = sorted(path.parent.name for path in CHECKPOINTS.glob("*/final.pt"))
    facts["checkpoints"] = ", ".join(names) or f"none; make one with: {command_line('burnin')}"
    if cut := sorted({path.parent.name for path in CHECKPOINTS.glob("*/state.pt")} - set(names)):
        facts["not finished"] = f"{', '.join(cut)}: unless it is running, the same command goes on with --resume"
    if as_json:
        click.echo(json.dumps(facts, indent=2))
    else:
        click.echo("\n".join(f"{key:26} {value}" for key, value in facts.items()))


def _cifar(data_dir: Path | None) -> str:
    from accupoison.data import load
    from accupoison.errors import InputError

    try:
        data = load("cifar10", data_dir=data_dir, offline=True)
    except InputError as error:
        return f"not here: {error.text(PROGRAM, option_names())}"
    return f"{data.num_train} training and {len(data.test_x)} test images"
