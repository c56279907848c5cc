"""The model that learns, and the read-only views that attacks and defences get of it."""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from accupoison.accel.bn_folding import Folded
from accupoison.accel.dispatch import Kernels
from accupoison.accel.prepared import keeps
from accupoison.optimizer import MomentumSGD
from accupoison.types import Batch, Grads, ModelView


class _View:
    """A :class:`~accupoison.types.ModelView` of a module's parameters and buffers.

    The forward pass runs on a skeleton, a copy of the module on the meta device that gets its tensors at each call, so
    neither the module's mode nor hooks somebody attaches to it matter. Parameters are aliases: they share memory with
    the module's, but are leaves of their own, so that nobody's ``backward`` can touch the module's ``.grad``.
    """

    def __init__(self, module: nn.Module, *, training: bool) -> None:
        self._skeletons = {train: _skeleton(module).train(train) for train in (False, True)}
        self._spare = _skeleton(module)  # for folding: a pass may leave things in a skeleton
        self._training = training
        trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self._names = list(trained)
        self._leaves = tuple(p.detach().requires_grad_() for p in trained.values())
        self._frozen = {name: p.detach() for name, p in module.named_parameters() if not p.requires_grad}
        self._buffers = {name: buffer.detach() for name, buffer in module.named_buffers()}

    def logits(self, x: Tensor, *, train: bool = False, params: tuple[Tensor, ...] | None = None) -> Tensor:
        return self._call(x, train or self._training, self._leaves if params is None else params)

    def features(self, x: Tensor) -> Tensor:
        skeleton = self._skeletons[self._training]
        heads = [module for module in skeleton.modules() if isinstance(module, nn.Linear)]
        if not heads:
            raise ValueError(f"{type(skeleton).__name__} has no linear layer, so no penultimate features")
        seen: list[Tensor] = []
        hook = heads[-1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            self._call(x, self._training, self._leaves)
        finally:
            hook.remove()
        return seen[-1]

    def params(self) -> tuple[Tensor, ...]:
        return self._leaves

    def state(self) -> Mapping[str, Tensor]:
        trained = {name: p.detach() for name, p in zip(self._names, self._leaves, strict=True)}
        return trained | self._frozen | self._buffers

    def _call(self, x: Tensor, train: bool, params: tuple[Tensor, ...]) -> Tensor:
        # in train mode batch norm writes its running statistics: into a copy
        buffers = {name: b.clone() for name, b in self._buffers.items()} if train else self._buffers
        tensors = dict(zip(self._names, params, strict=True)) | self._frozen | buffers
        skeleton = self._skeletons[train]
        if not train and keeps(*params):
            tensors, skeleton = self._folded.tensors(tensors), self._folded.module
        with Kernels():
            return functional_call(skeleton, tensors, (x,))  # type: ignore[no-any-return]

    @cached_property
    def _folded(self) -> Folded:
        return Folded(self._spare)


def _skeleton(module: nn.Module) -> nn.Module:
    """Return a copy on the meta device; a parameter in two places stays one, which ``.to("meta")`` would undo."""
    hollow = {id(p): nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad) for p in module.parameters()}
    return copy_of(module, hollow | {id(b): torch.empty_like(b, device="meta") for b in module.buffers()})


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


def view_of(model: nn.Module) -> ModelView:
    """Return a live view of ``model`` in the mode it is in now: later changes of its weights show in the view."""
    return _View(model, training=model.training)


class _TrainingForward:
    """The trainable forward pass of one step; see :class:`~accupoison.types.Forward`."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._tracked = False

    def __call__(self, x: Tensor, *, track: bool | None = None) -> Tensor:
        if track is None:
            track = not self._tracked
        if not track:
            copies = {name: b.clone() for name, b in self._model.named_buffers()}
            with Kernels(twice=False):
                return functional_call(self._model, copies, (x,))  # type: ignore[no-any-return]
        if self._tracked:
            raise RuntimeError("a second forward pass of one step asked to move the running statistics")
        self._tracked = True
        with Kernels(twice=False):
            return self._model(x)  # type: ignore[no-any-return]


class Learner:
    """A network with its SGD optimiser.

    The module stays in eval mode, except inside :meth:`forward`. Parameters that need no gradient stay as they are.

    Attributes:
        model: The network.
        parameters: What is trained of it.
        optimizer: The optimiser.
        bn_mode: As given.

    Args:
        model: The network, images in [0, 1] to logits.
        lr: Learning rate.
        momentum: SGD momentum.
        weight_decay: L2 penalty of the optimiser.
        nesterov: Nesterov momentum.
        bn_mode: What batch norm does in the update: "train" (uses the batch's statistics and updates the running ones)
            or "eval".
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
    ) -> None:
        self.model = model.eval()
        self.parameters = tuple(p for p in model.parameters() if p.requires_grad)
        self.optimizer = MomentumSGD(
            self.parameters, lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov
        )
        self.bn_mode = bn_mode
        self._view = _View(model, training=False)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

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
        return _View(copy_of(self.model), training=False)

    @contextmanager
    def forward(self) -> Iterator[Callable[..., Tensor]]:
        """Give the trainable forward pass of one update step, in the update mode."""
        self.model.train(self.bn_mode == "train")
        try:
            yield _TrainingForward(self.model)
        finally:
            self.model.eval()

    def apply(self, grads: Grads) -> None:
        """Take one optimiser step with these gradients, one a parameter, in parameter order."""
        self.optimizer.step(grads)

    def coast(self) -> None:
        """Take one optimiser step with zero gradients: momentum and weight decay act, nothing else."""
        self.apply(tuple(torch.zeros_like(p) for p in self.parameters))

    @torch.no_grad()
    def preview(self, grads: Grads) -> tuple[Grads, Grads]:
        """Return the weights that :meth:`apply` would step to, and those where its momentum then runs out.

        Both are in parameter order, the second as if only zero gradients followed and without weight decay; nothing
        changes.
        """
        group = self.optimizer.param_groups[0]
        stepped, settled = [], []
        for parameter, grad, buffer in zip(self.parameters, grads, self.momentum(), strict=True):
            slope = grad + group["weight_decay"] * parameter
            speed = group["momentum"] * buffer + slope
            step = slope + group["momentum"] * speed if group["nesterov"] else speed
            stepped.append(parameter - group["lr"] * step)
            rest = group["momentum"] * speed * (group["momentum"] if group["nesterov"] else 1)
            settled.append(stepped[-1] - group["lr"] * rest / (1 - group["momentum"]))
        return tuple(stepped), tuple(settled)

    def momentum(self) -> Grads:
        """Return the momentum buffers in parameter order, zeros where there is none yet."""
        buffers = (self.optimizer.state[p].get("momentum_buffer") for p in self.parameters)
        return tuple(
            torch.zeros_like(p) if buffer is None else buffer
            for p, buffer in zip(self.parameters, buffers, strict=True)
        )

    @torch.no_grad()
    def score(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the cross-entropy [B] and the correctness [B] (bool) of each row, in eval mode."""
        logits = self._view.logits(batch.x)
        return F.cross_entropy(logits, batch.y, reduction="none"), logits.argmax(1) == batch.y

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
