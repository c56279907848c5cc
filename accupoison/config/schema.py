"""What determines a burn-in and an online run: sections, by name, from layers of settings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accupoison.attacks import ATTACKS, Accumulative, Attack, Clean
from accupoison.attacks.twins import CodePoisoning
from accupoison.config.burnin import DataSettings, ModelSettings, RunSettings, TrainSettings
from accupoison.config.layers import Layer, plain, resolve
from accupoison.config.online import (
    EvaluateSettings,
    OptimSettings,
    StartSettings,
    StopSettings,
    StreamSettings,
)
from accupoison.config.renamed import Say, quiet, with_new_names
from accupoison.defenses import DEFENSES, Defense, Freeze
from accupoison.errors import InputError
from accupoison.loop.schedule import Triggers
from accupoison.records.files import expect, read_json
from accupoison.records.run_directory import CONFIG, RunDirectory, differences
from accupoison.registry import Registry
from accupoison.release import RELEASES, Identity, Release
from accupoison.updates import DPSGD, SGD, UPDATES

__all__ = [
    "REGISTRIES",
    "BurninConfig",
    "DataSettings",
    "EvaluateSettings",
    "ModelSettings",
    "OnlineConfig",
    "OptimSettings",
    "RunSettings",
    "StartSettings",
    "StopSettings",
    "StreamSettings",
    "TrainSettings",
    "Triggers",
    "at_home",
    "burnin_config",
    "changes",
    "online_config",
]

REGISTRIES: dict[str, Registry[Any]] = {"attack": ATTACKS, "defense": DEFENSES, "update": UPDATES, "release": RELEASES}
"""The components that a configuration can name, by section."""

PLACES = ("dir", "offline")
"""Settings of the data that say where they are, not what they hold: a resumed run may have others."""


@dataclass(frozen=True, kw_only=True)
class BurninConfig:
    """Everything that determines a burn-in."""

    data: DataSettings = field(default_factory=DataSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    train: TrainSettings = field(default_factory=TrainSettings)
    attack: Attack = field(default_factory=Clean)
    defense: Defense = field(default_factory=Defense)
    update: SGD = field(default_factory=SGD)
    run: RunSettings = field(default_factory=RunSettings)

    @property
    def parties(self) -> str:
        """Who poisons and who defends the training, such as "dirty-label-ST"; "" where nobody does."""
        names = self.attack.name, self.defense.name
        return "" if names == ("none", "ST") else "-".join(names)

    def __post_init__(self) -> None:
        if not self.attack.offline:
            offline = ", ".join(name for name in ATTACKS.names() if ATTACKS.get(name).offline)
            raise InputError(
                f"the attack {self.attack.name} poisons a stream, not a burn-in; give <attack.name> one of {offline}"
            )
        if self.defense.requires or isinstance(self.defense, Freeze):
            needs = " and ".join(sorted(self.defense.requires)) or "no training at all"
            raise InputError(
                f"the defence {self.defense.name} needs {needs}, which a burn-in does not have; choose another"
            )
        if self.defense.overrides("direct", "amend", "after"):
            raise InputError(
                f"the defence {self.defense.name} judges the updates of a stream, which a burn-in does not let it; "
                "choose another"
            )
        if self.train.label_smoothing and type(self.defense).losses is not Defense.losses:
            raise InputError(
                f"train.label_smoothing is {self.train.label_smoothing} and the defence {self.defense.name} has a loss "
                "of its own; set train.label_smoothing=0"
            )
        check_rows_apart(self.update, self.defense, self.attack)
        usual = CodePoisoning()
        known = (usual.mean, usual.std)
        twins = isinstance(self.attack, CodePoisoning) and (self.attack.mean, self.attack.std) != known
        if twins and self.model.norm == "auxiliary":
            raise InputError(
                f"<model.norm> auxiliary knows noise of attack.mean {known[0]} and attack.std {known[1]} alone; drop "
                "these settings, or choose <model.norm> batch"
            )


@dataclass(frozen=True, kw_only=True)
class _NewSections:
    """Sections that runs of older versions lack, with what such a run has had all along."""

    attack: Attack = field(default_factory=Clean)
    defense: Defense = field(default_factory=Defense)
    release: Release = field(default_factory=Identity)


NEW_SECTIONS = _NewSections()
NEW_SETTINGS: dict[str, dict[str, Any]] = {"evaluate": {"detectors": []}, "shadows": {"leave_one_out": False}}
"""Settings that runs of older versions lack, and what such a run has had all along."""
NEW_RUN_SETTINGS = ("kernels", "precision", "deterministic", "graphs")
"""Of ``run``, likewise."""


@dataclass(frozen=True, kw_only=True)
class OnlineConfig:
    """Everything that determines an online run."""

    data: DataSettings = field(default_factory=DataSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    start: StartSettings = field(default_factory=StartSettings)
    stream: StreamSettings = field(default_factory=StreamSettings)
    attack: Attack = field(default_factory=Accumulative)
    trigger: Triggers = field(default_factory=Triggers)
    defense: Defense = field(default_factory=Defense)
    optim: OptimSettings = field(default_factory=OptimSettings)
    update: SGD = field(default_factory=SGD)
    stop: StopSettings = field(default_factory=StopSettings)
    evaluate: EvaluateSettings = field(default_factory=EvaluateSettings)
    release: Release = field(default_factory=Identity)
    run: RunSettings = field(default_factory=RunSettings)

    def __post_init__(self) -> None:
        if self.data.novel_classes and (self.stream.pool == "burnin" or self.stream.kind == "released_stream"):
            raise InputError(
                "data.novel_classes keeps classes out of the burn-in, and this stream is made of its images; set "
                "stream.pool=stream and stream.kind=iid"
            )
        if self.evaluate.save_batches and self.attack.in_code:
            raise InputError(
                "attack.channel=code puts poison in by the training code, so nothing is sent that "
                "<evaluate.save_batches> could keep; drop one of them"
            )
        check_rows_apart(self.update, self.defense, self.attack)
        if self.stop.active and self.stream.kind.startswith("shift:"):
            raise InputError(
                f"stream.kind {self.stream.kind} grows worse up to a fixed step, so no stop rule can be set with it; "
                "drop stop.error_rise and stop.error_above"
            )


def check_rows_apart(update: SGD, defense: Defense, attack: Attack) -> None:
    """Raise InputError if DP-SGD is asked for an epsilon where one sample has a say in the rows of others.

    Args:
        update: How the model is updated.
        defense: May let rows of a batch depend on each other.
        attack: May make rows of samples in the training code.
    """
    if not isinstance(update, DPSGD) or update.coupled:
        return
    if defense.couples:
        raise InputError(
            f"the defence {defense.name} lets rows of a batch depend on each other, so DP-SGD cannot bound "
            "what one sample does; choose another, or set update.coupled=true and get no epsilon"
        )
    if defense.couples is None:
        kind = type(defense).__name__
        raise InputError(
            f"the defence {defense.name} does not say whether rows depend on each other, so DP-SGD can state "
            f"no epsilon; declare `couples: ClassVar[bool] = False` in {kind} if no row's image or loss depends on "
            "another's (accupoison.testing.check_defense tries it), or set update.coupled=true and get no epsilon"
        )
    if attack.in_code and not attack.keeps_ids:
        raise InputError(
            f"the attack {attack.name} learns rows that it makes of each sample, so a sample does more than DP-SGD "
            "bounds; set update.coupled=true and get no epsilon"
        )


def rows_apart(defense: Defense, attack: Attack) -> bool:
    """Return whether DP-SGD bounds all that one sample does, so that an epsilon can be stated."""
    return defense.couples is False and not (attack.in_code and not attack.keeps_ids)


def changes(config: BurninConfig | OnlineConfig, run: Path) -> list[str]:
    """Return every setting in which ``run`` was started with another one than ``config`` has, in words."""
    return differences(with_new_names(read_json(run / CONFIG)), at_home(plain(config), run))


def at_home(settings: Layer, run: Path) -> dict[str, Mapping[str, Any]]:
    """Return ``settings`` with the data directory that ``run`` was started with: data that moved are still the same.

    A run of before a setting of ``run`` lacks it, and goes on with the one asked for; one of before a section of
    :data:`NEW_SECTIONS` has what it stands for; one of before a section or component got some setting, its default.
    """
    config = read_json(run / CONFIG) if RunDirectory.holds_run(run) else {}
    expect(run / CONFIG, config, {"data?": {}, "run?": {}})
    stored = config.get("data", {})
    known = config.get("run", settings["run"])
    usual = plain(NEW_SECTIONS)
    new = {name for name in usual if config and name not in config and settings.get(name) == usual[name]}
    return {
        **{name: _without_new(name, values, config) for name, values in settings.items() if name not in new},
        "data": {**settings["data"], **{key: stored[key] for key in PLACES if key in stored}},
        "run": {key: value for key, value in settings["run"].items() if key not in NEW_RUN_SETTINGS or key in known},
    }


def _without_new(section: str, values: Mapping[str, Any], config: Layer) -> Mapping[str, Any]:
    """Return the values of a section without those that the stored one lacks and that are what it stands for."""
    stored = config.get(section)
    if not isinstance(stored, Mapping) or stored.get("name") != values.get("name"):
        return values
    usual = NEW_SETTINGS.get(section, {})
    if section in REGISTRIES:
        usual = {key: known.default for key, known in REGISTRIES[section].settings(values["name"]).items()}
    return {key: v for key, v in values.items() if key in stored or key not in usual or v != usual[key]}


def burnin_config(layers: Sequence[Layer], say: Say = quiet) -> BurninConfig:
    """Return the burn-in configuration that ``layers`` make over the defaults; ``say`` is told of old names."""
    return resolve(BurninConfig, layers, REGISTRIES, say)


def online_config(layers: Sequence[Layer], say: Say = quiet) -> OnlineConfig:
    """Return the online configuration that ``layers`` make over the defaults; ``say`` is told of old names."""
    return resolve(OnlineConfig, layers, REGISTRIES, say)
