"""The command line. Nothing here imports torch before a command needs it."""

from accupoison.cli import audit, challenge, commands, compare, demo, info, ladder, releases, study
from accupoison.cli.group import cli, main

__all__ = ["audit", "challenge", "cli", "commands", "compare", "demo", "info", "ladder", "main", "releases", "study"]
