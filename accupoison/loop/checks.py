"""What the loop checks of a batch that an attack or a defence returned."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from accupoison.attacks import Attack
from accupoison.data.fabricated import FIRST_FABRICATED
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


def check_rows(sent: Batch, clean: Batch, attack: Attack) -> None:
    """Raise ComponentError unless the rows of a poisoned batch are those of the clean one, then the attacker's own.

    Args:
        sent: What the attack returned.
        clean: What it was given.
        attack: It may add rows where it says that it does not keep ids; these have ids of
            :func:`accupoison.data.fabricated.fabricated_id`, so that nobody takes them for samples of the stream.
    """
    who, rows, own = component_name(attack), len(clean), sent.ids[len(clean) :]
    if sent.x.shape[1:] != clean.x.shape[1:] or len(sent) < rows or (attack.keeps_ids and len(own)):
        raise ComponentError(f"{who} returned {list(sent.x.shape)} for {list(clean.x.shape)}")
    if not torch.equal(sent.ids[:rows], clean.ids):
        raise ComponentError(f"{who} moved or dropped rows of the batch; return them first, in their order")
    if bool((own > -FIRST_FABRICATED).any()):
        raise ComponentError(
            f"{who} added rows with the ids of others; make theirs by accupoison.data.fabricated.fabricated_id"
        )


def farthest(batch: Batch, origin: Batch) -> float:
    """Return the largest distance of a value in the first rows of ``batch`` from its place in ``origin``, [B, ...]."""
    return float((batch.x[: len(origin)] - origin.x).abs().max()) if len(origin) else 0.0


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
