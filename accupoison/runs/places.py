"""Where checkpoints are kept, and where a run finds the one that it starts from."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from accupoison.attacks import PixelAttack
from accupoison.config.layers import preset, presets
from accupoison.config.renamed import formerly, with_new_names
from accupoison.config.schema import ModelSettings, OnlineConfig
from accupoison.errors import InputError
from accupoison.models.factory import ModelSpec
from accupoison.records.files import directory_name, holds, read_json
from accupoison.records.run_directory import CONFIG, ENV, RunDirectory
from accupoison.runs.burnin import EARLY, FINAL

DEFAULTS = ModelSpec()
DIVISION = ("name", "flip", "burnin", "stream", "trigger", "val", "trusted", "monitor", "split_seed", "novel_classes")
"""The settings of the data that a stream takes over from its base model."""


def default_place(
    root: Path,
    data: str,
    model: ModelSettings,
    recipe: str,
    seed: int,
    parties: str = "",
    epochs: int | None = None,
) -> Path:
    """Return the directory under ``root`` where the burn-in of these settings is kept.

    Args:
        root: The directory of checkpoints.
        data: Name of the data set.
        model: The network.
        recipe: Of the burn-in; where only the directory of its old name is there, that one.
        seed: Of the burn-in.
        parties: Who poisons and who defends it, such as "dirty-label-ST"; "" is a clean one.
        epochs: Of the burn-in; the name has them where they are not the recipe's. None is as many as the recipe's.
    """
    own = [] if epochs in (None, _epochs(recipe)) else [f"{epochs}epochs"]
    ends = [*own, *filter(None, [parties]), f"seed{seed}"]
    names = ["-".join([*model_words(data, model), used, *ends]) for used in (recipe, formerly("start.recipe", recipe))]
    place, old = (root / name for name in names)
    if own and not holds(place.exists):  # of before names had epochs
        older = default_place(root, data, model, recipe, seed, parties)
        stored = read_json(older / CONFIG) if RunDirectory.holds_run(older) else {}
        return older if stored.get("train", {}).get("epochs") == epochs else place
    return old if holds(old.exists) and not holds(place.exists) else place


def model_words(data: str, model: ModelSettings) -> list[str]:
    """Return what names of directories say of data and network, such as cifar10, resnet18, w64 and batch."""
    label = Path(data.partition(":")[2]).stem if ":" in data else data
    name = (model.name or DEFAULTS.name).replace(":", ".")
    return [label, name, f"w{model.width or DEFAULTS.width}", model.norm or DEFAULTS.norm]


def _epochs(recipe: str) -> int | None:
    known: int | None = preset("burnin", recipe)["train"]["epochs"] if recipe in presets("burnin") else None
    return known


def run_name(config: OnlineConfig, typed: str | None = None) -> str:
    """Return the name of a run's directory: data, network, attack, eps in 1/255, defence and seed.

    Args:
        config: All settings.
        typed: What the user has called the defence, such as OURS; None takes its canonical name.
    """
    attack, start = config.attack, config.start
    words = model_words(config.data.name, config.model)[: 1 if start.checkpoint and not config.model.name else 3]
    if isinstance(attack, PixelAttack) and (attack.name != "none" or config.trigger.crafted):
        words += [attack.name, f"eps{attack.eps * 255:.3g}"]
    else:
        words += [attack.name]
    defense = typed if typed and ":" not in typed else config.defense.name
    return directory_name("-".join([*words, defense, f"seed{config.run.seed}"]))


def find_checkpoint(config: OnlineConfig, root: Path) -> tuple[Path, Path | None]:
    """Return the paths of the base checkpoint and of the early snapshot, None where there is none beside it.

    Args:
        config: ``start`` names them, or the default place under ``root`` is looked at, and then the places of the same
            burn-in with another number of epochs, of which there must be one.
        root: The directory of checkpoints.

    Raises:
        InputError: There is no checkpoint; the message has the command that makes it. Or there are several.
    """
    start = config.start
    path = _default(config, root) if start.checkpoint is None else Path(start.checkpoint)
    path = path / FINAL if start.checkpoint is not None and path.is_dir() else path
    early = path.with_name(EARLY) if start.reference is None else Path(start.reference)
    return path, early if start.reference is not None or early.exists() else None


def _default(config: OnlineConfig, root: Path) -> Path:
    start = config.start
    place = default_place(root, config.data.name, config.model, start.recipe, start.seed)
    if (place / FINAL).exists():
        return place / FINAL
    before, _, seed = place.name.rpartition("-")
    others = sorted(path / FINAL for path in root.glob(f"{before}-*epochs-{seed}") if (path / FINAL).exists())
    if len(others) > 1:
        raise InputError(
            f"there is no {place / FINAL} and {len(others)} of other numbers of epochs, such as {others[0]}; name one "
            "with <start.checkpoint>"
        )
    if others:
        return others[0]
    usual = OnlineConfig()
    made_by = {
        "data.name": (config.data.name, usual.data.name),
        "model.name": (config.model.name, usual.model.name),
        "model.width": (config.model.width, usual.model.width),
        "model.norm": (config.model.norm, usual.model.norm),
        "recipe": (start.recipe, usual.start.recipe),
        "run.seed": (start.seed, usual.start.seed),
    }
    options = {name: value for name, (value, default) in made_by.items() if value != default}
    raise InputError(f"there is no checkpoint {place / FINAL}; make it with", "burnin", options)


def division_of(config: OnlineConfig, root: Path) -> dict[str, dict[str, Any]]:
    """Return the layer of settings in which a stream follows its base model: data and division, and the network.

    Empty where the checkpoint is not there yet, or has no configuration beside it.

    Args:
        config: The settings so far.
        root: The directory of checkpoints.
    """
    try:
        place = find_checkpoint(config, root)[0].parent
    except InputError:
        return {}  # said when it is opened
    if not RunDirectory.holds_run(place):
        return {}
    stored = with_new_names(read_json(place / CONFIG))
    data, model = stored.get("data", {}), stored.get("model", {})
    usual = DIVISION[:2] if config.data.dir else (*DIVISION[:2], "dir")
    keys = (*usual, *DIVISION[2:]) if data.get("splits", "fresh") == config.data.splits == "fresh" else usual
    return {
        "data": {key: data[key] for key in keys if key in data},
        "model": {key: value for key, value in model.items() if value is not None},
    }


def recorded_places(config: OnlineConfig, root: Path) -> dict[str, str]:
    """Return where the files of a run are, absolute, by name: for whoever opens it from another directory."""
    checkpoint, reference = find_checkpoint(config, root)
    found = {"checkpoint": checkpoint, "reference": reference, "replay": config.stream.replay}
    return {name: str(Path(path).absolute()) for name, path in found.items() if path is not None}


def at_hand(config: OnlineConfig, root: Path, run: Path) -> OnlineConfig:
    """Return the settings of ``run`` with the files that are not to be had from here named by where they were.

    Args:
        config: The settings.
        root: The directory of checkpoints.
        run: Its directory; env.json has what :func:`recorded_places` returned, of newer runs.
    """
    places = read_json(run / ENV).get("places", {})
    known = {name: path for name, path in places.items() if holds(Path(path).exists)}
    start, stream = config.start, config.stream
    try:
        there = find_checkpoint(config, root)[0].exists()
    except InputError:
        there = False
    if not there and "checkpoint" in known:
        start = replace(start, checkpoint=known["checkpoint"])
    if start.reference is not None and not Path(start.reference).exists():
        start = replace(start, reference=known.get("reference", start.reference))
    if stream.replay is not None and not Path(stream.replay).exists():
        stream = replace(stream, replay=known.get("replay", stream.replay))
    return replace(config, start=start, stream=stream)
