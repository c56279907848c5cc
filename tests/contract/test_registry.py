from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from accupoison.attacks import ATTACKS, Clean
from accupoison.config.schema import online_config
from accupoison.data.sources import DATA
from accupoison.data.stream import STREAMS
from accupoison.defenses import DEFENSES, Defense, DiscrepancyCorrection
from accupoison.errors import InputError
from accupoison.models.factory import MODELS
from accupoison.registry import Component, Lookup, Registry
from accupoison.updates import DPSGD, UPDATES
from tests.messages import refuses, says


@dataclass(kw_only=True)
class Widget(Component):
    size: int = 1
    made: Tensor | None = field(default=None, init=False)
    count: int = field(default=0, init=False)
    window: list[int] = field(default_factory=list, init=False)


@pytest.fixture
def registry() -> Registry[Widget]:
    made: Registry[Widget] = Registry("widget")
    made.register("Alpha", "first", "one")(Widget)
    return made


def test_names_aliases_and_case(registry: Registry[Widget]) -> None:
    assert registry.names() == ["Alpha"]
    assert registry.aliases("Alpha") == ["first", "one"]
    for name in ("Alpha", "alpha", "ALPHA", "first", "ONE"):
        assert registry.canonical(name) == "Alpha"
        assert registry.get(name) is Widget
    assert list(registry.settings("one")) == ["size"]
    assert registry.build("first", {"size": 3}).size == 3


@pytest.mark.parametrize("names", [("Alpha",), ("alpha",), ("first",), ("Beta", "ONE"), ("beta", "Alpha")])
def test_duplicates_are_refused_and_leave_no_trace(registry: Registry[Widget], names: tuple[str, ...]) -> None:
    @dataclass(kw_only=True)
    class Other(Widget):
        pass

    with refuses(f"widget {names[-1]} already", ValueError):
        registry.register(*names)(Other)
    assert registry.names() == ["Alpha"]
    assert registry.get("alpha") is Widget
    with pytest.raises(InputError):
        registry.get("beta")


def test_only_dataclasses(registry: Registry[Widget]) -> None:
    class Plain(Widget):
        pass

    class Foreign:
        pass

    with refuses("Plain dataclass settings", ValueError):
        registry.register("plain")(Plain)
    with refuses("Foreign no widget derive dataclass", ValueError):
        registry.register("foreign")(Foreign)


