"""What is made of weights before they are used, kept while the weights stay the same."""

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
Prepared = dict[tuple[Hashable, ...], tuple[tuple[Tensor, ...], tuple[int, ...], Any]]
"""Tensors, their versions and what was made of them, by the way it is made and the tensors' identities."""
_KEPT: ContextVar[tuple[Prepared, Prepared] | None] = ContextVar("prepared weights", default=None)
"""What the last pass used, and what this one does."""


@contextmanager
def keeping(kept: Prepared) -> Iterator[None]:
    """Within this context, that of one pass, what is made of weights is made once, as long as they stay the same.

    Args:
        kept: Where it is for the next pass; what this pass did not use is dropped.
    """
    last = kept.copy()
    kept.clear()
    token = _KEPT.set((last, kept))
    try:
        yield
    finally:
        _KEPT.reset(token)


def keeps(*sources: Tensor) -> bool:
    """Return whether what is made of these tensors is kept now: no gradient flows through it."""
    gone = torch.is_inference_mode_enabled() or any(t.requires_grad or t.is_inference() for t in sources)
    return _KEPT.get() is not None and not gone


def prepared(way: Hashable, make: Callable[..., T], *sources: Tensor) -> T:
    """Return ``make(*sources)``, or what is kept of it.

    A change in place shows if the tensor counts it: neither one by way of ``.data`` nor that of running statistics in
    a forward pass is counted.

    Args:
        way: What tells this ``make`` from others.
        make: What to make.
        sources: Of what.
    """
    kept = _KEPT.get()
    if kept is None or not keeps(*sources):
        return make(*sources)
    last, now = kept
    key, versions = (way, *map(id, sources)), tuple(t._version for t in sources)
    known = now.get(key) or last.get(key)
    if known is None or known[1] != versions:
        known = (sources, versions, make(*sources))
    now[key] = known
    made: T = known[2]
    return made
