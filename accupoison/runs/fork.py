"""Where runs part that differ only in what comes after their ordinary steps: kept by one, the start of the others."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from accupoison.attacks.none import Clean
from accupoison.attacks.pixel import PixelAttack
from accupoison.config.layers import plain
from accupoison.config.schema import OnlineConfig
from accupoison.loop.simulation import Simulation
from accupoison.records import checkpoint
from accupoison.records.appended import SCORES
from accupoison.records.files import reading, write_atomically
from accupoison.records.ledger import LEDGER_ROWS
from accupoison.records.run_directory import BATCHES, RunDirectory
from accupoison.records.tags import METRICS

FORK, KIND = "fork.pt", "fork"
FILES = (METRICS, LEDGER_ROWS, SCORES, f"{BATCHES}/*.npz")
"""What a run has written by then, beside its state. TensorBoard is shown these rows anew, but for the images."""
KINDS = ("iid", "cycling", "released_stream")
"""Streams whose batches do not depend on how many there will be."""


def shared_steps(config: OnlineConfig) -> str | None:
    """Return what runs have in common whose steps before the trigger are the same; None where there are none to share.

    The release, the updates on the trigger and which triggers arrive act later, unless an attack prepares for a crafted
    one. So do the steps after it, but for corruptions that grow and attacks that are told who will come. Without poison
    the budget acts on the trigger alone.

    Args:
        config: All settings.
    """
    stream, attack, trigger = config.stream, config.attack, config.trigger
    if stream.replay is not None or not stream.steps:
        return None
    settings: dict[str, Any] = dict(plain(config))
    own = type(attack).__module__.startswith("accupoison.attacks.") and isinstance(attack, PixelAttack)
    del settings["release"]
    settings["trigger"] = [bool(trigger.crafted), "optimised" in trigger.types]
    if own and stream.kind in KINDS:
        settings["stream"] = {**settings["stream"], "recovery_steps": None}
    if type(attack) is Clean and attack.max_loss_increase is None:
        settings["attack"], settings["trigger"] = attack.channel, None
    return json.dumps(settings, sort_keys=True)


def keep_fork(run: Path) -> None:
    """Write the file that other runs start from.

    Args:
        run: The directory of a run that has just saved its state before the trigger.

    Raises:
        InputError: A file cannot be read or written.
    """
    with reading(run):
        paths = sorted(path for pattern in FILES for path in run.glob(pattern))
        files = {path.relative_to(run).as_posix(): _packed(path) for path in paths}
    checkpoint.save(run / FORK, KIND, {"state": RunDirectory.read_state(run), "files": files})


def take_over(fork: Path, directory: RunDirectory, simulation: Simulation) -> None:
    """Give a run that has not begun the steps that another one has taken.

    Args:
        fork: The file of the other one.
        directory: Of the run; gets the files and, last, the state.
        simulation: Of the run, before its first step.

    Raises:
        InputError: The file is missing or damaged, or one cannot be written.
    """
    content = checkpoint.load(fork, KIND)
    with checkpoint.reading_payload(fork):
        state = content["state"]
        if type(simulation.attack) is Clean:  # it has done nothing yet but craft the trigger, with its own budget
            state["simulation"]["parts"]["attack"] = simulation.set_up_attack()
        for name, data in content["files"].items():
            write_atomically(directory.path / name, lambda file, data=data: file.write(data.numpy()))  # type: ignore[misc]
    directory.save_state(state)


def _packed(path: Path) -> Tensor:
    return torch.from_numpy(np.fromfile(path, dtype=np.uint8))