@pytest.mark.parametrize(
    ("registry", "name", "words"),
    [
        (ATTACKS, "acumulative", "attack 'acumulative' accumulative"),
        (ATTACKS, "NOISY", "attack 'NOISY' noise"),
        (DEFENSES, "trade", "defence 'trade' trades"),
        (DEFENSES, "zzz", "defence 'zzz'"),
    ],
)
def test_did_you_mean(registry: Registry[Any], name: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        registry.get(name)
    says(caught.value, words)


def test_names_of_the_papers() -> None:
    assert DEFENSES.get("OURS") is DEFENSES.get("dsc") is DiscrepancyCorrection
    assert DEFENSES.canonical("ours") == "DSC"
    assert DEFENSES.get("none") is DEFENSES.get("st") is Defense
    assert ATTACKS.get("clean") is ATTACKS.get("None") is Clean
    assert ATTACKS.canonical("greedy") == "direct"


class EntryPoint:
    """Stands in for one that an installed package declares."""

    def __init__(self, registry: Registry[Widget]) -> None:
        self.registry, self.loaded = registry, 0

    def load(self) -> None:
        self.loaded += 1

        @self.registry.register("Plugged")
        @dataclass(kw_only=True)
        class Plugged(Widget):
            pass


def test_plugins_are_loaded_once(registry: Registry[Widget], monkeypatch: pytest.MonkeyPatch) -> None:
    plugin, groups = EntryPoint(registry), []

    def entry_points(*, group: str) -> list[EntryPoint]:
        groups.append(group)
        return [plugin]

    monkeypatch.setattr("accupoison.registry.entry_points", entry_points)
    assert registry.names() == ["Alpha", "Plugged"]
    assert registry.get("plugged").__name__ == "Plugged"
    assert groups == ["accupoison.widgets"]
    assert plugin.loaded == 1


class BrokenEntryPoint(EntryPoint):
    name = "mine"

    def load(self) -> None:
        raise ModuleNotFoundError("No module named 'gone'")


def test_a_package_that_cannot_be_loaded_is_named(registry: Registry[Widget], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("accupoison.registry.entry_points", lambda *, group: [BrokenEntryPoint(registry)])
    for _ in range(2):  # it stays broken
        with refuses("'mine' 'gone'"):
            registry.names()


class Offer:
    """Stands in for an entry point that names the thing itself."""

    def __init__(self, name: str, thing: object) -> None:
        self.name, self.thing = name, thing

    def load(self) -> object:
        if isinstance(self.thing, Exception):
            raise self.thing
        return self.thing


def test_what_packages_offer_is_loaded_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    offers = [Offer("Theirs", "t"), Offer("OURS", "stolen"), Offer("broken", ImportError("No module 'gone'"))]
    monkeypatch.setattr(
        "accupoison.registry.entry_points", lambda *, group: offers if group == "accupoison.toys" else []
    )
    toys: Lookup[str] = Lookup("toy")
    toys.register("ours", "alias")("o")
    assert toys.names() == ["Theirs", "broken", "ours"]
    assert [toys.get(name) for name in ("theirs", "OURS", "Alias")] == ["t", "o", "o"]
    assert [toys.offered(name) for name in ("THEIRS", "ours")] == [True, False]
    with refuses("broken gone"):
        toys.get("broken")
    with refuses("toy 'their' theirs"):
        toys.get("their")


def test_models_streams_data_and_updates_are_looked_up_in_one_way() -> None:
    for lookup, name, close in (
        (MODELS, "ResNet18", "resnet1"),
        (STREAMS, "IID", "idd"),
        (DATA, "CIFAR10", "cifar11"),
        (UPDATES, "SGD", "sdg"),
    ):
        assert lookup.canonical(name) == name.lower()
        with refuses(f"{lookup.kind} '{close}'"):
            lookup.get(close)
    made = online_config([{"data": {"name": "DIGITS"}, "model": {"name": "VGG16"}, "stream": {"kind": "Shift:Fog"}}])
    assert (made.data.name, made.model.name, made.stream.kind) == ("digits", "vgg16", "shift:fog")
    assert UPDATES.build("dpsgd", {"noise_multiplier": 2.0}) == DPSGD(noise_multiplier=2.0)


def test_state_is_a_copy_that_brings_back_none() -> None:
    widget = Widget()
    empty = widget.state()
    assert empty == {"made": None, "count": 0}  # neither settings nor what no checkpoint can hold
    widget.made, widget.count = torch.ones(2), 5
    full = widget.state()
    widget.made += 1
    assert torch.equal(full["made"], torch.ones(2))  # type: ignore[arg-type]
    widget.set_state(full)
    assert torch.equal(widget.made, torch.ones(2))
    widget.made += 1
    assert torch.equal(full["made"], torch.ones(2))  # type: ignore[arg-type]
    widget.set_state(empty)
    assert widget.made is None
    assert widget.count == 0


def test_settings_are_given_once() -> None:
    widget = Widget(size=2)
    widget.count = 1
    with pytest.raises(AttributeError, match=r"Widget\.size is a setting"):
        widget.size = 3
    fresh = widget.fresh()
    assert (fresh.size, fresh.count) == (2, 0)
    assert widget.settings == {"size": 2}


def test_both_spellings_of_defences(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def entry_points(*, group: str) -> list[EntryPoint]:
        asked.append(group)
        return []

    monkeypatch.setattr("accupoison.registry.entry_points", entry_points)
    Registry("defence", "defenses").names()
    assert asked == ["accupoison.defenses", "accupoison.defences"]
