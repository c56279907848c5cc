"""Many runs from one file: burn-ins and streams, attacks and defences, each combination once."""

from accupoison.sweep.grid import Grid, RunSpec, read_grid
from accupoison.sweep.local import run_grid

__all__ = ["Grid", "RunSpec", "read_grid", "run_grid"]
