"""From layers of settings (defaults, preset, file, flags) to one frozen, checked configuration."""

import dataclasses
import math
import re
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from accupoison.config.renamed import PRESETS, Say, quiet, with_new_names
from accupoison.errors import InputError, check_choice, did_you_mean
from accupoison.records.files import INT64, NESTED, check_values, is_text, read_json
from accupoison.registry import Component, Registry

Layer = Mapping[str, Mapping[str, Any]]
"""Settings by section; later layers win."""

D = TypeVar("D")


def resolve(cls: type[D], layers: Sequence[Layer], registries: Mapping[str, Registry[Any]], say: Say = quiet) -> D:
    """Return a configuration of dataclass ``cls`` from ``layers``, the last of which wins.

    Every field of ``cls`` is a section: a dataclass, or a component where there is a registry of that name. A component
    section holds ``name``; settings, which belong to the named component or, without a name beside them, to whichever
    is chosen in the end; and tables ``[section.NAME]``, which count only if NAME is chosen.

    Args:
        cls: The dataclass.
        layers: Settings by section, also under names of before (:mod:`accupoison.config.renamed`).
        registries: Of the components, by section.
        say: Told of every name of before.

    Raises:
        InputError: An unknown section, key or component (with the closest match), or a value of the wrong type.
    """
    sections = typing.get_type_hints(cls)
    layers = [with_new_names(layer, say) for layer in layers]
    for layer in layers:
        for section, values in layer.items():
            check_choice("section", section, sections)
            if not isinstance(values, Mapping):
                raise InputError(f"{section} = {values!r} is not a section; write {section}.KEY = VALUE")
    built: dict[str, Any] = {}
    for section, kind in sections.items():
        parts = [layer[section] for layer in layers if section in layer]
        if section in registries:
            built[section] = _component(section, registries[section], getattr(cls(), section).name, parts)
        else:
            values = {key: value for part in parts for key, value in part.items()}
            built[section] = kind(**_checked(section, typing.get_type_hints(kind), values))
    return cls(**built)


def _component(section: str, registry: Registry[Any], name: str, parts: Sequence[Mapping[str, Any]]) -> Component:
    entries: list[tuple[str | None, str, Any]] = []  # (the component a value is tied to, key, value), later wins
    before = 0  # entries of layers before the one that chooses the component
    for part in parts:
        owner = registry.canonical(str(part["name"])) if "name" in part else None
        if owner is not None:
            name, before = owner, len(entries)
        for key, value in part.items():
            if isinstance(value, Mapping):
                entries += [(registry.canonical(key), inner, setting) for inner, setting in value.items()]
            elif key != "name":
                entries.append((owner, key, value))
    for owner, key, _ in entries:  # a typing error in the table of a component that is not chosen is still one
        if owner is not None:
            _known(f"{section}.{owner}", registry.settings(owner), key)
    name = registry.canonical(name)
    hints = typing.get_type_hints(registry.get(name))
    known = {key: hints[key] for key in registry.settings(name)}
    # what a preset says of attacks is dropped where one is chosen that has no such setting, but others have
    elsewhere = {key for other in registry.names() for key in registry.settings(other)} - known.keys()
    meant = [e for place, e in enumerate(entries) if e[0] or e[1] not in elsewhere or place >= before]
    values = {key: value for owner, key, value in meant if owner in (None, name)}
    for key in values.keys() - known:
        if others := [other for other in registry.names() if key in registry.settings(other)]:
            raise InputError(
                f"{section}.{key} is a setting of {', '.join(others)} and <{section}.name> is {name}; give one of "
                "these, or drop it"
            )
    built: Component = registry.build(name, _checked(f"{section}.{name}", known, values))
    return built


def _checked(section: str, known: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    for key in values:
        _known(section, known, key)
    return {key: coerce(value, known[key], f"{section}.{key}") for key, value in values.items()}


def _known(section: str, known: Mapping[str, Any], key: str) -> None:
    if key not in known:
        choices = did_you_mean(key, known) if known else f"; {section} has no settings"
        raise InputError(f"unknown setting {section}.{key}{choices}")


def coerce(value: object, hint: object, where: str) -> object:
    """Return ``value`` (perhaps text from the command line) as the annotated type ``hint``.

    Floats may be fractions such as ``8/255``; tuples of names may be text with commas; ``none`` is None where the type
    allows it.

    Args:
        value: The value.
        hint: The type.
        where: The setting, "section.key".

    Raises:
        InputError: The value does not fit.
    """
    options = typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)
    if types.NoneType in options:
        if value is None or (isinstance(value, str) and value.lower() == "none"):
            return None
        options = tuple(option for option in options if option is not types.NoneType)
    if len(options) != 1:
        raise InputError(f"{where} is declared as {hint}, which no setting can be; declare one type, or one or None")
    (wanted,) = options
    if typing.get_origin(wanted) is tuple:
        return tuple(coerce(item, typing.get_args(wanted)[0], where) for item in _items(value, where))
    if wanted is bool:
        return _boolean(value, where)
    if wanted is float:
        return number(value, where)
    if wanted is int and isinstance(value, str | int) and not isinstance(value, bool):
        return whole(value, where)
    if wanted is str and isinstance(value, str):
        return _text(value, where)
    raise InputError(f"{where} = {value!r} has the wrong type; it takes a value of type {wanted.__name__}")


