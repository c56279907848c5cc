"""DP-SGD: every sample's gradient is clipped, and noise hides the rest."""

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn

from accupoison.defenses.base import Defense
from accupoison.errors import InputError, check_least, first_line
from accupoison.learner import Learner
from accupoison.types import Batch, Context, Forward, Grads
from accupoison.updates.sgd import SGD, UPDATES

Losses = Callable[[Forward, Batch], Tensor]
"""The loss of each row [B]: :meth:`accupoison.defenses.Defense.losses`, or another pure function."""


def private_gradients(
    learner: Learner,
    losses: Losses,
    batch: Batch,
    *,
    noise_multiplier: float,
    max_grad_norm: float,
    chunk: int,
    rng: Generator,
) -> Grads:
    """Return the mean of the clipped per-sample gradients with Gaussian noise (Abadi et al., CCS 2016, Algorithm 1).

    Opacus computes the per-sample gradients, clips them and draws the noise. Its hooks are attached for this call only,
    so views, snapshots and checkpoints never meet them.

    Args:
        learner: The model; neither weights nor optimiser change.
        losses: The loss of each row, which must not depend on other rows.
        batch: B rows.
        noise_multiplier: Standard deviation of the noise, in units of ``max_grad_norm``.
        max_grad_norm: Bound on the l2 norm of each sample's gradient.
        chunk: Rows at once; decides memory alone.
        rng: CPU generator of the noise.

    Raises:
        InputError: Opacus is not installed.
    """
    hooks_of, optimizer_of = _opacus()
    hooks = hooks_of(learner.model, strict=True, loss_reduction="sum")
    parameters = learner.parameters
    private = optimizer_of(
        torch.optim.SGD(parameters, lr=0.0),
        noise_multiplier=noise_multiplier,
        max_grad_norm=max_grad_norm,
        expected_batch_size=len(batch),
        loss_reduction="sum",
        generator=rng if learner.device.type == "cpu" else Generator(learner.device).manual_seed(rng.initial_seed()),
    )
    try:
        starts = range(0, len(batch), chunk)
        for start in starts:
            private.signal_skip_step(do_skip=start != starts[-1])
            with learner.forward() as forward, _contiguous_maps(learner.model), warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Full backward hook is firing")  # images need no gradient
                losses(forward, batch.rows(slice(start, start + chunk))).sum().backward()  # type: ignore[no-untyped-call]
            private.pre_step()
            for parameter in parameters:
                parameter.grad_sample = None  # type: ignore[attr-defined]
        return tuple(_taken(p) / len(batch) for p in parameters)
    finally:
        hooks.cleanup()
        for parameter in parameters:
            parameter.grad = None
            for name in ("grad_sample", "summed_grad"):
                if hasattr(parameter, name):
                    delattr(parameter, name)


@contextmanager
def _contiguous_maps(model: nn.Module) -> Iterator[None]:
    """Undo the channels-last layout, in which ``unfold2d`` of Opacus 1.6 reads the wrong pixels without a word.

    By a copy: a channels-last map of one pixel counts as contiguous, and keeps the strides that mislead.
    """
    hooks = [
        module.register_forward_pre_hook(lambda _, maps: (maps[0].clone(memory_format=torch.contiguous_format),))
        for module in model.modules()
        if isinstance(module, nn.Conv2d)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _taken(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad.detach()


def _opacus() -> tuple[Callable[..., Any], Callable[..., Any]]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from opacus.grad_sample import GradSampleHooks
            from opacus.optimizers import DPOptimizer
    except ImportError as error:
        raise InputError("DP-SGD needs Opacus and it is not installed; pip install 'accupoison[dp]'") from error
    return GradSampleHooks, DPOptimizer


@UPDATES.register("dpsgd")
@dataclass(kw_only=True)
class DPSGD(SGD):
    """One optimiser step on the mean of clipped per-sample gradients, with noise (Abadi et al., CCS 2016).

    What the defence does to the gradients afterwards, momentum and weight decay are post-processing. Needs the extra
    ``dp``, and a model without batch norm.

    Attributes:
        noise_multiplier: Standard deviation of the noise, in units of ``max_grad_norm``; 0 adds none.
        max_grad_norm: Bound on the l2 norm of each sample's gradient.
        delta: The epsilon recorded is that of this delta.
        chunk: Rows whose gradients are held at once; decides memory alone.
        coupled: Run even with a defence that mixes the rows of a batch, or does not say that it does not; epsilon is
            then undefined.
    """

    noise_multiplier: float = 1.0
    max_grad_norm: float = 1.0
    delta: float = 1e-5
    chunk: int = 16
    coupled: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.noise_multiplier < math.inf:
            raise InputError(
                f"update.noise_multiplier {self.noise_multiplier} is not a number of 0 or more; 1 is usual"
            )
        if not 0 < self.max_grad_norm < math.inf:
            raise InputError(f"update.max_grad_norm {self.max_grad_norm} is not a number above 0; 1 is usual")
        if not 0 < self.delta < 1:
            raise InputError(f"update.delta {self.delta} is outside (0, 1); give less than one over the samples")
        check_least("update.chunk", self.chunk, 1, "a number of samples such as 16")

    def gradients(self, learner: Learner, defense: Defense, batch: Batch, ctx: Context) -> Grads:
        """Return the private gradients of the defence's losses."""
        return private_gradients(
            learner,
            defense.losses,
            batch,
            noise_multiplier=self.noise_multiplier,
            max_grad_norm=self.max_grad_norm,
            chunk=self.chunk,
            rng=ctx.rng("dp"),
        )


def check_private(learner: Learner, name: str, row: Batch) -> None:
    """Raise InputError if a layer of the model mixes rows, or Opacus has no per-sample gradient for it.

    Args:
        learner: The model.
        name: Of the model, for the error message.
        row: One sample to try it with.
    """
    for layer, module in learner.model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise InputError(
                f"DP-SGD bounds what one sample does, and batch norm ({layer} of {name}) mixes all of them; "
                "give <model.norm> group"
            )
    _opacus()
    try:
        private_gradients(
            learner, Defense().losses, row, noise_multiplier=0.0, max_grad_norm=1.0, chunk=1, rng=torch.Generator()
        )
    except Exception as error:  # Opacus has several words for a layer it does not know
        raise InputError(f"Opacus has no per-sample gradients for {name} ({first_line(error)})") from error
