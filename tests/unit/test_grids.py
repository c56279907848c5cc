"""The grids that ship can be read, and streams divide the data as their base models do."""

from pathlib import Path

import pytest

from accupoison.config.layers import plain, read_toml
from accupoison.study.grid import find_grid, read_grid, shipped_grids
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
