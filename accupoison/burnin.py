"""The old name of :mod:`accupoison.runs.burnin`, for scripts that have it."""

from accupoison.runs.burnin import EARLY, FINAL, run_burnin

__all__ = ["EARLY", "FINAL", "run_burnin"]
