"""What a network must do before anything is trained on it or crafted against it, tried on a few rows."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from accupoison.data import DataSet
from accupoison.errors import InputError, first_line
from accupoison.gradients import gradient, inner, normalize_each
from accupoison.models.view import view_of
from accupoison.types import Batch, Grads, ModelView

ROWS, LEARNT = 4, 2
"""Rows that are answered, and rows that are learnt from: as few as tell, since this comes before every run."""
CLOSE = 1e-3
"""Answers count as the same within this share of the largest: kernels differ by the number of rows."""


def check_images(
    model: nn.Module,
    name: str,
    data: DataSet,
    ids: Tensor,
    batch_size: int,
    *,
    fresh: bool = True,
    crafted: bool = True,
) -> None:
    """Raise InputError unless ``model`` does with images of ``data`` what burn-ins, streams and attacks ask of it.

    Args:
        model: In eval mode; nothing about it changes.
        name: What the messages call it.
        data: The images.
        ids: One or more of them, int64 [N].
        batch_size: Of the training; in train mode no more rows than that are given at once.
        fresh: The network has not been trained yet, so that its answers must be finite.
        crafted: Attacks may be crafted against it, so that it must have a second derivative.
    """
    batch, rows = data.batch(ids[:ROWS].repeat(ROWS)[:ROWS]), min(batch_size, LEARNT)
    try:
        check_network(model, batch, data.num_classes, rows=rows, kind=data.kind, fresh=fresh, crafted=crafted)
    except _FaultError as error:
        if data.features:  # a network for images is the likeliest mistake
            raise InputError(f"model {name} {error}; choose another model, such as mlp") from error
        raise InputError(f"model {name} {error}{'' if '; ' in str(error) else '; choose another model'}") from error


class _FaultError(ValueError):
    """What a network does wrong: a predicate, with the fix after a semicolon where there is one."""


def check_network(
    model: nn.Module,
    batch: Batch,
    classes: int,
    *,
    rows: int,
    kind: str = "images",
    fresh: bool = True,
    crafted: bool = True,
) -> None:
    """Raise ValueError, with what is wrong, unless ``model`` does what is asked of it on a batch.

    It must map inputs to logits in both modes, answer alike in eval mode, whatever the other rows are and without
    a change of its state, and every parameter that is trained must get a gradient, which is differentiable itself.

    Args:
        model: In eval mode; nothing about it changes.
        batch: A few rows.
        classes: Number of classes.
        rows: So many of them in train mode.
        kind: What the rows are.
        fresh: Answers must be finite.
        crafted: The gradient must be differentiable.
    """
    devices = [batch.x.device] if batch.x.is_cuda else []
    with torch.random.fork_rng(devices=devices):
        _check_answers(model, batch.x, classes, kind, fresh)
        view, few = view_of(model), batch.rows(slice(rows))
        with _fault(f"cannot learn from {rows} {kind} of shape {list(few.x.shape[1:])} at once", LARGER):
            logits = view.logits(few.x, train=True)
            _check_logits(logits, rows, classes, kind)
            slopes = _check_gradient(model, view, F.cross_entropy(logits, few.y))
        if not crafted:
            return
        with _fault("has no second derivative, which crafting takes", "write it with operations that have one"):
            _check_hvp(view, few, slopes)


LARGER = "choose another model or a larger batch"


@contextmanager
def _fault(what: str, fix: str = "") -> Iterator[None]:
    """Turn whatever somebody's network raises into a fault."""
    try:
        yield
    except _FaultError:
        raise
    except Exception as error:
        raise _FaultError(f"{what} ({first_line(error)}){f'; {fix}' if fix else ''}") from error


def _check_answers(model: nn.Module, x: Tensor, classes: int, kind: str, fresh: bool) -> None:
    state = model.state_dict()
    if odd := next((key for key, value in state.items() if not isinstance(value, Tensor)), None):
        raise _FaultError(f"keeps {odd} in its state dict, which is no tensor; make it a buffer or leave it out")
    before = {key: value.clone() for key, value in state.items()}
    with torch.no_grad(), _fault(f"cannot take {kind} of shape {list(x.shape[1:])}"):
        logits, again, alone = (model(part) for part in (x, x, x[:1]))
    for answer, count in ((logits, len(x)), (again, len(x)), (alone, 1)):
        _check_logits(answer, count, classes, kind)
    if any(not torch.equal(value.nan_to_num(), before[key].nan_to_num()) for key, value in model.state_dict().items()):
        raise _FaultError("changes its state in eval mode; change buffers in train mode only")
    if not _alike(logits, again):
        raise _FaultError("answers differently when asked again in eval mode; draw random numbers in train mode only")
    if not _alike(logits[:1], alone):
        raise _FaultError(f"answers by the other {kind} of a batch in eval mode; let rows not depend on each other")
    if fresh and not bool(logits.isfinite().all()):
        raise _FaultError("answers with numbers that are not finite; mend its weights or its normalisation")
    ones = torch.ones_like(logits[:, 0])
    if bool(((logits >= 0) & (logits <= 1)).all()) and torch.allclose(logits.sum(1), ones, rtol=0, atol=1e-4):
        raise _FaultError("answers with probabilities (each row is in [0, 1] and sums to 1); leave its softmax out")


def _check_logits(logits: object, rows: int, classes: int, kind: str) -> None:
    shape = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if shape != [rows, classes]:
        raise _FaultError(f"maps {rows} {kind} to {shape}; it must return logits [{rows}, {classes}]")
    if isinstance(logits, Tensor) and logits.dtype is not torch.float32:
        raise _FaultError(f"returns logits of {logits.dtype}; it must return float32")


def _alike(a: Tensor, b: Tensor) -> bool:
    a, b = a.nan_to_num(), b.nan_to_num()  # a model that has diverged may say anything, if only always the same
    return torch.allclose(a, b, rtol=CLOSE, atol=CLOSE * float(a.abs().max()))


def _check_gradient(model: nn.Module, view: ModelView, loss: Tensor) -> Grads:
    """Return the gradient of the loss; raise unless it depends on every parameter that is trained."""
    slopes = torch.autograd.grad(loss, view.params(), allow_unused=True)
    names = [key for key, parameter in model.named_parameters() if parameter.requires_grad]
    if unused := next((key for key, slope in zip(names, slopes, strict=True) if slope is None), None):
        raise _FaultError(f"has a parameter {unused} that gets no gradient; use it, or freeze it (requires_grad=False)")
    return slopes


def _check_hvp(view: ModelView, batch: Batch, towards: Grads) -> None:
    """Differentiate twice, as accumulative poisoning does."""
    x = batch.x.detach().clone().requires_grad_()
    agreement = inner(normalize_each(gradient(view, x, batch.y, graph=True)), towards)
    agreement.backward()  # type: ignore[no-untyped-call]  # not grad(), which passes over what is differentiable once
    if any(leaf.grad is None for leaf in (x, *view.params())):
        raise RuntimeError("inputs or parameters that its gradient does not depend on")
