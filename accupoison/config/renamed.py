"""Settings, values and presets that had other names: the old ones still work."""

from collections.abc import Callable, Mapping
from typing import Any

from accupoison.errors import InputError

Say = Callable[[str], None]
"""Told a sentence for the user, perhaps the same one several times."""

KEYS: dict[str, str] = {
    "attack.craft_mode": "attack.bn_mode",
    "attack.recentre": "attack.warm_start_ball",
    "attack.redraw": "attack.resample_rows",
    "attack.stage": "attack.channel",
    "attack.stealth": "attack.max_loss_increase",
    "data.held_out": "data.novel_classes",
    "optim.clip_kind": "update.clip_kind",
    "optim.clip_norm": "update.clip_norm",
    "optim.restore": "optim.restore_momentum",
    "optim.update_mode": "optim.bn_mode",
    "shadows.victims": "shadows.target_models",
    "start.early": "start.reference",
    "stream.after": "stream.recovery_steps",
    "train.clip_kind": "update.clip_kind",
    "train.clip_norm": "update.clip_norm",
    "trigger.deliver": "trigger.types",
}
"""New "section.key" by the old one; it holds in the tables of components, too (``[section.NAME]``)."""

RECIPES = {"live": "online_ready", "best": "one_cycle", "linear": "step_down", "official": "released"}
VALUES: dict[str, dict[str, str]] = {
    "attack.channel": {"data": "wire"},
    "attack.objective": {"reg": "both", "second": "second_order", "normal": "first_order"},
    "data.splits": {"official": "released_split"},
    "evaluate.test": {"marks": "milestones"},
    "stream.kind": {"official": "released_stream"},
    "train.recipe": RECIPES,
    "start.recipe": RECIPES,
}
"""New value by the old one, by (new) "section.key"."""

PRIVATE = {"noise_multiplier", "max_grad_norm", "delta", "chunk", "coupled"}
"""Settings of dpsgd, which older runs have stored, all of them, with sgd as well."""

PRESETS: dict[str, dict[str, str]] = {"burnin": RECIPES, "online": {"official": "released"}}
"""New name of a preset by the old one, by command."""


def formerly(key: str, value: str) -> str:
    """Return what the value of the setting ``key`` was called before, as directories have it; else ``value``."""
    return next((old for old, new in VALUES.get(key, {}).items() if new == value), value)


def quiet(sentence: str) -> None:
    """Say nothing: what is read back was written under the names of its time."""


def with_new_names(layer: Mapping[str, Any], say: Say = quiet) -> dict[str, dict[str, Any]]:
    """Return ``layer`` under the names of today.

    Args:
        layer: Settings by section, as a user or an older version wrote them; left as it is.
        say: Told a sentence for each old name.

    Raises:
        InputError: A table has a setting under its old name and under its new one.
    """
    new: dict[str, Any] = {}
    for section, values in layer.items():
        if not isinstance(values, Mapping):
            new[section] = values  # who reads the layer says what is wrong with it
            continue
        new.setdefault(section, {})
        for key, value in values.items():
            if isinstance(value, Mapping):
                new[section].setdefault(key, {})
                for inner, setting in value.items():
                    _put(new, (section, key), inner, setting, say)
            else:
                _put(new, (section,), key, value, say)
    update = new.get("update")
    if isinstance(update, dict) and update.get("name") == "sgd" and update.keys() > PRIVATE:
        new["update"] = {key: value for key, value in update.items() if key not in PRIVATE}
    return new


def _put(new: dict[str, Any], table: tuple[str, ...], key: str, value: object, say: Say) -> None:
    """Add one setting of ``table``, (section,) or (section, component), to the layer ``new``."""
    old = f"{table[0]}.{key}"
    name = KEYS.get(old, old)
    if name != old:
        say(f"{old} is now called {name}")
    if isinstance(value, str) and value in VALUES.get(name, {}):
        say(f"{name}={value} is now called {VALUES[name][value]}")
        value = VALUES[name][value]
    section, _, key = name.partition(".")
    for part in (section, *table[1:]):
        new = new.setdefault(part, {})
    if key in new:
        raise InputError(f"{name} is given twice, once under its old name; drop one of them")
    new[key] = value
