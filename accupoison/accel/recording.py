"""Computations that a GPU repeats at every step, recorded once as a CUDA graph and then started as one.

To launch thousands of small kernels one by one takes the host longer than the kernels take the GPU.
"""

import logging
import warnings
from collections import Counter
from collections.abc import Callable, Hashable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from accupoison.device import records

Function = Callable[..., tuple[Tensor, ...]]
"""From tensors to tensors: what else it reads are settings and tensors that stay where they are in memory, such as
weights. It hands no number to the host, and draws none there.
"""
MOST = 32
"""Recordings of one model: a stream whose batches are of ever other sizes would fill the memory with them."""
PLAIN = "some of this is computed kernel by kernel, as it cannot be recorded as a CUDA graph: %s"


class CudaGraph:
    """The kernels of a function, with inputs and outputs in fixed places.

    Args:
        function: The function; it is not carried out.
        inputs: What it is first called with; of any shapes, [*].

    Raises:
        RuntimeError: CUDA cannot record it.
    """

    def __init__(self, function: Function, inputs: tuple[Tensor, ...]) -> None:
        device = inputs[0].device
        self._inputs = tuple(tensor.detach().clone() for tensor in inputs)
        pool = _anchor(device).pool()
        self._graph, self._outputs = _captured(device, lambda: function(*self._inputs), pool)

    def __call__(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return what the function returns of other inputs, of the same shapes [*]; detached."""
        with torch.no_grad():
            torch._foreach_copy_(self._inputs, inputs)
            self._graph.replay()
            return tuple(tensor.clone() for tensor in self._outputs)


def _captured(
    device: torch.device,
    work: Callable[[], tuple[Tensor, ...]],
    pool: Any = None,  # noqa: ANN401
) -> tuple[torch.cuda.CUDAGraph, tuple[Tensor, ...]]:
    """Return the graph of some work on a device, and its results, which a replay fills."""
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream(device)
    mode = "thread_local"  # TensorBoard has threads of its own
    try:
        with (
            torch.cuda.device(device),
            torch.cuda.graph(graph, pool=pool, stream=_stream(device), capture_error_mode=mode),
        ):
            found = work()
    finally:
        torch.cuda.set_stream(stream)  # PyTorch leaves the other one where a recording fails
    return graph, found


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


@cache
def _anchor(device: torch.device) -> torch.cuda.CUDAGraph:
    """Return a graph that is never dropped, and holds the memory that all graphs of a device share.

    They can, as one is replayed at a time and its results are copied; memory whose last graph is gone cannot be used
    again by PyTorch.
    """
    return _captured(device, lambda: (torch.zeros(1, device=device),))[0]


def waits(function: Function, inputs: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], bool]:
    """Return ``function(*inputs)``, [*] each, and whether the host had to wait for the GPU meanwhile.

    Args:
        function: The function.
        inputs: On a CUDA device, [*].
    """
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            torch.cuda.set_sync_debug_mode("warn")  # which itself warns that it is a prototype
            found = function(*inputs)
        finally:
            torch.cuda.set_sync_debug_mode(before)
    for one in told:
        if "ynchroniz" not in str(one.message):  # somebody else's
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
    return found, any("synchronizing CUDA operation" in str(one.message) for one in told)


class Recorder:
    """Carries functions out: as they are the first time, later as a recording."""

    broken = False
    """A recording has failed in this process: no more are made."""

    def __init__(self) -> None:
        self._recordings: dict[Hashable, CudaGraph] = {}
        self._plain: set[Hashable] = set()
        self._calls: Counter[Hashable] = Counter()

    def __call__(
        self, key: Hashable, function: Function, inputs: tuple[Tensor, ...], after: int = 1
    ) -> tuple[Tensor, ...]:
        """Return ``function(*inputs)``.

        Args:
            key: Tells functions and their settings apart.
            function: The function; of one key always the same.
            inputs: On one device, [*].
            after: Calls that are carried out as they are, at least one, which finds the kernels.
        """
        if not inputs or not records(inputs[0].device) or Recorder.broken:
            return function(*inputs)
        shapes = tuple((tensor.shape, tensor.dtype) for tensor in inputs)
        place = key, function.__module__, function.__qualname__, shapes
        if place in self._recordings:
            return self._recordings[place](inputs)
        if place not in self._calls:
            found, unfit = waits(function, inputs)
            if unfit:
                self._leave_out(place, "it waits for the GPU")
            self._calls[place] += 1
            return found
        if place not in self._plain and self._calls[place] >= after and len(self._recordings) < MOST:
            try:
                self._recordings[place] = CudaGraph(function, inputs)
            except RuntimeError as error:
                Recorder.broken = True
                self._leave_out(place, str(error).strip().partition("\n")[0])
            else:
                return self._recordings[place](inputs)
        self._calls[place] += 1
        return function(*inputs)

    def _leave_out(self, place: Hashable, why: str) -> None:
        self._plain.add(place)
        _say(why)


@cache
def _say(why: str) -> None:
    logging.getLogger(__name__).warning(PLAIN, why)
