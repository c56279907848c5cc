"""Claims in a grid, held to paired differences."""

import math
from pathlib import Path
from typing import Any

import pytest

from accupoison.config.layers import read_toml
from accupoison.config.schema import online_config
from accupoison.study.claims import claims_rows, read_claims, verdict
from accupoison.study.collect import Run
from accupoison.study.grid import find_grid, read_grid
from accupoison.study.outcomes import Estimate
from accupoison.study.tables import rows_text
from tests.messages import refuses

COASTING = 0.03
"""What the coast step costs."""
ROOT = Path(__file__).parent.parent.parent


def run(name: str, burnin: int, seed: int, effect: float, trigger: str = "adversarial") -> Run:
    """Return a run whose trigger costs ``effect`` beside the coast step."""
    config = online_config([{"trigger": {"types": ["coast", trigger]}, "run": {"seed": seed}}])
    branches = {"coast": {"after": {"acc": 0.7}}, trigger: {"after": {"acc": 0.7 - effect}}}
    summary = {"before": {"acc": 0.7 + COASTING}, "branches": branches}
    return Run(Path(f"{name}-b{burnin}-s{seed}"), config, summary, f"model{burnin}")


CLAIM = {"text": "more poison does more", "more": ["strong-16/255", "adversarial"], "less": ["weak", "adversarial"]}


def table(strong: list[float], weak: list[float], claim: dict[str, Any] = CLAIM) -> list[str]:
    """Return the cells of the only row; two streams for each base model."""
    runs = [run("strong-16-255", i // 2, i % 2, effect) for i, effect in enumerate(strong)]
    runs += [run("weak", i // 2, i % 2, effect) for i, effect in enumerate(weak)]
    row = rows_text(claims_rows(read_claims({"claims": [claim]}), runs)).splitlines()[-1]
    return [cell.strip() for cell in row.strip("|").split("|")]


def test_differences_are_paired_and_averaged_over_streams_first() -> None:
    cells = table([0.05, 0.07, 0.15, 0.17, 0.10, 0.12], [0.02, 0.04, 0.10, 0.12, 0.06, 0.08])
    assert cells[0] == "more poison does more"
    assert cells[3:] == ["4.0 ± 2.5 holds"] * 3 + [
        "3 / 6"
    ]  # 3, 5 and 4 points; t(0.975, 2) = 4.3 times their error 1 / sqrt(3)
    assert cells[1].startswith("11.0")
    assert cells[2].startswith("7.0")


def test_two_base_models_test_nothing_and_show_both_values() -> None:
    cells = table([0.05, 0.07, 0.15, 0.17], [0.02, 0.04, 0.10, 0.12])
    assert cells[3:] == ["3.0, 5.0 not tested"] * 3 + ["2 / 4"]


@pytest.mark.parametrize(
    ("strong", "word"),
    [([0.05, 0.05, 0.051, 0.051, 0.05, 0.05], "holds"), ([-0.05, -0.05, -0.051, -0.051, -0.05, -0.05], "fails")],
)
def test_an_interval_on_one_side_of_zero_decides(strong: list[float], word: str) -> None:
    assert [cell.split(" ", 3)[-1] for cell in table(strong, [0.0] * 6)[3:6]] == [word] * 3
    against_nothing = {"text": "it does harm", "more": CLAIM["more"]}
    assert table(strong, [0.0] * 6, against_nothing)[3].endswith(word)


def test_the_drop_counts_the_coast_step_as_the_triggers() -> None:
    against_nothing = {"text": "it does harm", "more": CLAIM["more"]}
    cells = table([0.0, 0.0, 0.002, 0.002, 0.001, 0.001], [0.0] * 6, against_nothing)
    assert cells[3:5] == ["0.1 ± 0.2 not shown", "3.1 ± 0.2 holds"]


def test_a_single_pair_tests_nothing() -> None:
    assert table([0.05], [0.0])[3].endswith("not tested")
    assert verdict(None) == verdict(Estimate(1.0, math.nan, 1, 1, "streams")) == "not tested"


@pytest.mark.parametrize("entry", [{}, {"text": "a"}, {"text": "a", "more": "b"}, {"text": "a", "more": [1, 2, 3]}])
def test_claims_that_say_nothing_are_refused(entry: dict[str, Any]) -> None:
    with refuses("not of the form text = ..., more"):
        read_claims({"claims": [entry]})


def test_claims_need_runs_and_a_grid_needs_claims() -> None:
    with refuses("weak adversarial coast"):
        rows_text(claims_rows(read_claims({"claims": [CLAIM]}), [run("strong-16-255", 0, 0, 0.1)]))
    with refuses("has no [[claims]]"):
        read_claims({})


def test_two_sweeps_of_one_name_and_claims_that_are_no_list_are_refused() -> None:
    runs = [run("strong-16-255", 0, 0, 0.1), run("weak", 0, 0, 0.0)]
    with refuses("strong-16-255 same stream"):
        rows_text(claims_rows(read_claims({"claims": [CLAIM]}), [*runs, run("strong-16-255", 0, 0, 0.2)]))
    for entries in (5, {"text": "a"}):
        with refuses("list tables"):
            read_claims({"claims": entries})
    grid = {"burnin": {"seeds": [0]}, "runs": [{"name": "a", "seeds": [0]}], "claims": [{"txt": "a"}]}
    with refuses("not form text"):
        read_grid(grid, Path("checkpoints"), Path("logs"))


def test_the_claims_that_ship_are_about_runs_of_their_grid() -> None:
    text = read_toml(find_grid(Path("pang")))
    grid = read_grid(text, Path("checkpoints"), Path("logs"))
    effects = {(spec.out.name.rsplit("-b", 1)[0], name) for spec in grid.runs for name in spec.config.trigger.types}
    for claim in read_claims(text):
        assert claim.more in effects
        assert claim.less is None or claim.less in effects
