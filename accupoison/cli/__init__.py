"""The command line. Nothing here imports torch before a command needs it."""

from accupoison.cli import commands, demo, info, study
from accupoison.cli.group import cli, main

__all__ = ["cli", "commands", "demo", "info", "main", "study"]
