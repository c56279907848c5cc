"""Poison for a network of one's own, without a stream."""

from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from accupoison.api.objects import Array, component
from accupoison.attacks import ATTACKS, Accumulative, Attack
from accupoison.config.layers import resolve
from accupoison.errors import InputError, RangeError, first_line
from accupoison.loop.checks import SLACK, blaming, check_batch, check_rows, component_name
from accupoison.loop.context import StepContext
from accupoison.models.copies import copy_of
from accupoison.models.view import view_of
from accupoison.rng import global_seed
from accupoison.runs.model_check import check_network
from accupoison.types import Access, Batch, ModelView

Labelled = tuple[Array, Array]
"""Samples [N, ...] and their labels [N]."""


@dataclass(frozen=True, kw_only=True)
class _Only:
    """A configuration with this one section."""

    attack: Attack = field(default_factory=Accumulative)


def craft(
    model: nn.Module,
    x: Array,
    y: Array,
    *,
    val: Labelled,
    attack: str | type[Attack] | Attack = "accumulative",
    trigger: Labelled | None = None,
    as_trigger: bool = False,
    bounded: bool = True,
    seed: int = 0,
    **settings: Any,  # noqa: ANN401
) -> Tensor:
    """Return what an attack makes of a batch, against a network as it is now; nothing about the network changes.

    The images are those that a stream would carry but for their rounding to 8 bits.

    Args:
        model: From inputs to logits [B, classes]; it normalises them itself. It is attacked in eval mode.
        x: The clean batch [B, ...], pixels in [0, 1].
        y: Its labels [B].
        val: The attacker's own images and labels.
        attack: One that moves inputs: a name, a class or an instance.
        trigger: The clean trigger batch that the poison prepares for; None is the batch itself, as in a stream that
            brings the same images again and again.
        as_trigger: Craft the adversarial trigger from the batch, not the poison that comes before it.
        bounded: False takes features of any range.
        seed: Of all randomness.
        **settings: Of the attack, such as ``eps`` and ``steps``.

    Returns:
        The poisoned inputs [B, ...], on the device of the network.

    Raises:
        InputError: A setting, the batch or the network cannot be used, or the attack relabels or adds samples.

    Example:
        >>> import torch, accupoison as ap
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
        >>> x, y = torch.rand(20, 3, 2, 2), torch.arange(20) % 3
        >>> sent = ap.craft(net, x[:8], y[:8], val=(x[8:], y[8:]), eps=8 / 255)
        >>> bool((sent - x[:8]).abs().max() <= 8 / 255 + 1e-6)
        True
    """
    made = _attack(attack, settings)
    device = next(model.parameters()).device
    clean, own, goal = (_batch(pair, device, bounded) for pair in ((x, y), val, trigger or (x, y)))
    view, context = _checked(model, clean), StepContext(seed, "attack", 0, {})
    access = Access(own, clean if as_trigger else goal, crafted=as_trigger, reoptimise=False)
    with global_seed(seed, "model", "attack", 0, device=device), blaming(made):
        made.setup(view, access, context)
        sent = made.trigger(view, clean, context) if as_trigger else made.poison(view, clean, context)
    return _kept(sent, clean, made, as_trigger)


def _attack(given: str | type[Attack] | Attack, settings: dict[str, Any]) -> Attack:
    section = {"name": given} if isinstance(given, str) else component("attack", given)
    made = resolve(_Only, [{"attack": section}, {"attack": settings}], {"attack": ATTACKS}).attack.fresh()
    if made.poisons_rows:
        raise InputError(f"the attack {made.name} relabels or adds samples, which takes a whole stream; use online")
    return made


def _batch(given: Labelled, device: torch.device, bounded: bool) -> Batch:
    try:
        x, y = torch.as_tensor(given[0], device=device), torch.as_tensor(given[1], device=device)
        x = x.float() if x.is_floating_point() else x
        return Batch(x.detach(), y.long(), torch.arange(len(x), device=device), bounded=bounded)
    except RangeError as error:
        raise InputError(
            f"craft got {error.what}; give pixels in [0, 1] and normalise inside the model, or say bounded=False for "
            "features of another range"
        ) from error
    except (ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"craft cannot use the samples ({first_line(error)}); give tensors or arrays") from error


def _checked(model: nn.Module, batch: Batch) -> ModelView:
    """Return a view of a network that does what attacks ask of it."""
    copied, classes = copy_of(model).eval(), 0
    with suppress(Exception), torch.no_grad():  # what is wrong is said below
        classes = copied(batch.x[:1]).shape[1]
    few = batch.rows(slice(0, 4))
    try:
        check_network(copied, few, classes, rows=min(2, len(few)), kind="inputs", fresh=False)
    except ValueError as error:
        fix = "" if "; " in str(error) else "; give another model, or other inputs"
        raise InputError(f"the model {type(model).__name__} {error}{fix}") from error
    return view_of(copied)


def _kept(sent: Batch, clean: Batch, attack: Attack, as_trigger: bool) -> Tensor:
    """Return the inputs [B, ...] of a batch that keeps the attack's word."""
    check_batch(sent, component_name(attack), bounded=clean.bounded)
    check_rows(sent, clean, attack)
    budget = attack.budget(trigger=as_trigger)
    if budget is not None and float((sent.x - clean.x).abs().max()) > budget + SLACK:
        raise InputError(f"{component_name(attack)} moved an input by more than its budget of {budget}")
    return sent.x.detach()
