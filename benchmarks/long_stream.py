"""A long stream on digits with every recorder on: is a step as cheap at the end, and memory as small, as at the start?

Run by ``python -m benchmarks.long_stream``; needs no data but scikit-learn's.
"""

import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from accupoison.config.layers import preset
from accupoison.config.schema import burnin_config, online_config
from accupoison.records.ledger import LEDGER_ROWS
from accupoison.records.tags import METRICS
from accupoison.runs.burnin import run_burnin
from accupoison.runs.online import OnlineRun

HERE = Path(__file__).parent
EARLY = 500
"""Step from which on nothing should grow but the files."""
FILES = ("events", METRICS, LEDGER_ROWS)
STREAM: dict[str, Any] = {
    "stream": {"kind": "cycling", "augment": "none", "recovery_steps": 0},
    "attack": {"name": "noise"},
    "evaluate": {"monitor": True, "images": 8, "audit_every": 50, "test": "milestones"},
}


def resident() -> float:
    """Return the memory that this process holds now, in MB (1e6 bytes); Linux only."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


class Watch:
    """The progress bar of a run; notes the time of so many steps, and what the process and its files have grown to.

    Args:
        out: The run's directory.
        every: Steps between notes.
    """

    def __init__(self, out: Path, every: int) -> None:
        self.out, self.every = out, every
        self.rows: list[dict[str, float]] = []
        self.last = time.perf_counter()

    def __call__(self, done: int, total: int, said: str) -> None:
        """Take a note if it is time for one."""
        if done % self.every == 0:
            now = time.perf_counter()
            self.rows.append({"step": done, "seconds": now - self.last, "resident_mb": resident(), **self._files()})
            self.last = now

    def _files(self) -> dict[str, float]:
        events = sum(path.stat().st_size for path in self.out.glob("events.*"))
        sizes = {name: (self.out / name).stat().st_size for name in (METRICS, LEDGER_ROWS)}
        return {f"{name}_mb": size / 1e6 for name, size in {"events": events, **sizes}.items()}


def measure(steps: int, folder: Path) -> dict[str, Any]:
    """Run the stream in ``folder`` and return what grew."""
    demo = preset("burnin", "demo")
    run_burnin(burnin_config([demo]), folder / "base", resume=False, progress=lambda *_: None)
    start = {"start": {"checkpoint": str(folder / "base" / "final.pt")}, "run": {"seed": 0}}
    layers = [preset("online", "demo"), STREAM, {"stream": {"steps": steps}}, start]
    out = folder / "run"
    watch = Watch(out, EARLY)
    OnlineRun(online_config(layers), folder, out, resume=False).run(watch)
    rows = watch.rows
    first, last = rows[0], rows[-1]
    span = last["step"] - first["step"]
    return {
        "steps": steps,
        "resident_mb": {"early": first["resident_mb"], "end": last["resident_mb"]},
        "growth": last["resident_mb"] / first["resident_mb"] - 1,
        "step_ms": {"early": 1e3 * rows[1]["seconds"] / EARLY, "end": 1e3 * last["seconds"] / EARLY},
        "bytes_a_step": {name: 1e6 * (last[f"{name}_mb"] - first[f"{name}_mb"]) / span for name in FILES},
        "rows": rows,
    }


@click.command()
@click.option("--steps", type=click.IntRange(3 * EARLY), default=10_000, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=HERE / "long_stream.json", help="The JSON to write.")
def main(steps: int, out: Path) -> None:
    """Measure a long stream."""
    with TemporaryDirectory() as folder:
        found = measure(steps, Path(folder))
    out.write_text(json.dumps(found, indent=2) + "\n")
    click.echo(json.dumps({key: value for key, value in found.items() if key != "rows"}, indent=2))


if __name__ == "__main__":
    main()
