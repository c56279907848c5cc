"""First and second derivatives of layers on the CPU, where autograd's own second ones take several times too long.

Of a convolution, autograd computes the weight's by a convolution with the batch as channels, asked for or not; of batch
norm in eval mode, by many passes over the map; of a max-pool, it adds zeros of another layout, and mixed layouts slow
down the layer before. Each layer is a pair of functions here: the layer, and its gradients, differentiable in turn.
"""

from typing import Any

import torch
from torch import Tensor

Sizes = tuple[int, ...]


def layout(*tensors: Tensor) -> torch.memory_format:
    """Return the layout that PyTorch's layers give their result."""
    last = torch.channels_last
    found = any(t.is_contiguous(memory_format=last) and not t.is_contiguous() for t in tensors)
    return last if found else torch.contiguous_format


def _like(x: Tensor, tensor: Tensor) -> Tensor:
    """Return ``tensor`` laid out as ``x``: passes over mixed layouts are slow."""
    return tensor.contiguous(memory_format=layout(x))


def _asked(ctx: Any, *inputs: int) -> list[bool]:  # noqa: ANN401
    """Return whether anybody waits for the gradients of these inputs, as PyTorch's own layers know it.

    ``ctx.needs_input_grad`` only says whether they could be asked for: a step on images would pay for the weights'.
    The inputs are counted among the tensors, which come first in all functions here.
    """
    return [ctx.needs_input_grad[i] and _executes(ctx.next_functions[i][0]) for i in inputs]


def _executes(node: Any) -> bool:  # noqa: ANN401
    try:
        return bool(torch._C._will_engine_execute_node(node))
    except RuntimeError:  # what it says of a leaf that is asked for
        return True


def _transformed() -> bool:
    """Return whether gradients are taken batch by batch, which our functions have no rule for and PyTorch's have."""
    return torch._C._are_functorch_transforms_active()


class Convolve(torch.autograd.Function):
    """A convolution without bias, dilation and groups."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, stride: Sizes, padding: Sizes) -> Tensor:
        """Return ``torch.conv2d(x, weight, None, stride, padding)``."""
        return torch.conv2d(x, weight, None, stride, padding)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ANN401
        """Keep what the derivatives need."""
        x, weight, ctx.stride, ctx.padding = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        """Return the gradients with respect to image and weight."""
        x, weight = ctx.saved_tensors
        once = not torch.is_grad_enabled() or _transformed()
        backward = _convolve_backward if once else ConvolveBackward.apply  # which costs more
        return (*backward(grad, x, weight, ctx.stride, ctx.padding, _asked(ctx, 0, 1)), None, None)


def _convolve_backward(
    grad: Tensor, x: Tensor, weight: Tensor, stride: Sizes, padding: Sizes, wanted: list[bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Return a convolution's gradients with respect to image and weight, as far as wanted."""
    if not any(wanted):
        return None, None
    found = torch.ops.aten.convolution_backward(
        grad, x, weight, None, stride, padding, (1, 1), False, (0, 0), 1, [*wanted, False]
    )
    return found[0], found[1]


