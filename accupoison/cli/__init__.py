"""The command line. Nothing here imports torch before a command needs it."""

from accupoison.cli import audit, commands, demo, info, study
from accupoison.cli.group import cli, main

__all__ = ["audit", "cli", "commands", "demo", "info", "main", "study"]
