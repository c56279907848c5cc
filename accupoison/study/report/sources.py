"""How a run was made: its directory, its seeds, and a command that makes it again."""

import shlex
from functools import cache

from accupoison.config.layers import as_text, plain, preset
from accupoison.config.schema import online_config
from accupoison.records.files import flatten
from accupoison.study.collect import Run

ELSEWHERE = ("run.seed", "data.dir", "data.offline", "run.device", "run.threads")
"""Settings that a command has an option for, or that say where a run was carried out."""


def command(run: Run, program: str) -> str:
    """Return a command that makes a run again, beside the one that is there.

    Args:
        run: The run.
        program: How the command line is started, quoted for the shell.
    """
    words = [*shlex.split(program), "online", "--seed", str(run.config.run.seed)]
    for key, value in flatten(plain(run.config)):
        if key not in ELSEWHERE and (key not in _usual(run) or _usual(run)[key] != value):
            words += ["--set", f"{key}={as_text(value)}"]
    return shlex.join([*words, "--out", f"{run.path}-again"])


def _usual(run: Run) -> dict[str, object]:
    """Return the settings that a run has if none are given but the names of its components."""
    config = run.config
    parts = config.attack, config.defense, config.update, config.release
    return _of(*(part.spelling for part in parts))


@cache
def _of(attack: str, defense: str, update: str, release: str) -> dict[str, object]:
    names = {"attack": attack, "defense": defense, "update": update, "release": release}
    layer = {section: {"name": name} for section, name in names.items()}
    usual = dict(flatten(plain(online_config([preset("online", "fresh"), layer]))))
    for section in names:
        usual.pop(f"{section}.name")  # always said: settings after it belong to it
    return usual
