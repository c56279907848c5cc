"""Gradient arithmetic that attacks and defences share."""

from collections.abc import Callable
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor

from accupoison.types import Batch, Grads, ModelView


def gradient(view: ModelView, x: Tensor, y: Tensor, *, train: bool = False, graph: bool = False) -> Grads:
    """Return the gradient of the mean cross-entropy with respect to the parameters.

    Args:
        view: The model.
        x: Inputs [B, ...].
        y: Labels [B].
        train: Use batch statistics.
        graph: Keep the graph, so that the gradient can itself be differentiated.
    """
    loss = F.cross_entropy(view.logits(x, train=train), y)
    return torch.autograd.grad(loss, view.params(), create_graph=graph)


BUDGET = 450_000_000
"""Bytes that the second-order graph of the rows at once may keep on a CPU, beside the weights."""
PROCESSES = 8
"""Of this many, as may share a GPU, each may keep such a graph at once."""
_ROW_BYTES: WeakKeyDictionary[ModelView, int] = WeakKeyDictionary()


def rows_at_once(view: ModelView, batch: Batch) -> int:
    """Return how many rows' second-order graphs fit the memory for them, at least 1.

    That is :data:`BUDGET`, which CPUs are fastest with, or a share of a GPU's memory, where the whole set at once is.
    It depends on the model, the size of its inputs and the device, not on the machine's state: what the graph of two
    rows keeps more than that of one is counted once for each view.
    """
    device = batch.x.device
    if view not in _ROW_BYTES:  # an index on the CPU would have the host wait, and what waits is not recorded
        first = (torch.zeros(rows, dtype=torch.int64, device=device) for rows in (1, 2))
        of_one, of_two = (_graph_bytes(view, batch.rows(index)) for index in first)
        _ROW_BYTES[view] = max(1, of_two - of_one)
    cuda = device.type == "cuda"
    room = torch.cuda.get_device_properties(device).total_memory // PROCESSES if cuda else BUDGET
    return max(1, room // _ROW_BYTES[view])


def _graph_bytes(view: ModelView, batch: Batch) -> int:
    storages: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        gradient(view, batch.x, batch.y, graph=True)
    return sum(storage.nbytes() for storage in storages.values())


def gradient_and_hvp(view: ModelView, batch: Batch, *, train: bool = False) -> tuple[Grads, Callable[[Grads], Grads]]:
    """Return the gradient of the mean cross-entropy at a batch, and what multiplies its Hessian by a vector.

    Both are detached and take :func:`rows_at_once` rows at a time. The graph of the first rows waits for the vector,
    the others are made again when it comes. By double backward: forward over reverse does not exist for group norm, and
    is wrong for MobileNetV2 in train mode (torch 2.14.1). With batch statistics the rows are one part, since they
    depend on each other.

    Args:
        view: The model.
        batch: Rows [B, ...].
        train: Use batch statistics.
    """
    most = rows_at_once(view, batch)
    size = len(batch) if train else most
    parts = list(zip(torch.split(batch.x, size), torch.split(batch.y, size), strict=True))
    waiting: list[Grads] = []

    def mean(of_part: Callable[[Tensor, Tensor], Grads]) -> Grads:
        total = tuple(torch.zeros_like(p) for p in view.params())
        for x, y in parts:
            for t, share in zip(total, of_part(x, y), strict=True):
                t.add_(share, alpha=len(x) / len(batch))
        return total

    def first(x: Tensor, y: Tensor) -> Grads:
        if x is not parts[0][0] or len(x) > most:  # batch statistics: too large to wait
            return gradient(view, x, y, train=train)
        waiting.append(gradient(view, x, y, train=train, graph=True))
        return tuple(g.detach() for g in waiting[0])

    def hvp(vector: Grads) -> Grads:
        def second(x: Tensor, y: Tensor) -> Grads:
            # the graph that waits is that of the first rows, which come first here, too
            grads = waiting.pop() if waiting else gradient(view, x, y, train=train, graph=True)
            return torch.autograd.grad(inner(grads, vector), view.params())

        return mean(second)

    return mean(first), hvp


def normalize_each(grads: Grads) -> Grads:
    """Return each tensor scaled to norm 1 on its own; a zero tensor stays zero."""
    return tuple(F.normalize(g.flatten(), dim=0).view_as(g) for g in grads)


def normalize_each_vjp(grads: Grads, along: Grads) -> Grads:
    """Return the gradient of ``inner(normalize_each(grads), along)`` with respect to ``grads``."""
    return tuple(_normalize_vjp(g, a) for g, a in zip(grads, along, strict=True))


def _normalize_vjp(g: Tensor, along: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(g).clamp_min(1e-12)  # as F.normalize has it
    direction = g / length
    return (along - (direction * along).sum() * direction) / length


def inner(a: Grads, b: Grads) -> Tensor:
    """Return the sum over tensors of their inner products, a scalar."""
    return torch.stack([(x * y).sum() for x, y in zip(a, b, strict=True)]).sum()


ROUND_SIGN = 1e3
"""``roundsign`` of the released code: a gradient below half of 1 / this counts as zero."""


def pgd_linf(
    clean: Tensor,
    objective: Callable[[Tensor], Tensor],
    *,
    eps: float,
    steps: int,
    round_sign: bool = False,
    bounded: bool = True,
) -> Tensor:
    """Maximise ``objective`` by signed steps of ``2 * eps / steps`` from ``clean``.

    Args:
        clean: Inputs [B, ...], the centre of the l_inf ball.
        objective: Images to a scalar.
        eps: Radius of the ball.
        steps: Number of steps.
        round_sign: Leave a value where it is if the objective's gradient there is below 0.0005.
        bounded: Stay in [0, 1], where ``clean`` is.

    Returns:
        Inputs within ``eps`` of ``clean`` and, if ``bounded``, in [0, 1], detached.
    """
    x = clean.detach().clone()
    for _ in range(steps):
        x.requires_grad_()
        (grad,) = torch.autograd.grad(objective(x), x)
        grad = torch.round(ROUND_SIGN * grad) if round_sign else grad
        x = project_linf(x.detach() + (2 * eps / steps) * grad.sign(), clean, eps, bounded=bounded)
    return x


def project_linf(x: Tensor, centre: Tensor, eps: float, *, bounded: bool = True) -> Tensor:
    """Return inputs moved into an l_inf ball.

    Args:
        x: Inputs [B, ...].
        centre: Of the ball, [B, ...].
        eps: Radius of the ball.
        bounded: Move them into [0, 1], too.
    """
    inside = centre + (x - centre).clamp(-eps, eps)
    return inside.clamp(0, 1) if bounded else inside
