"""One place that turns a device's name into a device."""

import os

import torch

from accupoison.errors import InputError

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
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (number and not number.isdigit()):
        raise InputError(f"unknown device {name!r}; choose auto, cpu, cuda, cuda:N or mps")
    present = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}[kind]
    if int(number or 0) >= present:
        raise InputError(f"device {name!r} is not on this machine; use --device auto")
    return torch.device(name)
