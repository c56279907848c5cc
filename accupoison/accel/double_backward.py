"""Second derivatives on the CPU of layers for which PyTorch's own take several times too long.

Of a convolution, PyTorch computes that by the weight as a convolution with the batch as channels, asked for or not; of
batch norm in eval mode, by many passes over the map; of a max-pool, it adds zeros of another memory layout, which slows
down the layer before. First derivatives alone are a little slower here.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad

Operators = tuple[Callable[..., Tensor], ...]
Sizes = tuple[int, ...]


def is_transformed() -> bool:
    """Return whether ``torch.func`` or forward mode is at work, for which the functions here have no rules.

    The same goes for a ``TorchFunctionMode``, which waits for PyTorch's own functions. Asked of private parts of
    PyTorch, which refuses our functions there (https://github.com/pytorch/pytorch/pull/91452); where they are gone, the
    refusal is PyTorch's.
    """
    try:
        watched = torch._C._len_torch_function_stack() > 0
        return watched or bool(torch._C._are_functorch_transforms_active()) or forward_ad._current_level >= 0
    except AttributeError:
        return False


def _executes(node: Any) -> bool:  # noqa: ANN401
    """Return whether the backward pass under way goes on to a node.

    ``ctx.needs_input_grad`` only says whether it could, so a step on images would pay for all weights
    (https://github.com/pytorch/pytorch/issues/56500); the private answer is there since
    https://github.com/pytorch/pytorch/pull/84773, and without it we pay.
    """
    try:
        return bool(torch._C._will_engine_execute_node(node))
    except (AttributeError, RuntimeError):  # RuntimeError: what it says of a leaf that is asked for
        return True


class Multilinear(Function):
    """The derivative of a multilinear form by one of its tensors; its own derivatives are the form's by the others.

    A convolution's form is ``sum(conv2d(x, weight) * out)``: by ``out`` that is the convolution, by ``x`` and by
    ``weight`` its two gradients, and so on to any order.
    """

    @staticmethod
    def forward(ctx: Any, operators: Operators, by: int, *others: Tensor) -> Tensor:  # noqa: ANN401
        """Return the derivative by tensor number ``by``, from all the others in their order."""
        ctx.operators, ctx.by = operators, by
        ctx.save_for_backward(*others)
        return operators[by](*others)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        """Return the derivatives by the others that are asked for; the gradient stands for the tensor left out."""
        tensors = list(ctx.saved_tensors)
        tensors.insert(ctx.by, grad)
        places = (place for place in range(len(tensors)) if place != ctx.by)
        grads: list[Tensor | None] = []
        for place, needed, (node, _) in zip(places, ctx.needs_input_grad[2:], ctx.next_functions, strict=True):
            others = tensors[:place] + tensors[place + 1 :]
            grads.append(derivative(ctx.operators, place, *others) if needed and _executes(node) else None)
        return None, None, *grads


def derivative(operators: Operators, by: int, *others: Tensor) -> Tensor:
    """Return what :class:`Multilinear` does, directly where its graph is not kept or not allowed.

    Args:
        operators: The form's derivatives.
        by: Which of them.
        *others: Its arguments [*], of any shapes.
    """
    if not torch.is_grad_enabled() or is_transformed():
        return operators[by](*others)
    out: Tensor = Multilinear.apply(operators, by, *others)
    return out


def convolve(x: Tensor, weight: Tensor, stride: Sizes, padding: Sizes) -> Tensor:
    """Return ``torch.conv2d(x, weight, None, stride, padding)``, [B, O, rows, columns].

    Args:
        x: Maps [B, C, H, W].
        weight: Kernels [O, C, K, L].
        stride: Along both sides.
        padding: Of both sides, with zeros.
    """
    backward = torch.ops.aten.convolution_backward
    geometry = (stride, padding, (1, 1), False, (0, 0), 1)
    like_x, like_weight = (partial(torch.empty, t.shape, dtype=t.dtype, memory_format=layout(t)) for t in (x, weight))

    def by_x(weight: Tensor, out: Tensor) -> Tensor:
        grad: Tensor = backward(out, like_x(), weight, None, *geometry, [True, False, False])[0]
        return grad

    def by_weight(x: Tensor, out: Tensor) -> Tensor:
        grad: Tensor = backward(out, x, like_weight(), None, *geometry, [False, True, False])[1]
        return grad

    def by_out(x: Tensor, weight: Tensor) -> Tensor:
        return torch.conv2d(x, weight, None, stride, padding)

    return derivative((by_x, by_weight, by_out), 2, x, weight)


def layout(*tensors: Tensor) -> torch.memory_format:
    """Return the memory layout that PyTorch's layers give their result from maps and kernels [*, *, *, *]."""
    last = torch.channels_last
    found = any(t.is_contiguous(memory_format=last) and not t.is_contiguous() for t in tensors)
    return last if found else torch.contiguous_format


def normalize(x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, eps: float) -> Tensor:
    """Return batch norm with fixed statistics, [B, C, H, W], in operations with short derivatives.

    Args:
        x: Maps [B, C, H, W].
        weight: Scales [C].
        bias: Shifts [C].
        mean: Means [C].
        var: Variances [C].
        eps: Added to the variances.
    """
    scale = weight * torch.rsqrt(var + eps)
    return torch.addcmul(bias[:, None, None], x - mean[:, None, None], scale[:, None, None])


class MaxPool(Function):
    """A max-pool; where the largest values are is not differentiated, which needs no zeros."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *settings: Any) -> Tensor:  # noqa: ANN401
        """Return the largest value of each window; the settings are those of ``F.max_pool2d``, in its order."""
        out, places = torch.ops.aten.max_pool2d_with_indices(x, *settings)
        ctx.settings = settings
        ctx.save_for_backward(x, places)
        return out  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        """Return the gradient with respect to the image."""
        x, places = ctx.saved_tensors
        out = torch.ops.aten.max_pool2d_with_indices_backward(grad, x.detach(), *ctx.settings, places)
        return (out, *(None for _ in ctx.settings))