class ConvolveBackward(torch.autograd.Function):
    """The gradients of :class:`Convolve`, differentiable in turn."""

    @staticmethod
    def forward(
        grad: Tensor, x: Tensor, weight: Tensor, stride: Sizes, padding: Sizes, wanted: list[bool]
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return the gradients with respect to image and weight, as far as wanted."""
        return _convolve_backward(grad, x, weight, stride, padding, wanted)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ANN401
        """Keep everything: the gradients are linear in each of the first three."""
        *tensors, ctx.stride, ctx.padding, _ = inputs
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, by_x: Tensor | None, by_weight: Tensor | None) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        """Return what a change of the gradients, in the direction given, asks of output gradient, image and weight."""
        grad, x, weight = ctx.saved_tensors
        geometry, (to_grad, to_x, to_weight) = (ctx.stride, ctx.padding), _asked(ctx, 0, 1, 2)
        of_grad = of_x = of_weight = None
        if by_x is not None:
            by_x = _like(x, by_x)
            of_grad = torch.conv2d(by_x, weight, None, *geometry) if to_grad else None
            if to_weight:
                _, of_weight = _convolve_backward(grad, by_x, weight, *geometry, [False, True])
        if by_weight is not None:
            if to_grad:
                along = torch.conv2d(x, by_weight, None, *geometry)
                of_grad = along if of_grad is None else of_grad + along
            if to_x:
                of_x, _ = _convolve_backward(grad, x, by_weight, *geometry, [True, False])
        return of_grad, of_x, of_weight, None, None, None


class Pool(torch.autograd.Function):
    """Max-pooling."""

    @staticmethod
    def forward(x: Tensor, settings: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
        """Return the largest value of each window and where it was."""
        out: tuple[Tensor, Tensor] = torch.ops.aten.max_pool2d_with_indices(x, *settings)
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ANN401
        """Keep what the derivatives need."""
        x, ctx.settings = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, output[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, _: None) -> tuple[Tensor | None, None]:  # noqa: ANN401
        """Return the gradient with respect to the image."""
        x, found = ctx.saved_tensors
        if grad is None:
            return None, None
        backward = _pool_backward if _transformed() else PoolBackward.apply
        out: Tensor = backward(grad, x, found, ctx.settings)
        return out, None


def _pool_backward(grad: Tensor, x: Tensor, found: Tensor, settings: tuple[Any, ...]) -> Tensor:
    """Return a max-pool's gradient with respect to the image."""
    out: Tensor = torch.ops.aten.max_pool2d_with_indices_backward(grad, x, *settings, found)
    return out


class PoolBackward(torch.autograd.Function):
    """The gradient of :class:`Pool`, differentiable in turn."""

    @staticmethod
    def forward(grad: Tensor, x: Tensor, found: Tensor, settings: tuple[Any, ...]) -> Tensor:
        """Return the gradient with respect to the image."""
        return _pool_backward(grad, x, found, settings)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ANN401
        """Keep where the largest values were: the gradient is linear in ``grad``, and the image moves nothing."""
        ctx.save_for_backward(inputs[2])

    @staticmethod
    def backward(ctx: Any, by_x: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        """Return what a change of the gradient, in the direction given, asks of the output gradient."""
        (found,) = ctx.saved_tensors
        if layout(found) == torch.channels_last:
            rows, where = (t.permute(0, 2, 3, 1).flatten(1, 2) for t in (by_x, found))
            picked = rows.gather(1, where).view(found.permute(0, 2, 3, 1).shape).permute(0, 3, 1, 2)
        else:
            picked = by_x.flatten(2).gather(2, found.flatten(2)).view(found.shape)
        return picked, None, None, None


class Normalise(torch.autograd.Function):
    """Batch norm with fixed statistics."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, eps: float) -> Tensor:
        """Return ``(x - mean) / sqrt(var + eps) * weight + bias``, channel by channel."""
        out: Tensor = torch.native_batch_norm(x, weight, bias, mean, var, False, 0.0, eps)[0]
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ANN401
        """Keep what the derivatives need."""
        x, weight, _, mean, var, ctx.eps = inputs
        ctx.save_for_backward(x, weight, mean, var)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        """Return the gradients with respect to image, weight and bias."""
        x, weight, mean, var = ctx.saved_tensors
        backward = _normalise_backward if _transformed() else NormaliseBackward.apply
        return (*backward(grad, x, weight, mean, var, ctx.eps), None, None, None)


def _normalise_backward(
    grad: Tensor, x: Tensor, weight: Tensor, mean: Tensor, var: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return batch norm's gradients with respect to image, weight and bias."""
    backward = torch.ops.aten.native_batch_norm_backward
    out: tuple[Tensor, Tensor, Tensor] = backward(
        grad, x, weight, mean, var, None, None, False, eps, [True, True, True]
    )
    return out


class NormaliseBackward(torch.autograd.Function):
    """The gradients of :class:`Normalise`, differentiable in turn."""

    @staticmethod
    def forward(
        grad: Tensor, x: Tensor, weight: Tensor, mean: Tensor, var: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradients with respect to image, weight and bias."""
        return _normalise_backward(grad, x, weight, mean, var, eps)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ANN401
        """Keep everything: the gradients are linear in each of the first three."""
        *tensors, ctx.eps = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, image: Tensor, by_weight: Tensor, by_bias: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        """Return what a change of the gradients, in the direction given, asks of output gradient, image and weight."""
        grad, x, weight, mean, var = ctx.saved_tensors
        image = _like(x, image)
        scale = (weight * torch.rsqrt(var + ctx.eps))[:, None, None]
        to_grad = torch.native_batch_norm(x, by_weight, by_bias, mean, var, False, 0.0, ctx.eps)[0]
        to_x, to_weight, _ = torch.ops.aten.native_batch_norm_backward(
            grad, image, by_weight, torch.zeros_like(mean), var, None, None, False, ctx.eps, [True, True, False]
        )  # a product with (by_weight * rate), and the sum of grad * image * rate
        return to_grad.addcmul_(image, scale), to_x, to_weight, None, None, None
