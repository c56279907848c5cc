"""The read-only views of a network that attacks and defences get."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from accupoison.accel.folding import Pairs, fold_norms, fold_tensors
from accupoison.accel.layers import substitute, uses_own_kernels
from accupoison.accel.recording import Recorder
from accupoison.device import autocast, records
from accupoison.models.copies import copy_of, reestimate_batchnorm
from accupoison.types import Batch, ModelView


class _View:
    """A :class:`~accupoison.types.ModelView` of a module's parameters and buffers.

    The forward pass runs on a skeleton, a copy of the module on the meta device that gets its tensors at each call, so
    neither the module's mode nor hooks somebody attaches to it matter. Parameters are aliases: they share memory with
    the module's, but are leaves of their own, so that nobody's ``backward`` can touch the module's ``.grad``.
    """

    def __init__(self, module: nn.Module, *, training: bool, kernels: str = "auto") -> None:
        self._module = module
        self._own = uses_own_kernels(kernels, next(module.parameters()).device)
        self._recorder = Recorder()
        self._skeletons = {train: self._skeleton(module).train(train) for train in (False, True)}
        self._training = training
        trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self._names = list(trained)
        self._leaves = tuple(p.detach().requires_grad_() for p in trained.values())
        self._frozen = {name: p.detach() for name, p in module.named_parameters() if not p.requires_grad}
        self._buffers = {name: buffer.detach() for name, buffer in module.named_buffers()}

    def _skeleton(self, module: nn.Module) -> nn.Module:
        skeleton = hollow(module)
        return substitute(skeleton, twice=True) if self._own else skeleton

    def logits(self, x: Tensor, *, train: bool = False, params: tuple[Tensor, ...] | None = None) -> Tensor:
        return self._call(x, train or self._training, self._leaves if params is None else params)

    def frozen(self) -> Callable[[Tensor], Tensor]:
        # what is recorded reads the weights where they are, so a copy of those of now would be stale at the next replay
        live = records(next(self._module.parameters()).device)
        weights = {name: tensor if live else tensor.clone() for name, tensor in self.state().items()}
        skeleton = self._skeletons[self._training]
        if self._own and not self._training:
            skeleton, pairs = self._folded
            weights = fold_tensors(weights, pairs)
        return lambda x: logits_of(skeleton, dict(weights), x)

    @cached_property
    def _folded(self) -> tuple[nn.Module, Pairs]:
        module = copy_of(self._skeletons[False])
        return module, fold_norms(module)

    def features(self, x: Tensor) -> Tensor:
        return self.features_and_logits(x)[0]

    def features_and_logits(self, x: Tensor) -> tuple[Tensor, Tensor]:
        skeleton = self._skeletons[self._training]
        heads = [module for module in skeleton.modules() if isinstance(module, nn.Linear)]
        seen: list[Tensor] = []
        hooks = [head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0])) for head in heads[-1:]]
        try:
            logits = self._call(x, self._training, self._leaves)
        finally:
            for hook in hooks:
                hook.remove()
        if not seen:
            raise ValueError(f"{type(skeleton).__name__} has no linear layer, so no penultimate features")
        return seen[-1], logits

    def params(self) -> tuple[Tensor, ...]:
        return self._leaves

    def state(self) -> Mapping[str, Tensor]:
        trained = {name: p.detach() for name, p in zip(self._names, self._leaves, strict=True)}
        return trained | self._frozen | self._buffers

    def reestimated(self, images: Sequence[Tensor]) -> Mapping[str, Tensor]:
        return dict(reestimate_batchnorm(self._module, images).named_buffers())

    def recorded(
        self, key: Hashable, function: Callable[..., tuple[Tensor, ...]], *tensors: Tensor, after: int = 1
    ) -> tuple[Tensor, ...]:
        return self._recorder(key, function, tensors, after)

    def _call(self, x: Tensor, train: bool, params: tuple[Tensor, ...]) -> Tensor:
        # in train mode batch norm writes its running statistics: into a copy
        buffers = {name: b.clone() for name, b in self._buffers.items()} if train else self._buffers
        tensors = dict(zip(self._names, params, strict=True)) | self._frozen | buffers
        with sdpa_kernel(SDPBackend.MATH):  # others cannot be differentiated twice: PyTorch's issue 116350
            return logits_of(self._skeletons[train], tensors, x)


def logits_of(body: nn.Module, tensors: dict[str, Tensor], x: Tensor) -> Tensor:
    """Return the logits [B, classes] of inputs [B, ...], as precisely as the run computes.

    Args:
        body: The network, or a skeleton of it.
        tensors: Its parameters and buffers by name, [*].
        x: The inputs, [B, ...].
    """
    with autocast(x.device):
        logits: Tensor = functional_call(body, tensors, (x,))
    return logits.float() if logits.dtype is torch.bfloat16 else logits


def hollow(module: nn.Module) -> nn.Module:
    """Return a copy of a module on the meta device; a parameter in two places stays one, unlike by ``.to("meta")``."""
    parts = {id(p): nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad) for p in module.parameters()}
    return copy_of(module, parts | {id(b): torch.empty_like(b, device="meta") for b in module.buffers()})


def view_of(model: nn.Module, kernels: str = "auto") -> ModelView:
    """Return a live view of ``model`` in the mode it is in now: later changes of its weights show in the view.

    Args:
        model: The network.
        kernels: "auto" (our own layers on the CPU) or "torch" (PyTorch's alone); they differ by rounding.
    """
    return _View(model, training=model.training, kernels=kernels)


@torch.no_grad()
def score(view: ModelView, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the cross-entropy [B] and the correctness [B] (bool) of each row."""
    logits = view.logits(batch.x)
    return F.cross_entropy(logits, batch.y, reduction="none"), logits.argmax(1) == batch.y
