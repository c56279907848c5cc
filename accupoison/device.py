"""What turns a device's name into a device, and puts a state there."""

import os
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from accupoison.errors import InputError, did_you_mean

KINDS = ("auto", "cpu", "cuda", "mps")


def device_parts(name: str) -> tuple[str, int]:
    """Return kind and number of a device by its name; whether this machine has it is another question.

    Raises:
        InputError: Another name.
    """
    kind, colon, number = name.partition(":")
    if kind not in KINDS:
        raise InputError(f"unknown device {name!r}{did_you_mean(name, KINDS)}")
    if colon and (kind == "auto" or not re.fullmatch("[0-9]{1,9}", number)):
        raise InputError(f"unknown device {name!r}; choose auto, cpu, cuda, cuda:N or mps")
    return kind, int(number or 0)


DEVICE = "ACCUPOISON_DEVICE"
"""The environment variable that says what "auto" takes."""


def resolve_device(name: str) -> torch.device:
    """Return the device for "auto", "cpu", "cuda", "cuda:N" or "mps".

    "auto" takes what the environment variable ``ACCUPOISON_DEVICE`` names, else CUDA if there is one, else MPS, else
    the CPU.

    Raises:
        InputError: Another name, or a device that this machine does not have.
    """
    named = os.environ.get(DEVICE) or "auto"
    if name == "auto" and named != "auto":
        try:
            return resolve_device(named)
        except InputError as error:
            raise InputError(f"the environment variable {DEVICE} cannot be used: {error}") from error
    kind, number = device_parts(name)
    if kind == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    present = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}[kind]
    if number >= present:
        raise InputError(f"device {name!r} is not on this machine; give <run.device> auto")
    return torch.device(kind, number) if ":" in name else torch.device(kind)


def placed(state: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """Return a component's state with its tensors on a device."""
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in state.items()}
