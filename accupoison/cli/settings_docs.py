"""docs/settings.md, made from the classes of the settings and their docstrings."""

import dataclasses
import re
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from accupoison.audit.offline.shadow_models import offline_config
from accupoison.audit.releases.settings import releases_config
from accupoison.cli.options import option_names
from accupoison.config.docstrings import attributes, gist, marked
from accupoison.config.layers import as_text, preset
from accupoison.config.schema import REGISTRIES, burnin_config, online_config
from accupoison.registry import Registry

REGENERATE = (
    "python -c \"from accupoison.cli.settings_docs import settings_markdown; print(settings_markdown(), end='')\" "
    "> docs/settings.md"
)
HEAD = "| setting | type | default | meaning |\n|---|---|---|---|"
WORDS: dict[object, str] = {int: "whole number", float: "number", str: "text", bool: "true or false"}


def usual() -> dict[str, Any]:
    """Return the configuration of each command when nothing is given."""
    return {
        "burnin": burnin_config([preset("burnin", "online_ready")]),
        "online": online_config([preset("online", "fresh")]),
        "audit offline": offline_config([preset("audit", "offline")]),
        "audit releases": releases_config([]),
    }


def settings_markdown() -> str:
    """Return docs/settings.md."""
    return f"""# Settings

<!-- Generated from the code; write it anew with
{REGENERATE} -->

Every setting has a section and a key. `--set SECTION.KEY=VALUE` gives one; `--config FILE` gives many, as TOML
(`[attack]`, below it `eps = 0.1`) or from the `config.json` of a run; some have an option of their own, named below.
Where a setting is given more than once, `--set` wins over options, these over `--config`, that over the preset or the
recipe, and that over the defaults. `--dry-run` prints the outcome. Python has the same names:
`settings={{"attack.eps": 0.1}}`.

A number can be a fraction such as `8/255`. A list has commas between its values, or in TOML brackets around them.
`none` is written like that, also in TOML (`threshold = "none"`).

The defaults are those of `burnin` (recipe `online_ready`), `online` and `compare` (preset `fresh`), `audit offline` and
`audit releases` (no preset); where they differ, the page says whose is which. Images are numbers in [0, 1], so that
every radius "in pixels" is a share of the whole range: 8/255 are eight of 255 levels.

{chr(10).join(_sections())}"""


def _sections() -> Iterator[str]:
    """Yield what there is to say of each section, in the order in which the commands have them."""
    found: dict[str, dict[str, Any]] = {}
    for command, config in usual().items():
        for f in dataclasses.fields(config):
            found.setdefault(f.name, {})[command] = getattr(config, f.name)
    for name, sections in found.items():
        of = f"## {name}\n\nOf {', '.join(f'`{command}`' for command in sections)}."
        if name in REGISTRIES:
            chosen = _values({command: part.name for command, part in sections.items()})
            yield f"{of} `{_named(name, 'name')} is one of those below, or `package.module:CLASS`; default {chosen}.\n"
            yield from (_component(name, REGISTRIES[name], known) for known in REGISTRIES[name].names())
        else:
            yield f"{of} {_said(type(next(iter(sections.values()))))}.\n\n{_table(name, sections)}\n"


def _component(section: str, registry: Registry[Any], name: str) -> str:
    settings = list(registry.settings(name))
    table = _table(section, {"": registry.build(name, {})}, settings) if settings else "No settings."
    return f"### {section} {name}\n\n{_said(registry.get(name))}.\n\n{table}\n"


def _said(cls: type) -> str:
    return _typed(gist(cls.__doc__))


def _table(section: str, parts: Mapping[str, Any], keys: list[str] | None = None) -> str:
    """Return the rows of a section, which each command has in its own way."""
    cls = type(next(iter(parts.values())))
    hints, texts = typing.get_type_hints(cls), attributes(cls)
    rows = [
        f"| `{_named(section, key)} | {_kind(hints[key])} | "
        f"{_values({command: getattr(part, key) for command, part in parts.items()})} | "
        f"{_typed(texts.get(key, ''))} |"
        for key in keys or [f.name for f in dataclasses.fields(cls)]
    ]
    return "\n".join([HEAD, *rows])


def _typed(text: str) -> str:
    """Return what a docstring says of a setting in Markdown, with values as they are typed."""
    text = re.sub(r"\b(None|True|False)\b", lambda match: f"`{match[0].lower()}`", marked(text, "`"))
    return text.replace("|", r"\|")


def _named(section: str, key: str) -> str:
    """Return a setting with its option, from after the first backtick."""
    option = option_names().get(f"{section}.{key}")
    return f"{section}.{key}`" + (f" (`{option}`)" if option else "")


def _kind(hint: Any) -> str:  # noqa: ANN401
    """Return a type in words."""
    if isinstance(hint, types.UnionType):
        (kind,) = (option for option in typing.get_args(hint) if option is not types.NoneType)
        return f"{_kind(kind)}, or `none`"
    if typing.get_origin(hint) is tuple:
        return f"list of {WORDS[typing.get_args(hint)[0]]}s"
    return WORDS[hint]


def _values(values: Mapping[str, Any]) -> str:
    """Return the value of the first command, and those of others where they differ."""
    shown = {command: _shown(value) for command, value in values.items()}
    first = next(iter(shown.values()))
    others: dict[str, list[str]] = {}
    for command, value in shown.items():
        if value != first:
            others.setdefault(value, []).append(command)
    return first + "".join(f"; {value} ({', '.join(commands)})" for value, commands in others.items())


def _shown(value: object) -> str:
    if isinstance(value, float) and len(str(value)) > 10 and (255 * value).is_integer():
        return f"`{255 * value:.0f}/255`"
    return f"`{as_text(value)}`" if value not in ((), "") else "empty"
