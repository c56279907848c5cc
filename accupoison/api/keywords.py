"""Settings as keywords: the words of the command line's options, and what they become."""

import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypedDict

from torch import nn

from accupoison.api.objects import Data, Model, component, data_section, model_name
from accupoison.attacks import Attack
from accupoison.config.flags import FLAGS, data_place, layers
from accupoison.config.layers import Layer, as_text
from accupoison.defenses import Defense
from accupoison.errors import check_choice
from accupoison.release import Release
from accupoison.runs.burnin import Progress
from accupoison.updates import SGD

Settings = Mapping[str, object]
"""Any setting by "section.key"."""
Watched = bool | Progress
"""Whether to write how far it is to standard error, or what to tell instead: steps done, steps in all, a few words."""


class Common(TypedDict, total=False):
    """Keywords of both jobs; the option of the same name says what each does."""

    data: Data
    data_dir: str | Path
    offline: bool
    model: Model
    width: int
    norm: str
    seed: int
    device: str
    update: str | type[SGD] | SGD
    noise_multiplier: float
    max_grad_norm: float
    med: str | type[Defense] | Defense
    attack: str | type[Attack] | Attack


class BurninKeywords(Common, total=False):
    """Keywords of a burn-in."""

    epochs: int


class OnlineKeywords(Common, total=False):
    """Keywords of an online run."""

    eps: str | float
    trigger: str
    stream: str
    steps: int
    recovery_steps: int
    bn_mode: str
    clip_norm: float
    release: str | type[Release] | Release
    checkpoint: str | Path
    reference: str | Path
    audit_every: int
    save_batches: bool
    detectors: str


def keyword_layers(given: Mapping[str, Any], settings: Settings | None, known: type) -> list[Layer]:
    """Return the layers of settings that keywords make.

    Args:
        given: Keywords and their values; None is not given.
        settings: Further settings, which win.
        known: Whose keywords they may be.

    Raises:
        InputError: There is no such keyword, or an object among them cannot be used.
    """
    objects: dict[str, dict[str, Any]] = {}
    flags: dict[str, Any] = {"file": None, "pairs": [f"{key}={as_text(v)}" for key, v in (settings or {}).items()]}
    for key, value in given.items():
        check_choice("keyword", key, known.__annotations__)
        section = "release" if key == "release" else FLAGS[key][0]
        match value:
            case str() if key == "data":
                flags[key] = value
            case _ if key == "data":
                objects["data"] = data_section(value)
            case nn.Module() if key == "model":
                flags[key] = model_name(value)
            case _ if key == "model" and callable(value):
                flags[key] = model_name(value)
            case _ if key in ("med", "attack", "update", "release") and not isinstance(value, str | None):
                objects[section] = component(section, value)
            case _:
                flags[key] = value
    return [data_place(), objects, *layers(flags)]


def say(text: str) -> None:
    """Warn of something, as the command line does on standard error."""
    warnings.warn(text, stacklevel=4)


def told(progress: Watched) -> Callable[[int, int, str], None]:
    """Return what a job tells of its steps."""
    if callable(progress):
        return progress
    return _line if progress else lambda done, total, text: None


def _line(done: int, total: int, text: str) -> None:
    sys.stderr.write(f"\r{done}/{total} {text}" + "\n" * (done == total))
    sys.stderr.flush()
