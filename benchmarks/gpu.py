"""The phases of an online step, and a burn-in, on a GPU: recorded as CUDA graphs beside the plain way."""

import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from threading import Barrier
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from accupoison.config.layers import preset
from accupoison.config.schema import burnin_config
from accupoison.device import compute_on
from accupoison.measure.hardware import seconds
from accupoison.runs.trainer import Burnin
from benchmarks.phases import Bench, alignment_gradient_whole, in_turn, phases

WAYS = ("plain", "recorded")
"""PyTorch's kernels one by one, the second-order term as one graph, as the released code does; and as they are here."""
IMAGES = 12_800
PROCESSES = (1, 2, 4, 8)
"""That share a GPU."""
PATIENCE = 600
"""Seconds in which all of them must be ready: one that has failed never is."""


def measure_gpu(width: int, repeats: int, device: torch.device) -> list[dict[str, Any]]:
    """Time every phase in both ways, in turn, in one process.

    Returns:
        A row a phase: median milliseconds by way, how many times faster ours is, and the share of the wall time in
        which a kernel of ours was at work; None where the device does not tell it.
    """
    work = {way: phases(Bench(width, device=str(device))) for way in WAYS}
    rows: list[dict[str, Any]] = []
    for name in work["plain"]:
        ways = {way: partial(carry_out, work[way][name], way, device) for way in WAYS}
        for call in ways.values():
            call()  # the first call finds kernels, the second, in in_turn, records
        took = {way: median(times) for way, times in in_turn(ways, repeats).items()}
        rows.append(
            {
                "width": width,
                "phase": name,
                **{f"{way}_ms": 1000 * took[way] for way in WAYS},
                "times": took["plain"] / took["recorded"],
                "kernels_share": _busy(ways["recorded"], device),
            }
        )
    return rows


def carry_out(work: Callable[[], object], way: str, device: torch.device) -> None:
    """Do some work in one of :data:`WAYS` and wait for the device."""
    compute_on(str(device), graphs=way == "recorded")
    if way == "plain":
        with patch("accupoison.attacks.accumulative.alignment_gradient", alignment_gradient_whole):
            work()
    else:
        with patch("accupoison.measure.accuracy.OFTEN", 1):  # else some rounds would be before the recording
            work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure_memory(width: int, way: str, device: torch.device) -> dict[str, Any]:
    """Return the most memory that a process has held which took three online steps in one of the ways, in GB.

    In a process of its own: what a recording uses is held from then on, and counts where it is reserved.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return {"width": width, "way": way, "reserved_gb": pool.submit(_reserved, width, way, device).result()}


def _reserved(width: int, way: str, device: torch.device) -> float:
    bench = Bench(width, device=str(device))
    for _ in range(3):
        carry_out(partial(bench.step, whole=False), way, device)
    return torch.cuda.max_memory_reserved(device) / 1e9


def measure_sharing(width: int, steps: int, device: torch.device) -> list[dict[str, Any]]:
    """Return how many online steps a second processes make that share a device, a row a number of them."""
    context = multiprocessing.get_context("spawn")
    rows: list[dict[str, Any]] = []
    for processes in PROCESSES:
        with context.Manager() as manager, ProcessPoolExecutor(processes, context) as pool:
            ready = manager.Barrier(processes, timeout=PATIENCE)
            times = list(pool.map(_beside_others, *zip(*[(width, steps, device, ready)] * processes, strict=True)))
        rows.append({"width": width, "processes": processes, "steps_per_s": processes * steps / max(times)})
    return rows


def _beside_others(width: int, steps: int, device: torch.device, ready: Barrier) -> float:
    """Return the seconds that some steps take once all processes are ready."""
    bench = Bench(width, device=str(device))
    step = partial(carry_out, partial(bench.step, whole=False), "recorded", device)
    for _ in range(3):  # finds kernels, records, replays
        step()
    ready.wait()
    return seconds(lambda: [step() for _ in range(steps)], 1, warm=False)[0]


def _busy(call: Callable[[], object], device: torch.device) -> float | None:
    if device.type != "cuda":
        return None
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        started = time.perf_counter()
        call()
        wall = time.perf_counter() - started
    return sum(float(event.self_device_time_total) for event in profile.key_averages()) / 1e6 / wall


def measure_training(width: int, epochs: int, device: torch.device) -> dict[str, Any]:
    """Return the images a second of a burn-in by the recipe ``official`` on random images, by way, from epoch 2 on."""
    found: dict[str, Any] = {"width": width, "batch_size": 256}
    rng = np.random.default_rng(0)
    with TemporaryDirectory() as folder:
        file = Path(folder) / "random.npz"
        x, y = rng.integers(256, size=(IMAGES + 1000, 32, 32, 3), dtype=np.uint8), np.arange(IMAGES + 1000) % 10
        np.savez(file, train_x=x[:IMAGES], train_y=y[:IMAGES], test_x=x[IMAGES:], test_y=y[IMAGES:])
        parts = {"burnin": IMAGES - 256, "stream": 100, "trigger": 50, "val": 50, "trusted": 40, "monitor": 100}
        settings: dict[str, Any] = {
            "data": {"name": f"npz:{file}", **parts},
            "model": {"width": width},
            "train": {"epochs": epochs + 1, "batch_size": 256},
        }
        for way in WAYS:
            run = {"device": str(device), "graphs": way == "recorded"}
            burnin = Burnin.prepare(burnin_config([preset("burnin", "official"), {**settings, "run": run}]))
            for _ in burnin.train_epoch():
                pass
            done, started = burnin.step, time.perf_counter()
            burnin.train()
            found[f"{way}_images_per_s"] = 256 * (burnin.step - done) / (time.perf_counter() - started)
    return found
