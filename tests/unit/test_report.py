"""Outcomes computed by hand from made-up runs."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from scipy import stats

from accupoison.config.schema import online_config
from accupoison.study.collect import Run, label
from accupoison.study.comparisons import comparison_rows
from accupoison.study.figures import curves
from accupoison.study.groups import group
from accupoison.study.outcomes import estimate, harm, retention, trigger_effect, yardstick
from accupoison.study.tables import markdown, outcome_rows, retention_rows, rows_text
from accupoison.study.verdict import verdict_text
from tests.messages import refuses


def made_up(
    attack: str,
    defense: str,
    after: dict[str, float],
    *,
    burnin: int = 0,
    seed: int = 0,
    stream: str = "iid",
    eps: str = "16/255",
    status: str = "finished",
    optim: dict[str, Any] | None = None,
    defended: dict[str, Any] | None = None,
    model: str = "resnet8",
) -> Run:
    config = online_config(
        [
            {
                "attack": {"name": attack, "eps": eps},
                "defense": {"name": defense, **(defended or {})},
                "optim": optim or {},
                "start": {"seed": burnin},
                "stream": {"kind": stream},
                "run": {"seed": seed},
                "trigger": {"types": list(after) or ["adversarial"]},
            }
        ]
    )
    marks = {
        name: {mark: {"acc": value, "shifted_acc": value / 2, "distance_from_start": 1.5} for mark in ("after", "end")}
        for name, value in after.items()
    }
    summary = {
        "status": status,
        "clean_ids": f"ids of {seed}",
        "threat_model": "attacker; defender",
        "start": {"acc": 0.8},
        "before": {"acc": 0.7},
        "branches": marks,
        "means": {},
        "horizon": 10,
    }
    return Run(Path("nowhere"), config, summary, f"model {burnin}", model)


def test_streams_of_one_base_model_are_averaged_before_the_interval() -> None:
    found = estimate([("a", 0.1), ("a", 0.3), ("b", 0.5), ("b", None), ("c", 0.2)])
    assert found is not None
    units = [0.2, 0.5, 0.2]
    assert found.mean == pytest.approx(np.mean(units))
    low, high = stats.t.interval(0.95, 2, loc=np.mean(units), scale=stats.sem(units))
    assert found.half == pytest.approx((high - low) / 2)
    assert (found.burnins, found.runs, found.over) == (3, 4, "burn-ins")


def test_one_base_model_gives_an_interval_over_streams_and_says_so() -> None:
    found = estimate([("a", 0.1), ("a", 0.3), ("a", 0.2)])
    assert found is not None
    assert found.over == "streams"
    assert found.half == pytest.approx(stats.t.ppf(0.975, 2) * 0.1 / math.sqrt(3))
    assert found.text(1, 100) == "20.0 ± 24.8"


def test_below_three_values_there_is_no_interval_and_of_none_no_estimate() -> None:
    for values, text in (([0.1], "10.0"), ([0.1, 0.3], "10.0, 30.0"), ([0.1, 0.1], "10.0")):
        found = estimate(("a", value) for value in values)
        assert found is not None
        assert math.isnan(found.half)
        assert found.text(1, 100) == text
    assert estimate([("a", None)]) is None


def test_harm_is_measured_from_standard_training_on_the_same_images() -> None:
    runs = [
        made_up("none", "ST", {"clean": 0.80}),
        made_up("none", "ST", {"clean": 0.60}, seed=1),
        made_up("none", "CLIP", {"clean": 0.10}),
        made_up("accumulative", "ST", {"adversarial": 0.55}),
    ]
    clean = yardstick(runs)
    assert harm(runs[3], "adversarial", clean) == pytest.approx(0.25)
    assert harm(made_up("accumulative", "ST", {"adversarial": 0.5}, seed=2), "adversarial", clean) is None


def test_freezing_is_not_free() -> None:
    clean = yardstick([made_up("none", "ST", {"clean": 0.82})])
    assert harm(made_up("accumulative", "FREEZE", {"adversarial": 0.8}), "adversarial", clean) == pytest.approx(0.02)


def test_trigger_effect_is_net_of_the_coast_step() -> None:
    run = made_up("accumulative", "ST", {"coast": 0.6, "adversarial": 0.5})
    assert trigger_effect(run, "adversarial") == pytest.approx(0.1)
    assert trigger_effect(made_up("accumulative", "ST", {"adversarial": 0.5}), "adversarial") is None


def pairs(*burnins: int) -> list[tuple[str, int, str, str]]:
    return [(f"model {burnin}", seed, "shift:fog", "ids") for burnin in burnins for seed in range(2)]


def test_retention_is_a_ratio_of_gains_with_an_interval_over_base_models() -> None:
    keys = pairs(0, 1, 2)
    frozen = dict.fromkeys(keys, 0.5)
    gains = np.array([0.10, 0.12, 0.11, 0.13, 0.09, 0.11])
    learning = dict(zip(keys, 0.5 + gains, strict=True))
    half = {key: 0.5 + (value - 0.5) / 2 for key, value in learning.items()}
    found = retention(half, frozen, learning)
    assert found is not None
    assert found.mean == pytest.approx(0.5)
    assert found.half == pytest.approx(0, abs=1e-12)
    assert (found.burnins, found.runs, found.over) == (3, 6, "burn-ins")
    uneven = dict(zip(keys, 0.5 + gains * [1, 1, 0.5, 0.5, 0, 0], strict=True))
    spread = retention(uneven, frozen, learning)
    assert spread is not None
    assert spread.half > 0.5


def test_retention_is_withheld_where_learning_is_not_told_from_noise() -> None:
    keys = pairs(0, 1)
    frozen = dict.fromkeys(keys, 0.5)
    learning = dict(zip(keys, (0.7, 0.7, 0.54, 0.54), strict=True))
    assert retention(learning, frozen, learning) is None  # four gains look alike, two base models do not
    assert retention(learning, frozen, dict.fromkeys(keys[:1], 0.9)) is None


def test_experiments_with_other_budgets_or_horizons_are_rows_of_their_own() -> None:
    runs = [made_up("accumulative", "ST", {"adversarial": 0.7}, eps=eps) for eps in ("8/255", "16/255", "16/255")]
    groups = group(runs)
    assert [(len(one.runs), one.setting) for one in groups] == [(1, "attack.eps 0.03137"), (2, "attack.eps 0.06275")]


def test_experiments_that_differ_in_their_triggers_alone_are_told_apart() -> None:
    both, one = {"coast": 0.7, "adversarial": 0.6}, {"coast": 0.7}
    runs = [made_up("accumulative", "ST", both), made_up("accumulative", "ST", one)]
    beside = [made_up("accumulative", "CLIP", both), made_up("none", "ST", {"clean": 0.8})]
    settings = ["trigger.types coast,adversarial", "trigger.types coast"]
    assert [one.setting for one in group([*runs, *beside])] == [*settings, settings[0], ""]
    assert [one.setting for one in group([runs[0], *beside])] == ["", "", ""]
    assert {row.cells["setting"] for row in comparison_rows([*runs, *beside], "adversarial")} == {settings[0]}


def test_a_diverged_run_withholds_the_mean_and_is_counted() -> None:
    runs = [
        made_up("accumulative", "ST", {"adversarial": 0.7}),
        made_up("accumulative", "ST", {}, seed=1, status="diverged"),
    ]
    table = rows_text(outcome_rows(runs))
    assert "1 / 2, 1 diverged" in table
    assert "| after |" not in table


def test_two_different_controls_for_one_pair_are_refused() -> None:
    runs = [made_up("none", "ST", {"clean": value}) for value in (0.8, 0.6)]
    with refuses("both the clean control"):
        yardstick(runs)


def test_labels_show_what_differs_from_the_defaults_but_not_the_budget() -> None:
    config = online_config(
        [{"attack": {"eps": "8/255", "gamma": 2}, "defense": {"name": "AT", "direction": "descend"}}]
    )
    assert label(config.attack) == "accumulative (gamma 2)"
    assert label(config.defense) == "AT (direction descend)"


def test_outcome_table_pairs_and_marks() -> None:
    runs = [made_up("none", "ST", {"clean": 0.80}, seed=seed) for seed in (0, 1)]
    runs += [made_up("accumulative", "ST", {"coast": 0.7, "adversarial": 0.6}, seed=seed) for seed in (0, 1)]
    rows = [line.split(" | ") for line in rows_text(outcome_rows(runs)).splitlines()]
    header = [cell.strip("| ") for cell in rows[0]]
    last = dict(zip(header, (cell.strip("| ") for cell in rows[-1]), strict=True))
    assert last["trigger"] == "adversarial"
    assert last["after"] == "60.0"
    assert last["harm H"] == "20.0"
    assert last["trigger effect"] == "10.0"
    assert last["n"] == "1 / 2"


def test_retention_table_uses_accuracy_under_the_shift() -> None:
    runs = []
    for seed in range(2):
        for defense, value in {"ST": 0.8 + 0.01 * seed, "FREEZE": 0.6, "CLIP": 0.7 + 0.005 * seed}.items():
            runs.append(made_up("none", defense, {"clean": value}, seed=seed, stream="shift:fog"))
    table = rows_text(retention_rows(runs))
    clip = next(line for line in table.splitlines() if "CLIP" in line)
    assert "| 35.0, 35.2 |" in clip
    assert "| 0.50 |" in clip
    assert rows_text(retention_rows([run for run in runs if run.defense != "FREEZE"])) == ""


def test_runs_that_learn_otherwise_are_not_each_others_control() -> None:
    slow, fast = (made_up("none", "ST", {"clean": value}, optim={"lr": lr}) for value, lr in ((0.8, 0.05), (0.6, 0.1)))
    clean = yardstick([slow, fast])
    poisoned = made_up("accumulative", "ST", {"adversarial": 0.5}, optim={"lr": 0.1})
    assert harm(poisoned, "adversarial", clean) == pytest.approx(0.1)
    clipped = made_up("accumulative", "ST", {"adversarial": 0.7}, optim={"lr": 0.05, "clip_norm": 1})
    assert harm(clipped, "adversarial", clean) == pytest.approx(0.1)  # clipping is a defence against the same stream


def test_other_networks_and_recipes_are_experiments_of_their_own() -> None:
    runs = [made_up("accumulative", "ST", {"adversarial": 0.7}, model=model) for model in ("resnet8", "resnet18")]
    assert [one.setting for one in group(runs)] == ["model resnet8", "model resnet18"]


def test_a_cell_with_fewer_runs_than_its_row_says_so() -> None:
    runs = [made_up("none", "ST", {"clean": 0.8})]
    runs += [made_up("accumulative", "ST", {"adversarial": 0.6}, seed=seed) for seed in (0, 1)]
    assert "| 20.0 (n 1 / 1) |" in rows_text(outcome_rows(runs))


def test_retention_has_a_row_for_each_setting() -> None:
    runs = []
    for seed in range(2):
        for defense, value in {"ST": 0.8 + 0.01 * seed, "FREEZE": 0.6}.items():
            runs.append(made_up("none", defense, {"clean": value}, seed=seed, stream="shift:fog"))
        for amount in (0.1, 0.2):
            eps, reached = {"eps": amount}, {"clean": 2.5 * amount}
            runs.append(made_up("none", "AT", reached, seed=seed, stream="shift:fog", defended=eps))
    rows = [line for line in rows_text(retention_rows(runs)).splitlines() if "| AT |" in line]
    assert len(rows) == 2
    assert "defense.eps 0.1" in rows[0]
    assert "| 12.5 |" in rows[0]
    assert "| 25.0 |" in rows[1]


def test_the_figure_keeps_experiments_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels: list[str] = []

    def plot(axes: Axes, x: object, y: object, *, label: str, **style: object) -> None:
        labels.append(label)

    monkeypatch.setattr(Axes, "plot", plot)
    monkeypatch.setattr(Axes, "legend", lambda axes, **_: None)
    monkeypatch.setattr(Run, "curve", lambda run, tag, trigger: [(0, 0.5), (1, 0.5)])
    runs = [made_up("accumulative", "ST", {"adversarial": 0.6}, stream=stream) for stream in ("iid", "released_stream")]
    runs.append(made_up("accumulative", "ST", {"adversarial": 0.6}, eps="8/255"))
    curves(runs, tmp_path / "curves.png", trigger="adversarial", title="")
    assert labels == [
        "ST, accumulative, iid, attack.eps 0.06275 (n = 1)",
        "ST, accumulative, released_stream, attack.eps 0.06275 (n = 1)",
        "ST, accumulative, iid, attack.eps 0.03137 (n = 1)",
    ]


def test_empty_columns_are_left_out() -> None:
    assert markdown(["a", "b"], [["1", ""], ["2", ""]]) == "| a |\n| --- |\n| 1 |\n| 2 |"


def test_a_verdict_says_of_each_defence_what_the_figures_say() -> None:
    runs = [made_up("none", "ST", {"clean": 0.95, "adversarial": 0.68})]
    for defense, value in {"ST": 0.4, "FREEZE": 0.9, "OURS": 0.85}.items():
        runs.append(made_up("accumulative", defense, {"adversarial": value}))
    text = verdict_text(runs, "adversarial")
    rows = {line.partition("  ")[0]: line.split()[-2] for line in text.splitlines() if "  " in line}
    assert rows["ST, clean stream"] == "95.0"
    assert rows["ST, clean stream, then the trigger"] == "68.0"
    assert [rows[f"{name}, accumulative"] for name in ("FREEZE", "ST", "OURS (DSC)")] == ["90.0", "40.0", "85.0"]
    assert "costs standard training 55.0 points" in " ".join(text.split())
    assert "OURS (DSC): it ends 5.0 points below FREEZE, which drops every batch" in text


def test_a_verdict_claims_no_learning_that_there_is_not() -> None:
    runs = [made_up("none", "ST", {"clean": 0.95})]
    runs += [made_up("accumulative", defense, {"adversarial": 0.9}) for defense in ("ST", "FREEZE", "OURS")]
    text = verdict_text(runs, "adversarial")
    assert "OURS (DSC): it ends level with FREEZE" in text
    assert "learns next to nothing" not in text
    runs[-1].summary["branches"]["adversarial"]["after"]["distance_from_start"] = 0.1
    assert "ST on the clean stream 1.50, so it learns next to nothing" in " ".join(
        verdict_text(runs, "adversarial").split()
    )
    alone = verdict_text(runs[1:2], "adversarial")
    assert "FREEZE" not in alone
