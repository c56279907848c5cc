"""Batch norm in eval mode as part of the convolution before it, which saves a pass over the map.

Jacob et al. (CVPR 2018), Eq. 14. For passes whose weights take part in no derivative.
"""

import copy
import inspect
from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from accupoison.accel.prepared import prepared

OF_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
"""What batch norm has; a pass that moves its statistics moves no version but that of the last one."""


class Folded:
    """A module in eval mode without the batch norms that follow a convolution.

    Attributes:
        module: The module; where such a batch norm was there is nothing, and the convolution has a bias.

    Args:
        skeleton: The module as it was, on the meta device, before any pass; left as it is.
    """

    def __init__(self, skeleton: nn.Module) -> None:
        self.module = copy.deepcopy(skeleton).eval()
        self._pairs: list[tuple[str, str, float]] = []
        for before, after in pairs(skeleton):
            layer, norm = (cast(Any, self.module.get_submodule(name)) for name in (before, after))
            layer.bias = nn.Parameter(torch.empty(layer.out_channels, device="meta"))
            self.module.set_submodule(after, nn.Identity())
            self._pairs.append((before, after, norm.eps))

    def tensors(self, whole: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of :attr:`module`, from those of the module as it was, by name."""
        out = dict(whole)
        for before, after, eps in self._pairs:
            norm = [out.pop(f"{after}.{name}") for name in OF_NORM]
            own = [out[f"{before}.bias"]] if f"{before}.bias" in out else []
            fold = prepared(("fold", eps), partial(_fold, eps=eps), out[f"{before}.weight"], *norm, *own)
            out[f"{before}.weight"], out[f"{before}.bias"] = fold
        return out


def pairs(module: nn.Module) -> list[tuple[str, str]]:
    """Return the names of the convolutions whose only reader is a batch norm, each with the name of that.

    An empty list for a module whose code cannot be followed, or which uses a parameter or a buffer in two places.
    """
    for named in (module.named_parameters, module.named_buffers):
        if len(list(named())) < len(list(named(remove_duplicate=False))):
            return []
    try:
        arguments = inspect.signature(module.forward).parameters.values()
        defaults = {a.name: a.default for a in arguments if a.default is not a.empty}
        nodes = (
            fx.Tracer().trace(copy.deepcopy(module), defaults).nodes
        )  # a copy, since the code runs and may note things
    except Exception:  # somebody's own code, which may decide by what it is given
        return []
    found, calls = [], Counter(node.target for node in nodes if node.op == "call_module")
    read = {str(node.target).rpartition(".")[0] for node in nodes if node.op == "get_attr"}
    for node in nodes:
        before = node.args[0] if node.op == "call_module" and node.args else None
        if isinstance(before, fx.Node) and before.op == "call_module" and len(before.users) == 1:
            names = str(before.target), str(node.target)
            once = calls[before.target] == calls[node.target] == 1 and read.isdisjoint(names)
            if once and _fits(*map(module.get_submodule, names)):
                found.append(names)
    return found


def _fits(before: nn.Module, after: nn.Module) -> bool:
    """Return whether two layers are a plain convolution and a plain batch norm of the same precision."""
    own = {**after._parameters, **after._buffers}
    tensors = [before._parameters.get("weight"), *(own.get(name) for name in OF_NORM)]
    if type(before) is not nn.Conv2d or type(after) is not nn.BatchNorm2d or any(t is None for t in tensors):
        return False
    hooked = any(m._forward_hooks or m._forward_pre_hooks for m in (before, after))
    return not hooked and {t.dtype for t in tensors[:-1] if t is not None} in ({torch.float32}, {torch.float64})


def _fold(
    weight: Tensor,
    gain: Tensor,
    shift: Tensor,
    mean: Tensor,
    var: Tensor,
    _: Tensor,
    own: Tensor | None = None,
    *,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """Return the weight and the bias of the convolution that does what it and batch norm did."""
    scale = gain * torch.rsqrt(var + eps)
    return weight * scale[:, None, None, None], shift + ((0 if own is None else own) - mean) * scale
