"""The grids that ship can be read, and streams divide the data as their base models do."""

import json
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from accupoison.config.layers import Layer, plain, read_toml
from accupoison.config.schema import OnlineConfig
from accupoison.records.run_directory import RunDirectory
from accupoison.runs.burnin import FINAL
from accupoison.study.grid import find_grid, read_grid, shipped_grids
from accupoison.study.grid_reference import EXAMPLE, grids_markdown
from accupoison.study.sweep import trained
from tests.messages import refuses

GRIDS = [find_grid(Path(name)) for name in shipped_grids()]


@pytest.mark.parametrize("path", GRIDS, ids=lambda path: path.stem)
def test_grids_that_ship(path: Path) -> None:
    grid = read_grid(read_toml(path), Path("checkpoints"), Path("logs"))
    base = {config.run.seed: plain(config)["data"] for _, config in grid.burnins}
    for spec in grid.runs:
        if spec.config.data.splits == "fresh":
            assert plain(spec.config)["data"] == base[spec.config.start.seed]


def test_a_run_may_divide_the_data_in_its_own_way() -> None:
    text = {
        "controls": False,
        "burnin": {"seeds": [0], "data": {"burnin": 70, "val": 7}},
        "online": {"data": {"val": 9}},
        "runs": [{"name": "a", "seeds": [0], "data": {"stream": 50}}],
    }
    (spec,) = read_grid(text, Path("checkpoints"), Path("logs")).runs
    data = spec.config.data
    assert (data.burnin, data.val, data.stream, data.monitor) == (70, 9, 50, 2000)


def test_a_grid_goes_by_its_name_and_by_its_old_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "integrity" in shipped_grids()
    for name in ("integrity", "integrity.toml", "grids/integrity.toml"):
        assert find_grid(Path(name)).read_text().startswith("#")
    assert find_grid(Path("datasets/mnist")).name == "mnist.toml"
    Path("integrity").write_text("mine")
    assert find_grid(Path("integrity")).read_text() == "mine"
    with refuses("grid 'integrty' integrity"):
        find_grid(Path("integrty"))


POISONED: dict[str, Any] = {
    "burnin": {"seeds": [0]},
    "runs": [{"name": "a", "seeds": [0], "each": {"defense.name": ["ST", "OURS"]}, "trigger": {"types": "optimised"}}],
}


def read(text: dict[str, Any], logs: Path = Path("logs"), *over: Layer) -> dict[str, OnlineConfig]:
    """Return the settings of each run of a grid by its name."""
    return {spec.out.name: spec.config for spec in read_grid(text, Path("checkpoints"), logs, over=over).runs}


def test_controls_are_added() -> None:
    runs = read(POISONED)
    found = {name: (c.attack.name, c.defense.name, c.trigger.types) for name, c in runs.items()}
    assert found == {
        "a-ST-b0-s0": ("accumulative", "ST", ("coast", "optimised")),
        "a-OURS-b0-s0": ("accumulative", "DSC", ("coast", "optimised")),
        "control-clean-a-ST-b0-s0": ("none", "ST", ("clean", "coast", "adversarial")),
        "control-clean-defended-a-OURS-b0-s0": ("none", "DSC", ("coast", "clean")),
        "control-clean-FREEZE-a-ST-b0-s0": ("none", "FREEZE", ("coast", "clean")),
        "control-noise-a-ST-b0-s0": ("noise", "ST", ("coast", "adversarial")),
        "control-FREEZE-a-ST-b0-s0": ("accumulative", "FREEZE", ("coast", "optimised")),
    }
    sizes = [runs[f"{name}a-ST-b0-s0"].attack.settings["eps"] for name in ("", "control-noise-")]
    assert sizes[0] == sizes[1]
    assert list(read({**POISONED, "controls": False})) == ["a-ST-b0-s0", "a-OURS-b0-s0"]
    with refuses("controls 'no' true false"):
        read({**POISONED, "controls": "no"})


