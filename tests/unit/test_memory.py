"""Freed memory is kept."""

import subprocess
import sys

import pytest
import torch

from accupoison.cli import group
from accupoison.runs import workers

PROBE = """
import resource, sys
from accupoison.accel.memory import keep_freed_memory
kept = keep_freed_memory() if sys.argv[1] == "keep" else False
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    b"x" * (1 << 26)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(int(kept), faults())
"""


def probe(what: str) -> tuple[int, int]:
    """Return whether memory is said to be kept, and the page faults of 64 MiB as large as a block just freed."""
    text = subprocess.run([sys.executable, "-c", PROBE, what], check=True, capture_output=True, text=True).stdout
    kept, faults = map(int, text.split())
    return kept, faults


@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
def test_a_block_like_the_last_one_costs_no_page_faults() -> None:
    kept, few = probe("keep")
    _, many = probe("plain")
    if not kept:
        pytest.skip("a C library without mallopt")
    assert few < 100 < 1000 < many


def test_the_command_line_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    monkeypatch.setattr(group, "keep_freed_memory", lambda: called.append("main"))
    monkeypatch.setattr(sys, "argv", ["accupoison", "--version"])
    with pytest.raises(SystemExit):
        group.main()
    assert called == ["main"]


def test_workers_keep_it(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    monkeypatch.setattr(workers, "keep_freed_memory", lambda: called.append("worker"))
    workers._prepare(torch.get_num_threads())
    assert called == ["worker"]
