"""Old names of settings, values and presets still work."""

from pathlib import Path
from typing import Any

import pytest

from accupoison.config import renamed
from accupoison.config.layers import Layer, preset, presets
from accupoison.config.renamed import PRESETS, VALUES
from accupoison.config.schema import ModelSettings, burnin_config, online_config
from accupoison.data.splits import PROTOCOLS
from accupoison.data.stream import STREAMS
from accupoison.runs.places import default_place
from tests.messages import refuses


def test_old_values_become_new_ones_and_are_said() -> None:
    layer: Layer = {
        "data": {"splits": "official"},
        "stream": {"kind": "official"},
        "start": {"recipe": "linear", "seed": 1},
    }
    said: list[str] = []
    made = online_config([layer, layer], said.append)
    assert (made.data.splits, made.stream.kind, made.start.recipe) == ("released_split", "released_stream", "step_down")
    assert set(said) == {
        "data.splits=official is now called released_split",
        "stream.kind=official is now called released_stream",
        "start.recipe=linear is now called step_down",
    }
    assert layer["data"] == {"splits": "official"}
    assert burnin_config([{"train": {"recipe": "linear"}}]).train.recipe == "step_down"


def test_every_new_name_is_one_that_is_known() -> None:
    assert set(VALUES["data.splits"].values()) <= set(PROTOCOLS)
    assert set(VALUES["stream.kind"].values()) <= set(STREAMS.names())
    for command, names in PRESETS.items():
        assert set(names.values()) <= set(presets(command))
        assert not set(names) & set(presets(command))
        for old, new in names.items():
            said: list[str] = []
            assert preset(command, old, said.append) == preset(command, new)
            assert said == [f"the {command} preset {old} is now called {new}"]


def test_keys_are_renamed_in_sections_and_in_tables_of_components(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renamed, "KEYS", {"attack.radius": "attack.eps", "stream.shape": "data.splits"})
    layer: dict[str, Any] = {
        "attack": {"radius": 1, "noise": {"radius": 2, "other": 3}},
        "stream": {"shape": "official"},
    }
    said: list[str] = []
    new = renamed.with_new_names(layer, said.append)
    assert new["attack"] == {"eps": 1, "noise": {"eps": 2, "other": 3}}
    assert new["data"] == {"splits": "released_split"}
    assert said[0] == "attack.radius is now called attack.eps"
    with refuses("attack.eps name drop"):
        renamed.with_new_names({"attack": {"eps": 1, "radius": 2}})


def test_what_has_no_old_name_stays() -> None:
    layer = {"data": {"splits": "fresh", "novel_classes": [1]}, "stream": 3, "attack": {"noise": {}}, "run": {}}
    assert renamed.with_new_names(layer, pytest.fail) == layer


def test_the_default_place_has_the_old_name_where_only_that_is_there(tmp_path: Path) -> None:
    def place(recipe: str) -> str:
        return default_place(tmp_path, "digits", ModelSettings(), recipe, 0).name

    new, old = (f"digits-resnet18-w64-batch-{recipe}-seed0" for recipe in ("online_ready", "live"))
    assert place("online_ready") == new
    (tmp_path / old).mkdir()
    assert place("online_ready") == old
    (tmp_path / new).mkdir()
    assert place("online_ready") == new
    assert place("own") == "digits-resnet18-w64-batch-own-seed0"
