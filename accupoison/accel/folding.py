"""Batch norm in eval mode as part of the convolution before it: one pass over the map less.

Jacob et al. (CVPR 2018), Eq. 14. For passes whose weights take part in no derivative.
"""

import copy
import inspect
from collections import Counter
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from accupoison.accel import layers

Pairs = dict[str, tuple[str, float]]
"""By the name of a convolution, the name and the epsilon of the batch norm that alone reads it."""
OF_NORM = ("running_mean", "running_var", "weight", "bias")


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Layers of our own are leaves as PyTorch's are."""
        return m.__module__ == layers.__name__ or super().is_leaf_module(m, module_qualified_name)


def fold_norms(module: nn.Module) -> Pairs:
    """Take the batch norms that follow a convolution out of ``module``; the convolutions get a bias each.

    Nothing is taken out of a module whose code cannot be followed, or which uses a tensor in two places.
    """
    pairs = _pairs(module)
    for conv, (norm, _) in pairs.items():
        layer = cast(nn.Conv2d, module.get_submodule(conv))
        layer.bias = nn.Parameter(layer.weight.new_empty(layer.out_channels))
        module.set_submodule(norm, nn.Identity())
    return pairs


def fold_tensors(tensors: Mapping[str, Tensor], pairs: Pairs) -> dict[str, Tensor]:
    """Return the tensors of the module that :func:`fold_norms` leaves, from those of the module as it was, by name."""
    out = dict(tensors)
    for conv, (norm, eps) in pairs.items():
        out.pop(f"{norm}.num_batches_tracked", None)
        mean, var, gain, shift = (out.pop(f"{norm}.{name}", None) for name in OF_NORM)
        weight, bias = out[f"{conv}.weight"], out.get(f"{conv}.bias")
        folded = fuse_conv_bn_weights(weight, bias, cast(Tensor, mean), cast(Tensor, var), eps, gain, shift)
        out[f"{conv}.weight"], out[f"{conv}.bias"] = (t.detach() for t in folded)
    return out


def _pairs(module: nn.Module) -> Pairs:
    for named in (module.named_parameters, module.named_buffers):
        if len(list(named())) < len(list(named(remove_duplicate=False))):
            return {}
    try:
        arguments = inspect.signature(module.forward).parameters.values()
        defaults = {a.name: a.default for a in arguments if a.default is not a.empty}
        nodes = (
            _Tracer().trace(copy.deepcopy(module), defaults).nodes
        )  # a copy, since the code runs and may note things
    except Exception:  # somebody's own code, which may decide by what it is given
        return {}
    pairs: Pairs = {}
    calls = Counter(node.target for node in nodes if node.op == "call_module")
    read = {str(node.target).rpartition(".")[0] for node in nodes if node.op == "get_attr"}
    for node in nodes:
        before = node.args[0] if node.op == "call_module" and node.args else None
        if isinstance(before, fx.Node) and before.op == "call_module" and len(before.users) == 1:
            names = str(before.target), str(node.target)
            conv, norm = map(module.get_submodule, names)
            once = calls[before.target] == calls[node.target] == 1 and read.isdisjoint(names)
            if once and _fits(conv, norm):
                pairs[names[0]] = names[1], cast(nn.BatchNorm2d, norm).eps
    return pairs


def _fits(conv: nn.Module, norm: nn.Module) -> bool:
    """Return whether two layers are a convolution and a batch norm of the same precision, without hooks."""
    if type(conv) not in (nn.Conv2d, layers.Conv2d) or type(norm) not in (nn.BatchNorm2d, layers.BatchNorm2d):
        return False
    conv, norm = cast(nn.Conv2d, conv), cast(nn.BatchNorm2d, norm)
    hooked = any(m._forward_hooks or m._forward_pre_hooks for m in (conv, norm))
    dtype = None if norm.running_mean is None else norm.running_mean.dtype
    return not hooked and conv.weight.dtype == dtype in (torch.float32, torch.float64)
