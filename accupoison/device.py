"""What turns a device's name into a device, says how precisely it computes, and puts a state there."""

import os
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from accupoison.errors import InputError, check_choice, did_you_mean

KINDS = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("auto", "ieee", "tf32", "bf16")


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


_halved, _recording = False, True
"""Whether networks compute in bfloat16, and whether CUDA graphs are made: of the process, as PyTorch's TF32 is."""


def compute_on(name: str, precision: str = "auto", *, deterministic: bool = False, graphs: bool = True) -> torch.device:
    """Return a device, and let this process compute there as a run asks for, until another run asks.

    Args:
        name: See :func:`resolve_device`.
        precision: "ieee" (float32 throughout), "tf32" (convolutions and matrix products of CUDA round their factors to
            10 bits of mantissa), "bf16" (forward passes under autocast to bfloat16) or "auto": tf32 on CUDA, else ieee.
        deterministic: On CUDA take kernels alone that give the same bits each time; on a CPU all do.
        graphs: On CUDA record what every step repeats, see :mod:`accupoison.accel.recording`.

    Raises:
        InputError: There is no such device, or it does not have the precision.
    """
    global _halved, _recording
    check_choice("run.precision", precision, PRECISIONS)
    device = resolve_device(name)
    cuda = device.type == "cuda"
    if precision == "tf32" and not cuda:
        raise InputError(f"<run.precision> tf32 is of CUDA and the device is {device}; choose auto, ieee or bf16")
    _halved, _recording = precision == "bf16", graphs
    if cuda:
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision in ("auto", "tf32")
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts, else it refuses
    if (deterministic and cuda) != torch.are_deterministic_algorithms_enabled():  # to set it loads PyTorch's compiler
        torch.backends.cudnn.deterministic = deterministic and cuda
        torch.use_deterministic_algorithms(deterministic and cuda)
    return device


def records(device: torch.device) -> bool:
    """Return whether CUDA graphs are made on a device."""
    return _recording and device.type == "cuda"


def arithmetic(device: torch.device) -> str:
    """Return how precisely networks compute on a device: "ieee", "tf32" or "bf16"."""
    if _halved:
        return "bf16"
    if device.type != "cuda" or not torch.backends.cudnn.allow_tf32:
        return "ieee"
    return "tf32" if torch.cuda.get_device_capability(device) >= (8, 0) else "ieee"  # which older ones do not have


def autocast(device: torch.device) -> AbstractContextManager[object]:
    """Return the context of a forward pass on a device, in the precision that :func:`compute_on` was asked for.

    Without autocast's cache of weights, which would lose their graph between passes.
    """
    return torch.autocast(device.type, torch.bfloat16, cache_enabled=False) if _halved else nullcontext()


CONTEXT = 10**9
"""Bytes that a process holds on a GPU before it computes."""


def room_for_processes() -> int:
    """Return how many processes, at least 1, the GPU has room for on which this one has computed, if it ends; else 1.

    Each may need twice the memory that this one has held, or a quarter of all, as crafting does at most.
    """
    held = {number: torch.cuda.max_memory_reserved(number) for number in range(torch.cuda.device_count())}
    used = max(held, key=lambda number: held[number], default=0)
    if not held.get(used):
        return 1
    try:
        free, total = torch.cuda.mem_get_info(used)
    except RuntimeError:  # a GPU that an error has left unusable for this process
        return 1
    given_back = torch.cuda.memory_reserved(used) + CONTEXT
    return max(1, min(os.cpu_count() or 1, (free + given_back) // (max(2 * held[used], total // 4) + CONTEXT)))


def placed(state: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """Return a component's state with its tensors on a device."""
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in state.items()}
