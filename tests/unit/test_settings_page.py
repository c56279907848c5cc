"""docs/settings.md says of every setting what it is, and with which value it begins."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from accupoison.cli.settings_docs import settings_markdown, usual
from accupoison.config.docstrings import attributes, comment, gist
from accupoison.config.layers import assignments, plain
from accupoison.config.schema import REGISTRIES, online_config

PAGE = settings_markdown()
ROW = re.compile(r"^\| `(\w+)\.(\w+)`(?: \(`(--[\w-]+)`\))? \| (.+?) \| (.+?) \| (.*) \|$", re.MULTILINE)
PARTS = re.split(r"^##+ (.+)\n", PAGE, flags=re.MULTILINE)
ROWS: dict[str, list[tuple[str, ...]]] = {
    title: ROW.findall(text) for title, text in zip(PARTS[1::2], PARTS[2::2], strict=True)
}
COMPONENTS = [(section, name) for section, registry in REGISTRIES.items() for name in registry.names()]


def test_the_page_is_up_to_date() -> None:
    written = (Path(__file__).parent.parent.parent / "docs" / "settings.md").read_text(encoding="utf-8")
    assert written == PAGE, "write it anew; the command is in its first lines"


def test_every_setting_of_every_command_is_there_and_has_a_meaning() -> None:
    for config in usual().values():
        for f in dataclasses.fields(config):
            if f.name not in REGISTRIES:
                found = [row[1] for row in ROWS[f.name]]
                assert found == [key.name for key in dataclasses.fields(getattr(config, f.name))]
    for section, name in COMPONENTS:
        assert [row[1] for row in ROWS[f"{section} {name}"]] == list(REGISTRIES[section].settings(name))
    for title, rows in ROWS.items():
        for _, key, _, kind, default, meaning in rows:
            assert re.fullmatch(r"[A-Zl\"].{9,}\.", meaning), (title, key, meaning)
            assert ("none" in kind) >= ("none" in default), (title, key)


def given(rows: list[tuple[str, ...]]) -> dict[str, Any]:
    """Return the layer that the defaults of the page make when they are typed."""
    values = {f"{section}.{key}": default.partition(";")[0] for section, key, _, _, default, _ in rows}
    return assignments([f"{name}={'' if value == 'empty' else value.strip('`')}" for name, value in values.items()])


def test_a_default_that_is_typed_changes_nothing() -> None:
    config = usual()["online"]
    for section in plain(config).keys() - REGISTRIES.keys():
        assert online_config([plain(config), given(ROWS[section])]) == config, section


@pytest.mark.parametrize(("section", "name"), COMPONENTS)
def test_a_default_of_a_component_that_is_typed_changes_nothing(section: str, name: str) -> None:
    registry = REGISTRIES[section]
    typed = given(ROWS[f"{section} {name}"]).get(section, {})
    made = getattr(online_config([{section: {"name": name}}]), section).settings
    assert getattr(online_config([{section: {"name": name, **typed}}]), section).settings == made
    assert made == registry.build(name, {}).settings


def test_options_and_differences_between_commands_are_named() -> None:
    assert "| `attack.eps` (`--eps`) | number | `16/255` |" in PAGE
    assert "| `train.epochs` (`--epochs`) | whole number | `12`; `100` (audit offline) |" in PAGE
    assert "default `none`; `accumulative` (online)" in PAGE


@dataclasses.dataclass
class Base:
    """A base. Two sentences.

    Attributes:
        a: Of the base.
        b: Is replaced.
    """


@dataclasses.dataclass
class Derived(Base):
    """Derived.

    Attributes:
        b: Over two
            lines, as :func:`~accupoison.learner.f` does.

    Raises:
        c: Is no attribute.
    """


def test_what_docstrings_say() -> None:
    assert attributes(Derived) == {"a": "Of the base.", "b": "Over two lines, as :func:`~accupoison.learner.f` does."}
    assert gist(Base.__doc__) == "A base"
    assert gist("After Zhang et al. 2019, see :class:`~a.b.C`\nand ``d``.") == "After Zhang et al. 2019, see C and d"
    assert gist("See ``d``: it.", "`") == "See `d`: it"
    assert gist(None) == ""
    assert comment("# One\n# two.\n#   a command\n# three\n[a]\n# four\n") == "One two."
    assert comment("[a]\n# b\n") == ""
