"""Settings by one word: what the command line has as options and Python as keywords, and the layers they make."""

import os
from pathlib import Path
from typing import Any

CHECKPOINTS, LOGS = Path("checkpoints"), Path("logs")
"""Where base models and runs go unless somebody says otherwise."""

FLAGS: dict[str, tuple[str, str]] = {
    "data": ("data", "name"),
    "data_dir": ("data", "dir"),
    "offline": ("data", "offline"),
    "model": ("model", "name"),
    "width": ("model", "width"),
    "norm": ("model", "norm"),
    "seed": ("run", "seed"),
    "device": ("run", "device"),
    "epochs": ("train", "epochs"),
    "med": ("defense", "name"),
    "attack": ("attack", "name"),
    "eps": ("attack", "eps"),
    "trigger": ("trigger", "types"),
    "stream": ("stream", "kind"),
    "steps": ("stream", "steps"),
    "recovery_steps": ("stream", "recovery_steps"),
    "bn_mode": ("optim", "bn_mode"),
    "clip_norm": ("update", "clip_norm"),
    "update": ("update", "name"),
    "noise_multiplier": ("update", "noise_multiplier"),
    "max_grad_norm": ("update", "max_grad_norm"),
    "audit_every": ("evaluate", "audit_every"),
    "save_batches": ("evaluate", "save_batches"),
    "detectors": ("evaluate", "detectors"),
    "size": ("shadows", "size"),
    "shadows": ("shadows", "shadows"),
    "target_models": ("shadows", "target_models"),
    "leave_one_out": ("shadows", "leave_one_out"),
    "checkpoint": ("start", "checkpoint"),
    "reference": ("start", "reference"),
}
"""The setting behind each flag; everything else is reached by ``--set``."""


def layers(options: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the layers that options make, the last of which wins: those of ``--config``, single ones, ``--set``.

    Args:
        options: Those of :data:`common_options` but for ``--dry-run``, and any in :data:`FLAGS`, by name; None was not
            given.
    """
    from accupoison.config import layers as config  # here, as torch takes seconds to load

    file, pairs = options.pop("file"), options.pop("pairs")
    settings: dict[str, dict[str, Any]] = {}
    for flag, value in options.items():
        if flag == "release" and value is not None:
            from accupoison.release.spec import settings_of

            settings["release"] = dict(settings_of(value))
        elif value is not None:
            if flag == "data_dir":
                from accupoison.data.sources import data_directory

                data_directory(value)  # looked at now, so that a dry run does
            section, key = FLAGS[flag]
            settings.setdefault(section, {})[key] = str(value) if isinstance(value, Path) else value
    return [*([] if file is None else [config.read_settings(file)]), settings, config.assignments(pairs)]


def data_place() -> dict[str, dict[str, Any]]:
    """Return the data directory of the environment, stored with a run so that it can be resumed from anywhere."""
    folder = os.environ.get("ACCUPOISON_DATA")
    return {"data": {"dir": folder}} if folder and Path(folder).is_dir() else {}
