"""Measure this machine: ``python -m benchmarks``; see README.md beside this file."""

import json
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import torch

from accupoison.device import resolve_device
from accupoison.measure.hardware import ceiling
from accupoison.study.tables import markdown
from benchmarks.gpu import WAYS, measure_gpu, measure_memory, measure_sharing, measure_training
from benchmarks.phases import Bench, measure_phases
from benchmarks.processes import audit_speed, memory, private_memory, start_up

HERE = Path(__file__).parent
PARTS = ("phases", "memory", "startup", "audit")


def machine() -> dict[str, Any]:
    """Return what the figures depend on."""
    info = Path("/proc/cpuinfo")
    names = (
        [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        if info.exists()
        else []
    )
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "numpy": version("numpy"),
        "python": platform.python_version(),
        "ceiling_gflop_per_s": ceiling(torch.device("cpu")) / 1e9,
    }


def phase_table(rows: list[dict[str, Any]]) -> str:
    """Return the timed phases as a Markdown table."""
    header = [
        "width",
        "phase",
        "calls",
        "median s, torch",
        "auto",
        "auto / torch",
        "GFLOP",
        "GFLOP/s",
        "share of A @ B",
    ]
    cells = [
        [
            str(row["width"]),
            row["phase"],
            str(row["calls"]),
            f"{row['torch']:.2f}",
            f"{row['auto']:.2f}",
            f"{row['auto/torch']:.2f}",
            f"{row['gflop']:.0f}",
            f"{row['gflop_per_s']:.0f}",
            f"{row['share_of_ceiling']:.2f}",
        ]
        for row in rows
    ]
    return markdown(header, cells)


@click.command()
@click.option("--width", "widths", type=int, multiple=True, default=(64, 16), show_default=True, help="Of the network.")
@click.option("--repeats", type=click.IntRange(1), default=5, show_default=True, help="Timed calls a phase.")
@click.option("--only", type=click.Choice(PARTS), multiple=True, default=PARTS, help="Parts to measure.")
@click.option("--out", type=click.Path(path_type=Path), default=HERE / "results.json", help="The JSON to write.")
@click.option("--device", default="cpu", show_default=True, help="cuda: phases and a burn-in there, into gpu.json.")
@click.option("--profile", is_flag=True, help="Print instead where one online step spends its time.")
def main(widths: tuple[int, ...], repeats: int, only: tuple[str, ...], out: Path, device: str, profile: bool) -> None:
    """Measure speed and memory beside this machine's own matrix product."""
    if device != "cpu":
        show_gpu(widths, repeats, resolve_device(device), out.with_name("gpu.json"))
        return
    if profile:
        for width in widths:
            click.echo(f"width {width}\n{profiled(width)}")
        return
    found: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}  # of parts not measured now
    found |= {"machine": machine(), "repeats": repeats}
    click.echo("\n".join(f"{key}: {value}" for key, value in found["machine"].items()) + "\n")
    if "phases" in only:
        found["phases"] = [row for width in widths for row in measure_phases(width, repeats)]
        _save(found, out)
        click.echo(phase_table(found["phases"]) + "\n")
    if "memory" in only:
        found["memory"] = [measure(width) for width in widths for measure in (memory, private_memory)]
        _save(found, out)
        cells = [[str(row["width"]), row["phase"], f"{row['peak_gb']:.2f}"] for row in found["memory"]]
        click.echo(markdown(["width", "phase", "peak GB"], cells) + "\n")
    if "startup" in only:
        found["startup"] = start_up(repeats)
        _save(found, out)
        click.echo("cli.py --help takes {help_s:.2f} s, {ratio:.1f} times import click\n".format(**found["startup"]))
    if "audit" in only:
        found["audit"] = audit_speed(repeats)
        _save(found, out)
        cells = [[row["phase"], f"{row['seconds']:.2f}", f"{row['memory_gb']:.2f}"] for row in found["audit"]]
        click.echo(markdown(["audit", "median s", "GB on top of the arrays"], cells) + "\n")
    click.echo(f"wrote {out}")


def show_gpu(widths: tuple[int, ...], repeats: int, device: torch.device, out: Path) -> None:
    """Measure a GPU, print tables and write ``out``."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    found: dict[str, Any] = {"device": name, "torch": torch.__version__, "repeats": repeats, "phases": [], "burnin": []}
    found |= {"memory": [], "sharing": []}
    for width in widths:
        found["phases"] += measure_gpu(width, repeats, device)
        found["burnin"].append(measure_training(width, repeats, device))
        if device.type == "cuda":
            found["memory"] += [measure_memory(width, way, device) for way in WAYS]
            found["sharing"] += measure_sharing(width, repeats, device)
        _save(found, out)
    for part in filter(found.get, ("phases", "burnin", "memory", "sharing")):
        cells = [[f"{x:.2f}" if isinstance(x, float) else str(x) for x in row.values()] for row in found[part]]
        click.echo(markdown(list(found[part][0]), cells) + "\n")
    click.echo(f"wrote {out}")


def _save(found: dict[str, Any], out: Path) -> None:
    out.write_text(json.dumps(found, indent=2) + "\n")


def profiled(width: int) -> str:
    """Return the operations in which one online step spends its time."""
    bench = Bench(width)
    bench.step(whole=False)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        bench.step(whole=False)
    return str(profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=12, max_name_column_width=40))


if __name__ == "__main__":
    main()
