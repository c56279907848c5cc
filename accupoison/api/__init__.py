"""What Python has of the commands: the same functions and settings, and objects beside names (docs/python.md)."""

from accupoison.api.crafting import craft
from accupoison.api.results import audit_run, report
from accupoison.api.runs import Base, Loop, Run, burn_in, online, open_run, steps

__all__ = ["Base", "Loop", "Run", "audit_run", "burn_in", "craft", "online", "open_run", "report", "steps"]
