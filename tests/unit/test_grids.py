"""The grids that ship can be read, and streams divide the data as their base models do."""

from pathlib import Path

import pytest

from accupoison.config.layers import plain, read_toml
from accupoison.study.grid import read_grid

ROOT = Path(__file__).parent.parent.parent
GRIDS = sorted((ROOT / "grids").rglob("*.toml"))


@pytest.mark.parametrize("path", GRIDS, ids=lambda path: path.stem)
def test_grids_that_ship(path: Path) -> None:
    grid = read_grid(read_toml(path), Path("checkpoints"), Path("logs"))
    base = {config.run.seed: plain(config)["data"] for _, config in grid.burnins}
    for spec in grid.runs:
        if spec.config.data.splits == "fresh":
            assert plain(spec.config)["data"] == base[spec.config.start.seed]


def test_a_run_may_divide_the_data_in_its_own_way() -> None:
    text = {
        "burnin": {"seeds": [0], "data": {"burnin": 70, "val": 7}},
        "online": {"data": {"val": 9}},
        "runs": [{"name": "a", "seeds": [0], "data": {"stream": 50}}],
    }
    (spec,) = read_grid(text, Path("checkpoints"), Path("logs")).runs
    data = spec.config.data
    assert (data.burnin, data.val, data.stream, data.monitor) == (70, 9, 50, 2000)
