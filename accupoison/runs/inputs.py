"""What a run is made from besides its settings, and whether it is still the same."""

import hashlib
from pathlib import Path

from accupoison.config.schema import OnlineConfig
from accupoison.data import DataSet
from accupoison.errors import InputError
from accupoison.records.files import read_json, reading
from accupoison.records.run_directory import ENV
from accupoison.runs.places import find_checkpoint
from accupoison.runs.replay import digest

INPUTS = ("data", "checkpoint", "early", "replay")
"""What a run depends on besides its settings; env.json has a digest of each."""


def input_digests(config: OnlineConfig, root: Path, data: DataSet) -> dict[str, str]:
    """Return digests of what a run depends on besides its settings, by name.

    Args:
        config: All settings.
        root: The directory of checkpoints.
        data: The images.
    """
    digests = {"data": data.fingerprint()}
    for name, path in zip(("checkpoint", "early"), find_checkpoint(config, root), strict=True):
        if path is not None:
            digests[name] = file_digest(path)
    if config.stream.replay is not None:
        digests["replay"] = digest(Path(config.stream.replay))
    return digests


def file_digest(path: Path) -> str:
    """Return a SHA-256 hex digest of a file.

    Raises:
        InputError: It cannot be read.
    """
    with reading(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def recorded_inputs(run: Path) -> dict[str, str]:
    """Return :func:`input_digests` as they were when ``run`` was started."""
    env = read_json(run / ENV)
    return {name: env[name] for name in INPUTS if name in env}


def check_inputs(run: Path, config: OnlineConfig, stored: dict[str, str], present: dict[str, str]) -> None:
    """Raise InputError unless what a run was made from is what is there now.

    Args:
        run: The run's directory.
        config: All settings.
        stored: :func:`input_digests` of then.
        present: :func:`input_digests` of now.
    """
    for name in {**stored, **present}:
        if stored.get(name) != present.get(name):
            named = {"data": config.data.name, "early": "the early snapshot", "replay": "the replayed run"}
            what = named.get(name, "the checkpoint")
            raise InputError(f"{what} has changed since {run} was started; bring the old one back to go on with it")
