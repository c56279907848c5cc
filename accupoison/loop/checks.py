"""What the loop checks of a batch that an attack or a defence returned."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from accupoison.attacks import Attack
from accupoison.defenses import Defense
from accupoison.errors import ComponentError, RangeError
from accupoison.types import Batch, check_range

SLACK = 1e-6
"""Rounding by which a pixel may lie outside its budget."""


def check_batch(batch: Batch, who: str, *, bounded: bool = True) -> None:
    """Raise ComponentError unless the images are float32, finite and, if ``bounded``, in [0, 1].

    A :class:`~accupoison.types.Batch` lets NaN pass, and its tensor can be changed after it was checked.

    Args:
        batch: The images.
        who: The component that made them, for the error message.
        bounded: They must be in [0, 1].
    """
    if batch.x.dtype != torch.float32:
        raise ComponentError(f"{who} returned images of type {batch.x.dtype}, not float32")
    if not bounded and not bool(batch.x.isfinite().all()):
        raise ComponentError(f"{who} returned inputs that are not finite numbers")
    if bounded:
        try:
            check_range(batch.x, finite=True)
        except RangeError as error:
            raise ComponentError(f"{who} returned {error.what}") from error


def component_name(component: Attack | Defense) -> str:
    """Return "attack" or "defence" with the name of the class, for error messages."""
    return f"{'attack' if isinstance(component, Attack) else 'defence'} {type(component).__name__}"


@contextmanager
def blaming(component: Attack | Defense) -> Iterator[None]:
    """Name the component in whose code a batch left its range: batches are checked where they are made.

    Raises:
        ComponentError: A batch did.
    """
    try:
        yield
    except RangeError as error:
        raise ComponentError(f"{component_name(component)} returned {error.what}") from error