def test_controls_that_make_no_sense_are_not_added() -> None:
    relabelled = [{**POISONED["runs"][0], "attack": {"name": "dirty-label"}, "trigger": {"types": "none"}}]
    runs = read({**POISONED, "runs": relabelled})
    kinds = ("clean-a-ST", "clean-FREEZE-a-ST", "FREEZE-a-ST", "clean-defended-a-OURS")
    assert [name for name in runs if "control" in name] == [f"control-{kind}-b0-s0" for kind in kinds]
    assert {config.trigger.types for config in runs.values()} == {("none",)}


@pytest.mark.parametrize("path", GRIDS, ids=lambda path: path.stem)
def test_no_control_is_there_twice(path: Path) -> None:
    """Neither beside one that the grid has itself, nor for two runs that share it."""
    text = {**read_toml(path), "controls": True}
    known: dict[str, list[set[str]]] = {}
    for name, config in read(text).items():
        settings = plain(config)
        types = set(settings["trigger"].pop("types"))
        others = known.setdefault(json.dumps(settings, sort_keys=True), [])
        assert not (name.startswith("control") and any(types <= other for other in others)), name
        others.append(types)
    assert read(read_toml(path)) == read({**text, "controls": False})


def test_a_run_that_was_begun_without_a_coast_step_goes_on_without(tmp_path: Path) -> None:
    before = read({**POISONED, "controls": False})["a-ST-b0-s0"]
    RunDirectory.create(tmp_path / "a-ST-b0-s0", plain(before), {}).close()
    runs = read(POISONED, tmp_path)
    assert runs["a-ST-b0-s0"] == before
    assert runs["a-OURS-b0-s0"].trigger.types == ("coast", "optimised")


def test_settings_go_over_a_grid() -> None:
    over: Layer = {
        "train": {"epochs": 3},
        "model": {"width": 8},
        "data": {"dir": "there", "val": 7},
        "run": {"device": "cpu"},
    }
    grid = read_grid(POISONED, Path("checkpoints"), Path("logs"), over=[over, {"stream": {"steps": 4}}])
    ((place, burnin),) = grid.burnins
    assert (burnin.train.epochs, burnin.model.width, burnin.data.dir, burnin.data.val) == (3, 8, "there", 7)
    assert "w8" in place.name
    for spec in grid.runs:
        config = spec.config
        assert (config.model.width, config.data.dir, config.data.val, config.stream.steps) == (8, "there", 7, 4)
        assert {config.run.device, burnin.run.device} == {"cpu"}


def test_a_base_model_serves_on_any_device_but_not_under_other_settings(tmp_path: Path) -> None:
    ((_, burnin),) = read_grid(POISONED, Path("checkpoints"), Path("logs")).burnins
    assert not trained(tmp_path / "base", burnin)
    RunDirectory.create(tmp_path / "base", plain(burnin), {}).close()
    (tmp_path / "base" / FINAL).touch()
    assert trained(tmp_path / "base", replace(burnin, run=replace(burnin.run, device="cuda")))
    with refuses("other settings train.epochs"):
        trained(tmp_path / "base", replace(burnin, train=replace(burnin.train, epochs=3)))


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ({"run": {"seed": 3}}, "run.seed grid"),
        ({"start": {"recipe": "x"}}, "start.recipe grid"),
        ({"defense": {"name": "ST"}}, "runs.each 'a' defense.name drop one"),
        ({"strem": {"steps": 3}}, "unknown section 'strem' stream"),
    ],
)
def test_settings_that_a_grid_cannot_take(over: dict[str, Any], message: str) -> None:
    with refuses(message):
        read(POISONED, Path("logs"), over)


def test_the_page_on_grids_is_up_to_date() -> None:
    root = Path(__file__).parent.parent.parent
    assert (root / "docs" / "grids.md").read_text(encoding="utf-8") == grids_markdown(), "write it anew; see its top"
    runs = read(tomllib.loads(EXAMPLE))
    assert sum(not name.startswith("control") for name in runs) == 2 * 3 * 2 * 2
    assert "accumulative-OURS-0.2-b0-s1" in runs
