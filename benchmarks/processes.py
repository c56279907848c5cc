"""What is measured in processes of their own: peak memory, start-up, the audit's arithmetic."""

import json
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from accupoison.audit.lira import lira_scores
from accupoison.audit.metric import all_scores
from accupoison.defenses import Defense
from accupoison.learner import Learner
from accupoison.loop.context import StepContext
from accupoison.measure.hardware import seconds
from accupoison.models.factory import ModelSpec, build_model
from accupoison.runs.base_model import place
from accupoison.types import Batch
from accupoison.updates import DPSGD

ROOT = Path(__file__).parent.parent
SAMPLES, SHADOWS, QUERIES = 20_000, 64, 2
MEMORY = """
from benchmarks.phases import Bench
from benchmarks.processes import peak
Bench({width}).step(whole=True)
print(peak())
"""


def peak() -> float:
    """Return the most memory that this process has held, in GB (1e9 bytes)."""
    status = Path("/proc/self/status")
    if status.exists():  # what getrusage says includes the parent's memory from before this program was started
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


def memory(width: int) -> dict[str, Any]:
    """Return the peak memory of a process that does one online step, data and network included."""
    text = run([sys.executable, "-c", MEMORY.format(width=width)])
    return {"width": width, "phase": "online step, test set", "peak_gb": float(text)}


def private_memory(width: int) -> dict[str, Any]:
    """Return the peak memory of a process that does one DP-SGD update, data and network included."""
    text = run([sys.executable, "-c", f"from benchmarks.processes import private_step\nprint(private_step({width}))"])
    return {"width": width, "phase": "DP-SGD update, batch 100, chunk 16", "peak_gb": float(text)}


def private_step(width: int, rows: int = 100) -> float:
    """Make one DP-SGD update of the ResNet-18 with group norm and return the process's peak memory in GB."""
    learner = Learner(place(build_model(ModelSpec(width=width, norm="group"), 0), torch.device("cpu")), lr=0.01)
    batch = Batch(torch.rand(rows, 3, 32, 32), torch.randint(10, (rows,)), torch.arange(rows))
    rule = DPSGD(noise_multiplier=1.0, max_grad_norm=1.0, chunk=16)
    rule.step(learner, Defense(), batch, StepContext(0, "bench", 0, {}))
    return peak()


def run(command: Sequence[str]) -> str:
    """Run a command in the repository and return what it prints."""
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def start_up(repeats: int) -> dict[str, float]:
    """Return the median time of ``--help`` and of importing click alone, each in processes of their own."""
    helped = median(seconds(lambda: run([sys.executable, "cli.py", "--help"]), repeats))
    click = median(seconds(lambda: run([sys.executable, "-c", "import click"]), repeats))
    return {"help_s": helped, "import_click_s": click, "ratio": helped / click}


def audit_speed(repeats: int) -> list[dict[str, Any]]:
    """Time the metric attacks and LiRA on arrays of the size of a large audit, each in a process of its own."""
    code = "import json\nfrom benchmarks.processes import audit_task\nprint(json.dumps(audit_task({!r}, {})))"
    return [json.loads(run([sys.executable, "-c", code.format(name, repeats)])) for name in ("metric", "lira")]


def audit_task(name: str, repeats: int) -> dict[str, Any]:
    """Time one of them in this process, which should be new, since the memory is its peak less that of the arrays."""
    rng = np.random.default_rng(0)
    work: Callable[[], object]
    if name == "metric":
        probs, labels = rng.dirichlet(np.ones(10), SAMPLES), rng.integers(0, 10, SAMPLES)
        phase, work = f"all metric attacks, {SAMPLES:,} samples", lambda: all_scores(probs, labels)
    else:
        phi = rng.normal(size=(SHADOWS, SAMPLES, QUERIES))
        keep = rng.random((SHADOWS, SAMPLES)) < 0.5
        phase = f"LiRA online, {SHADOWS} shadow models x {SAMPLES:,} samples x {QUERIES} queries"
        work = lambda: lira_scores(phi, keep, phi[0], variant="online")  # noqa: E731
    before = peak()
    return {"phase": phase, "seconds": median(seconds(work, repeats)), "memory_gb": peak() - before}
