"""Computations that a GPU repeats at every step, recorded once as a CUDA graph and then started as one.

To launch thousands of small kernels one by one takes the host longer than the kernels take the GPU.
"""

import logging
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
PLAIN = "computing step by step, since this cannot be recorded as a CUDA graph (%s); run.graphs=false leaves it out"


class CudaGraph:
    """The kernels of a function, with inputs and outputs in fixed places.

    Args:
        function: The function; it is not carried out.
        inputs: What it is first called with; of any shapes, [*].
    """

    def __init__(self, function: Function, inputs: tuple[Tensor, ...]) -> None:
        self._inputs = tuple(tensor.detach().clone() for tensor in inputs)
        self._graph = torch.cuda.CUDAGraph()
        mode = "thread_local"  # TensorBoard has threads of its own
        with torch.cuda.graph(self._graph, pool=_pool(), capture_error_mode=mode):
            self._outputs = function(*self._inputs)

    def __call__(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return what the function returns of other inputs, of the same shapes [*]."""
        torch._foreach_copy_(self._inputs, inputs)
        self._graph.replay()
        return tuple(tensor.detach().clone() for tensor in self._outputs)


@cache
def _pool() -> Any:  # noqa: ANN401
    """Return the memory that all graphs of this process share: one is replayed at a time, and its results copied."""
    return torch.cuda.graph_pool_handle()


class Recorder:
    """Carries functions out: as they are the first time, from the second on as a recording."""

    def __init__(self) -> None:
        self._recordings: dict[Hashable, CudaGraph | None] = {}
        self._seen: set[Hashable] = set()

    def __call__(self, key: Hashable, function: Function, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return ``function(*inputs)``.

        Args:
            key: Tells functions and their settings apart.
            function: The function; of one key always the same.
            inputs: On one device, [*].
        """
        place = key, tuple((tensor.shape, tensor.dtype) for tensor in inputs)
        if place not in self._seen or not records(inputs[0].device):  # the first call finds the kernels, too
            self._seen.add(place)
            return function(*inputs)
        if place not in self._recordings and len(self._recordings) < MOST:
            try:
                self._recordings[place] = CudaGraph(function, inputs)
            except RuntimeError as error:
                logging.getLogger(__name__).warning(PLAIN, str(error).strip().partition("\n")[0])
                self._recordings[place] = None
        recording = self._recordings.get(place)
        return function(*inputs) if recording is None else recording(inputs)
