"""Batch norm in eval mode as part of the convolution before it, which saves a pass over the map.

Jacob et al. (CVPR 2018), Eq. 14. For passes whose weights take part in no derivative.
"""

import copy
from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from accupoison.prepared import prepared

OF_NORM = ("weight", "bias", "running_mean", "running_var")


class Folded:
    """A module in eval mode without the batch norms that follow a convolution.

    Attributes:
        module: The module; where such a batch norm was there is nothing, and the convolution has a bias.

    Args:
        skeleton: The module as it was, on the meta device; left as it is.
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
            out.pop(f"{after}.num_batches_tracked", None)
            own = [out[f"{before}.bias"]] if f"{before}.bias" in out else []
            fold = prepared(("fold", eps), partial(_fold, eps=eps), out[f"{before}.weight"], *norm, *own)
            out[f"{before}.weight"], out[f"{before}.bias"] = fold
        return out


def pairs(module: nn.Module) -> list[tuple[str, str]]:
    """Return the names of the convolutions whose only reader is a batch norm, each with the name of that.

    None of a module whose code cannot be followed, or which uses a parameter in two places.
    """
    if len(list(module.named_parameters())) < len(list(module.named_parameters(remove_duplicate=False))):
        return []
    try:
        nodes = fx.Tracer().trace(module).nodes
    except Exception:  # somebody's own code, which may decide by what it is given
        return []
    found, calls = [], Counter(node.target for node in nodes if node.op == "call_module")
    for node in nodes:
        before = node.args[0] if node.op == "call_module" and node.args else None
        if isinstance(before, fx.Node) and before.op == "call_module" and len(before.users) == 1:
            layers = [module.get_submodule(str(one.target)) for one in (before, node)]
            if _fits(*layers) and calls[before.target] == calls[node.target] == 1:
                found.append((str(before.target), str(node.target)))
    return found


def _fits(before: nn.Module, after: nn.Module) -> bool:
    known = type(before) is nn.Conv2d and type(after) is nn.BatchNorm2d
    return known and all(getattr(after, name) is not None for name in OF_NORM)


def _fold(
    weight: Tensor, gain: Tensor, shift: Tensor, mean: Tensor, var: Tensor, own: Tensor | None = None, *, eps: float
) -> tuple[Tensor, Tensor]:
    """Return the weight and the bias of the convolution that does what it and batch norm did."""
    scale = gain * torch.rsqrt(var + eps)
    return weight * scale[:, None, None, None], shift + ((0 if own is None else own) - mean) * scale