def whole(value: str | int, where: str) -> int:
    """Return a whole number of 64 bits, perhaps from text such as ``10``.

    Raises:
        InputError: It is none.
    """
    if isinstance(value, str) and not re.fullmatch(r"[+-]?[0-9]+", value.strip()):
        raise InputError(f"{where} = {value!r} is not a whole number; write one such as 10")
    try:
        result = int(value)
    except ValueError:  # Python reads no text of thousands of digits
        result = INT64[1] + 1
    if not INT64[0] <= result <= INT64[1]:
        raise InputError(f"{where} = {value} has more than 64 bits; write a smaller number")
    return result


def _text(value: str, where: str) -> str:
    if not is_text(value):
        raise InputError(f"{where} = {value!r} has characters that no name can have; write it without them")
    return value.strip()


def _items(value: object, where: str) -> Sequence[object]:
    if isinstance(value, str):
        return value.split(",") if value.strip() else ()
    if isinstance(value, list | tuple):
        return value
    raise InputError(f"{where} = {value!r} is not a list; write several values with commas between them")


def _boolean(value: object, where: str) -> bool:
    words = {"true": True, "false": False}
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in words:
        return words[value.lower()]
    raise InputError(f"{where} = {value!r} is neither true nor false; write one of these")


def number(value: object, where: str) -> float:
    """Return a float from a number or from text such as ``0.1``, ``8/255`` or ``inf``.

    Raises:
        InputError: It is not a number, or divides by zero.
    """
    text = str(value)
    result = math.nan
    plain_text = text.isascii() and "_" not in text  # Python would take digits of all scripts
    if plain_text and isinstance(value, str | int | float) and not isinstance(value, bool):
        top, slash, bottom = text.partition("/")
        try:
            result = float(top) / float(bottom) if slash else float(top)
        except ZeroDivisionError:
            raise InputError(f"{where} = {value!r} divides by zero; write a fraction such as 8/255") from None
        except ValueError:
            pass  # said below
    if math.isnan(result):
        raise InputError(f"{where} = {value!r} is not a number; write one such as 0.1 or 8/255")
    return result


def assignments(pairs: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return a layer from ``section.key=value`` texts (``section.NAME.key=value`` for one component's settings).

    Raises:
        InputError: A text is not of this form.
    """
    layer: dict[str, Any] = {}
    for pair in pairs:
        path, equals, value = pair.partition("=")
        keys = [key.strip() for key in path.split(".")]
        if not equals or len(keys) not in (2, 3) or not all(keys):
            raise InputError(f"the setting {pair!r} is not of the form section.key=value, such as attack.eps=8/255")
        table = layer
        for key in keys[:-1]:
            table = table.setdefault(key, {})
            if not isinstance(table, dict):
                raise InputError(
                    f"the setting {pair!r} takes {key} for a table and an earlier one gives it a value; drop one"
                )
        if isinstance(table.get(keys[-1]), dict):
            raise InputError(f"the setting {pair!r} gives a value to {keys[-1]}, a table in an earlier one; drop one")
        table[keys[-1]] = value.strip()
    return layer


def as_text(value: object) -> str:
    """Return a value as :func:`assignments` reads it."""
    match value:
        case None:
            return "none"
        case bool():
            return str(value).lower()
        case list() | tuple():
            return ",".join(map(str, value))
    return str(value)


def read_toml(path: Path) -> dict[str, Any]:
    """Return the contents of a TOML file.

    Raises:
        InputError: It cannot be read or is not TOML.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        check_values(content)
    except OSError as error:
        raise InputError(f"cannot read the configuration {path}: {error.strerror}; check the path") from error
    except RecursionError:
        raise InputError(f"{path} is not usable TOML: {NESTED}; write settings as section.key") from None
    except ValueError as error:  # of TOML, of UTF-8, or of a number with thousands of digits
        raise InputError(f"{path} is not valid TOML: {error}") from error
    return content


def read_settings(path: Path) -> dict[str, Any]:
    """Return the settings in a TOML file, in the config.json of a run, or in that of the run in a directory.

    Raises:
        InputError: It cannot be read, or is not of its form.
    """
    path = path / "config.json" if path.is_dir() else path
    return read_json(path) if path.suffix == ".json" else read_toml(path)


def presets(command: str) -> list[str]:
    """Return the names of the presets that ship for ``command`` ("burnin" or "online")."""
    folder = resources.files("accupoison") / "presets" / command
    return sorted(item.name.removesuffix(".toml") for item in folder.iterdir() if item.name.endswith(".toml"))


def preset(command: str, name: str, say: Say = quiet) -> dict[str, Any]:
    """Return the layer that a shipped preset stands for.

    Args:
        command: "burnin", "online" or "audit".
        name: Of the preset, perhaps an old one.
        say: Told of an old name.

    Raises:
        InputError: There is no such preset.
    """
    if isinstance(name, str) and (new := PRESETS.get(command, {}).get(name)):
        say(f"the {command} preset {name} is now called {new}")
        name = new
    check_choice(f"{command} preset", str(name), presets(command))
    text = (resources.files("accupoison") / "presets" / command / f"{name}.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def plain(config: Any) -> dict[str, dict[str, Any]]:  # noqa: ANN401
    """Return a configuration as JSON-ready sections that :func:`resolve` takes back as a layer."""
    sections: dict[str, dict[str, Any]] = {}
    for f in dataclasses.fields(config):
        section = getattr(config, f.name)
        if isinstance(section, Component):
            values = {"name": section.spelling, **section.settings}
        else:
            values = dataclasses.asdict(section)
        sections[f.name] = {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
    return sections
