"""The model that learns."""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from accupoison.accel.layers import substitute, uses_own_kernels
from accupoison.models.copies import copy_of
from accupoison.models.view import hollow, logits_of, score, view_of
from accupoison.optimizer import MomentumSGD
from accupoison.types import Batch, Grads, ModelView


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
        buffers = dict(self._model.named_buffers())
        given = {name: b if track else b.clone() for name, b in buffers.items()}
        tensors = {**dict(self._model.named_parameters()), **given}
        logits = logits_of(self._body, tensors, x)
        for name, buffer in buffers.items() if track else ():
            if tensors[name] is not buffer:  # which the pass has set anew, and a recording reads where it was
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
        self._view = view_of(self.model, kernels)

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
        return view_of(copy_of(self.model), self.kernels)

    @contextmanager
    def forward(self) -> Iterator[Callable[..., Tensor]]:
        """Give the trainable forward pass of one update step, in the update mode."""
        self.model.train(self.bn_mode == "train")
        try:
            yield _TrainingForward(self.model, self._body())
        finally:
            self.model.eval()

    def loss_and_gradients(self, x: Tensor, y: Tensor, *, smoothing: float = 0.0) -> tuple[Tensor, Tensor, Grads]:
        """Return the mean cross-entropy of one update step, which rows are told correctly, and the gradients.

        Args:
            x: Inputs [B, ...].
            y: Labels [B].
            smoothing: Of the labels, in [0, 1).

        Returns:
            A scalar, bool [B], and one tensor a parameter; detached.
        """

        def pass_through(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
            with self.forward() as forward:
                logits = forward(x)
                loss = F.cross_entropy(logits, y, label_smoothing=smoothing)
            return loss.detach(), logits.argmax(1) == y, *torch.autograd.grad(loss, self.parameters)

        key = "update", self.bn_mode, smoothing
        found = pass_through(x, y) if self._hooked else self._view.recorded(key, pass_through, x, y)
        return found[0], found[1], found[2:]

    @property
    def _hooked(self) -> bool:
        """Whether somebody hooks into the passes of the network, as Opacus does."""
        return any(module._forward_hooks or module._forward_pre_hooks for module in self.model.modules())

    def _body(self) -> nn.Module:
        """Return what computes an update: the model itself where somebody hooks into its passes."""
        if self._skeleton is None or self._hooked:
            return self.model
        return self._skeleton.train(self.bn_mode == "train")

    @cached_property
    def _skeleton(self) -> nn.Module | None:
        own = uses_own_kernels(self.kernels, self.device)
        return substitute(hollow(self.model), twice=False) if own else None

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
