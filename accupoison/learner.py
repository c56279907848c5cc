"""The model that learns, and the read-only views that attacks and defences get of it."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from accupoison.accel.folding import Pairs, fold_norms, fold_tensors
from accupoison.accel.layers import substitute, uses_own_kernels
from accupoison.models.copies import copy_of, reestimate_batchnorm
from accupoison.optimizer import MomentumSGD
from accupoison.types import Batch, Grads, ModelView


class _View:
    """A :class:`~accupoison.types.ModelView` of a module's parameters and buffers.

    The forward pass runs on a skeleton, a copy of the module on the meta device that gets its tensors at each call, so
    neither the module's mode nor hooks somebody attaches to it matter. Parameters are aliases: they share memory with
    the module's, but are leaves of their own, so that nobody's ``backward`` can touch the module's ``.grad``.
    """

    def __init__(self, module: nn.Module, *, training: bool, kernels: str = "auto") -> None:
        self._module = module
        self._own = uses_own_kernels(kernels, next(module.parameters()).device)
        self._skeletons = {train: self._skeleton(module).train(train) for train in (False, True)}
        self._training = training
        trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self._names = list(trained)
        self._leaves = tuple(p.detach().requires_grad_() for p in trained.values())
        self._frozen = {name: p.detach() for name, p in module.named_parameters() if not p.requires_grad}
        self._buffers = {name: buffer.detach() for name, buffer in module.named_buffers()}

    def _skeleton(self, module: nn.Module) -> nn.Module:
        skeleton = _hollow(module)
        return substitute(skeleton, twice=True) if self._own else skeleton

    def logits(self, x: Tensor, *, train: bool = False, params: tuple[Tensor, ...] | None = None) -> Tensor:
        return self._call(x, train or self._training, self._leaves if params is None else params)

    def frozen(self) -> Callable[[Tensor], Tensor]:
        weights = {name: tensor.clone() for name, tensor in self.state().items()}
        skeleton = self._skeletons[self._training]
        if self._own and not self._training:
            skeleton, pairs = self._folded
            weights = fold_tensors(weights, pairs)
        return lambda x: functional_call(skeleton, dict(weights), (x,))

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

    def _call(self, x: Tensor, train: bool, params: tuple[Tensor, ...]) -> Tensor:
        # in train mode batch norm writes its running statistics: into a copy
        buffers = {name: b.clone() for name, b in self._buffers.items()} if train else self._buffers
        tensors = dict(zip(self._names, params, strict=True)) | self._frozen | buffers
        with sdpa_kernel(SDPBackend.MATH):  # others cannot be differentiated twice: PyTorch's issue 116350
            return functional_call(self._skeletons[train], tensors, (x,))  # type: ignore[no-any-return]


def _hollow(module: nn.Module) -> nn.Module:
    """Return a copy on the meta device; a parameter in two places stays one, which ``.to("meta")`` would undo."""
    hollow = {id(p): nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad) for p in module.parameters()}
    return copy_of(module, hollow | {id(b): torch.empty_like(b, device="meta") for b in module.buffers()})


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


class _TrainingForward:
    """The trainable forward pass of one step; see :class:`~accupoison.types.Forward`."""

    def __init__(self, model: nn.Module, body: nn.Module) -> None:
        self._model = model
        self._body = body  # what computes with the model's tensors: the model itself, or a skeleton of it
        self._tracked = False

    def __call__(self, x: Tensor, *, track: bool | None = None) -> Tensor:
        track = not self._tracked if track is None else track
        if track and self._tracked:
            raise RuntimeError("a second forward pass of one step asked to move the running statistics")
        self._tracked = self._tracked or track
        if track and self._body is self._model:
            return self._model(x)  # type: ignore[no-any-return]
        buffers = dict(self._model.named_buffers())
        given = {name: b if track else b.clone() for name, b in buffers.items()}
        tensors = {**dict(self._model.named_parameters()), **given}
        logits: Tensor = functional_call(self._body, tensors, (x,))
        for name, buffer in buffers.items() if track else ():
            if tensors[name] is not buffer:  # which the pass has set anew, not changed in place
                buffer.detach().copy_(tensors[name].detach())
        return logits


class Learner:
    """A network with its SGD optimiser.

    The module stays in eval mode, except inside :meth:`forward`. Parameters that need no gradient stay as they are.

    Attributes:
        model: The network.
        parameters: What is trained of it.
        optimizer: The optimiser.
        bn_mode: As given.
        kernels: As given.

    Args:
        model: The network, images in [0, 1] to logits.
        lr: Learning rate.
        momentum: SGD momentum.
        weight_decay: L2 penalty of the optimiser.
        nesterov: Nesterov momentum.
        bn_mode: What batch norm does in the update: "train" (uses the batch's statistics and updates the running ones)
            or "eval".
        kernels: "auto" or "torch", of its passes and those of its views; see :func:`view_of`.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        bn_mode: str = "train",
        kernels: str = "auto",
    ) -> None:
        self.model = model.eval()
        self.parameters = tuple(p for p in model.parameters() if p.requires_grad)
        self.optimizer = MomentumSGD(
            self.parameters, lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov
        )
        self.bn_mode = bn_mode
        self.kernels = kernels
        self._view = _View(model, training=False, kernels=kernels)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    @property
    def kernels_in_effect(self) -> str:
        """Whose layers compute: "own" or "torch"."""
        return "own" if uses_own_kernels(self.kernels, self.device) else "torch"

    @property
    def lr(self) -> float:
        """The current learning rate."""
        return float(self.optimizer.param_groups[0]["lr"])

    @lr.setter
    def lr(self, value: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = value

    def view(self) -> ModelView:
        """Return the live view, always the same one."""
        return self._view

    def snapshot(self) -> ModelView:
        """Return a view of the model as it is now, unaffected by later updates."""
        return _View(copy_of(self.model), training=False, kernels=self.kernels)

    @contextmanager
    def forward(self) -> Iterator[Callable[..., Tensor]]:
        """Give the trainable forward pass of one update step, in the update mode."""
        self.model.train(self.bn_mode == "train")
        try:
            yield _TrainingForward(self.model, self._body())
        finally:
            self.model.eval()

    def _body(self) -> nn.Module:
        """Return what computes an update: the model itself where somebody hooks into its passes, as Opacus does."""
        modules = list(self.model.modules())
        if self._skeleton is None or any(m._forward_hooks or m._forward_pre_hooks for m in modules):
            return self.model
        return self._skeleton.train(self.bn_mode == "train")

    @cached_property
    def _skeleton(self) -> nn.Module | None:
        own = uses_own_kernels(self.kernels, self.device)
        return substitute(_hollow(self.model), twice=False) if own else None

    def apply(self, grads: Grads, direct: Callable[[Grads], Grads] | None = None) -> None:
        """Take one optimiser step with these gradients, one a parameter; see :meth:`MomentumSGD.step`."""
        self.optimizer.step(grads, direct)

    def coast(self, direct: Callable[[Grads], Grads] | None = None) -> None:
        """Take one optimiser step with zero gradients: momentum and weight decay act, and ``direct``, nothing else."""
        self.apply(tuple(torch.zeros_like(p) for p in self.parameters), direct)

    @torch.no_grad()
    def preview(self, grads: Grads) -> tuple[Grads, Grads]:
        """Return the weights that :meth:`apply` would step to, and those where its momentum then runs out.

        Both are in parameter order, the second as if only zero gradients followed and without weight decay; nothing
        changes.
        """
        group = self.optimizer.param_groups[0]
        rolls = group["momentum"] * (group["momentum"] if group["nesterov"] else 1)
        stepped, speeds = self.optimizer.stepped(grads, self.parameters, self.momentum())
        rest = [rolls * speed / (1 - group["momentum"]) for speed in speeds]
        return stepped, tuple(weight - group["lr"] * way for weight, way in zip(stepped, rest, strict=True))

    def momentum(self) -> Grads:
        """Return the momentum buffers in parameter order, zeros where there is none yet."""
        return self.optimizer.buffers()

    def score(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the cross-entropy [B] and the correctness [B] (bool) of each row, in eval mode."""
        return score(self._view, batch)

    def weights(self) -> Tensor:
        """Return all P parameters as one detached vector [P] (a copy)."""
        return torch.cat([p.detach().flatten() for p in self.model.parameters()])

    def state(self) -> dict[str, Any]:
        """Return copies of weights, buffers and optimiser state."""
        return {
            "model": {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()},
            "optimizer": copy.deepcopy(self.optimizer.state_dict()),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Put back what :meth:`state` returned; views stay valid."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
