"""The benchmarks' own arithmetic, at a size at which they cost nothing."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from torch import nn

from accupoison.config.layers import Layer, plain, preset
from accupoison.config.schema import burnin_config, online_config
from accupoison.device import KINDS
from accupoison.measure.hardware import ceiling, flops, seconds, training_flops
from accupoison.records.run_directory import RunDirectory
from accupoison.records.tags import SUMMARY
from accupoison.study.collect import Run
from benchmarks import alternatives, demo_story, drift, gpu, phases, runs
from benchmarks.processes import audit_task, peak, private_step
from tests.pretend_device import NAME, PretendedGraph, instead_of_cuda

Comparison = Callable[[phases.Bench], alternatives.Ways]


def flat(found: object) -> list[torch.Tensor]:
    """Return the tensors in what a way returns, without the number that comes last of what some return."""
    if isinstance(found, torch.Tensor):
        return [found]
    assert isinstance(found, tuple | list)
    parts = found[:1] if isinstance(found[-1], float | int) else found
    return [tensor for part in parts for tensor in flat(part)]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> phases.Bench:
    for name, value in {"TEST": 60, "MONITOR": 20, "BATCH": 10, "VAL": 20}.items():
        monkeypatch.setattr(phases, name, value)
    return phases.Bench(4)


@pytest.mark.slow
def test_every_phase_can_be_counted_and_timed(small: phases.Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phases, "ceiling", lambda _: 1e9)
    rows: list[dict[str, Any]] = phases.measure_phases(4, 1)
    counts = {row["phase"]: row["gflop"] for row in rows}
    forward = counts["evaluate 10,000"] / 60
    assert counts["DSC, ten steps, with update"] - counts["update"] == pytest.approx(30 * 10 * forward, rel=0.15)
    assert 2.5 < counts["update"] / (10 * forward) < 3
    assert counts["online step, test set"] - counts["online step, monitor"] == pytest.approx(40 * forward)
    assert list(counts) == list(phases.phases(small))
    for name, work in (("update", small.update), ("craft accumulative", small.craft_accumulative)):
        assert counts[name] != flops(work) / 1e9  # of PyTorch's way, not of what is done
    for row in rows:
        assert row["auto/torch"] == row["auto"] / row["torch"]
        assert row["share_of_ceiling"] == pytest.approx(row["gflop"] / row["auto"], rel=1e-6)


def test_operations_are_those_of_the_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    a = torch.rand(5, 7)
    assert flops(lambda: a @ a.T) == 2 * 5 * 7 * 5
    assert training_flops(nn.Linear(7, 3), torch.rand(4, 7)) == pytest.approx(
        2 * 2 * 7 * 3
    )  # no gradient of the images
    monkeypatch.setattr(
        "accupoison.measure.hardware.seconds", lambda work, repeats: [work() or 1.0, 4.0, 2.0][:repeats]
    )
    assert ceiling(torch.device("cpu"), repeats=3) == 2 * 2048**3 / 2.0


def test_the_first_call_is_not_timed() -> None:
    calls: list[int] = []
    assert len(seconds(lambda: calls.append(1), 3)) == 3
    assert len(calls) == 4


def test_memory_and_the_audit_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SAMPLES": 50, "SHADOWS": 12}.items():
        monkeypatch.setattr("benchmarks.processes." + name, value)
    assert 0.05 < private_step(4, rows=3) <= peak() < 100
    for name in ("metric", "lira"):
        found = audit_task(name, 1)
        assert found["seconds"] > 0
        assert found["memory_gb"] >= 0


@pytest.mark.parametrize("comparison", alternatives.COMPARISONS)
def test_the_ways_of_doing_one_thing_agree(comparison: Comparison, small: phases.Bench) -> None:
    ways = [flat(work()) for work in comparison(small).values()]
    assert len(ways) % 2 == 0
    for ours, other in zip(ways[::2], ways[1::2], strict=True):
        assert len(ours) == len(other) > 0
        for a, b in zip(ours, other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_drift_pairs_the_ways_of_a_seed(tmp_path: Path) -> None:
    for seed, way, before, after in (
        (0, "ours", 0.5, 0.4),
        (0, "plain", 0.6, 0.3),
        (0, "control", 0.7, 0.2),
        (1, "ours", 1, 0),
        (1, "plain", 0, 1),
    ):
        run = tmp_path / f"seed{seed}-{way}"
        run.mkdir()
        marks = {"before": {"acc": before}, "branches": {"adversarial": {"after": {"acc": after}}}}
        (run / SUMMARY).write_text(json.dumps(marks))
    assert drift.differences(tmp_path, 2, 1) == [
        {"seed": 0, "mark": "before", "ours": 0.5, "plain": 0.6, "control": 0.7},
        {"seed": 0, "mark": drift.AFTER, "ours": 0.4, "plain": 0.3, "control": 0.2},
        {"seed": 1, "mark": "before", "ours": 1, "plain": 0},
        {"seed": 1, "mark": drift.AFTER, "ours": 0, "plain": 1},
    ]


def test_the_story_of_a_demo_is_held_to_its_figures() -> None:
    def made(name: str, defense: str, before: float, **after: float) -> Run:
        parts: Layer = {"attack": {"name": name}, "defense": {"name": defense}, "trigger": {"types": list(after)}}
        branches = {trigger: {"after": {"acc": value}} for trigger, value in after.items()}
        summary = {"start": {"acc": 0.9}, "before": {"acc": before}, "branches": branches}
        return Run(Path(), online_config([parts]), summary, "")

    runs = [
        made("none", "ST", 0.9, clean=0.91, optimised=0.8),
        made("none", "ST", 0.9, clean=0.91, optimised=0.9),
        made("accumulative", "FREEZE", 0.9, optimised=0.9),
        made("accumulative", "ST", 0.8, optimised=0.6),
        made("accumulative", "AT", 0.3, optimised=0.2),
        made("accumulative", "OURS", 0.9, optimised=0.88),
    ]
    found = demo_story.figures(runs)
    assert found["clean after"] == pytest.approx(91)
    assert found["clean triggered"] == pytest.approx(85)
    assert (found["ST before"], found["ST after"]) == pytest.approx((80, 60))
    kept = ["here", *["1"] * len(demo_story.CLAIMS), "1 of 1", "1"]
    assert demo_story.row("here", [found]) == kept
    other = demo_story.row("here", [found, found | {"DSC after": 86}])
    assert other == ["here", "2", "2", "2", "2", "1", "2", "1 of 2", "2"]


def test_a_folder_of_other_settings_is_refused(tmp_path: Path) -> None:
    config = burnin_config([preset("burnin", "demo")])
    run_dir = tmp_path / "base"
    with RunDirectory.create(run_dir, plain(config), {}):
        pass
    runs.check_settings(run_dir, config)
    with pytest.raises(click.ClickException, match="other settings"):
        runs.check_settings(run_dir, burnin_config([preset("burnin", "one_cycle")]))


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_processes_that_share_a_device_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "PROCESSES", (1,))
    monkeypatch.setattr(gpu, "ProcessPoolExecutor", lambda count, _: ThreadPoolExecutor(count))
    monkeypatch.setattr(gpu, "seconds", lambda work, *_, **__: [len(work()) / 6])
    assert gpu.measure_sharing(4, 3, torch.device("cpu")) == [{"width": 4, "processes": 1, "steps_per_s": 6}]


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_a_gpu_is_measured_in_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "IMAGES", 600)
    monkeypatch.setattr(gpu, "phases", lambda bench: {"update": bench.update})
    monkeypatch.setattr("accupoison.device.KINDS", (*KINDS, NAME))
    with instead_of_cuda():
        where = torch.device(NAME)
        rows = gpu.measure_gpu(4, 1, where)
        recorded = list(PretendedGraph.made)
        speed = gpu.measure_training(4, 1, where)
    assert recorded == ["pass_through"]
    for row in rows:
        assert row["times"] == row["plain_ms"] / row["recorded_ms"]
    assert min(speed["plain_images_per_s"], speed["recorded_images_per_s"]) > 0
