"""Copies of a network: as it is, or with batch-norm statistics made afresh."""

import copy
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn


def copy_of(module: nn.Module, memo: Mapping[int, Any] = MappingProxyType({})) -> nn.Module:
    """Return a deep copy, in which what a pass has left behind with a graph has none.

    That is the weight that ``torch.nn.utils.weight_norm`` makes, for example; ``copy.deepcopy`` refuses it.

    Args:
        module: The module.
        memo: For the identities of parts, what the copy has in their place.
    """
    held = [value for part in module.modules() for value in vars(part).values()]
    held += [item for value in held if isinstance(value, list | tuple) for item in value]
    left = {id(t): t.detach().clone() for t in held if isinstance(t, Tensor) and not t.is_leaf}
    return copy.deepcopy(module, {**left, **memo})


@torch.no_grad()
def reestimate_batchnorm(model: nn.Module, batches: Iterable[Tensor]) -> nn.Module:
    """Return a copy whose batch-norm statistics are the averages over ``batches``, weights untouched.

    What a poisoned stream costs in stale statistics alone comes back by this, without labels; what it has done to the
    weights does not. A model without batch norm comes back equal. Statistics that no image calls for stay as they
    are, such as those of noise (:class:`~accupoison.models.auxiliary.AuxiliaryBatchNorm2d`).

    Args:
        model: The network; left as it is.
        batches: Images [B, ...] in [0, 1], each batch weighing the same.

    Raises:
        ValueError: There is not a single image, so there are no statistics.
    """
    copied = copy_of(model).eval()
    norms = [m for m in copied.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    before = [{name: buffer.clone() for name, buffer in norm.named_buffers(recurse=False)} for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative average
        norm.train()
    if norms:
        batches = [x for x in batches if len(x)]
        if not batches:
            raise ValueError("batch-norm statistics cannot be re-estimated without images")
        for x in batches:
            copied(x)
    for norm, buffers in zip(norms, before, strict=True):
        if norm.num_batches_tracked is not None and not norm.num_batches_tracked:
            for name, buffer in buffers.items():
                norm.get_buffer(name).copy_(buffer)
    return copied.eval()
