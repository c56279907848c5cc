"""Steps that trusted images, with labels, do not object to."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from accupoison.defenses.base import DEFENSES, Defense
from accupoison.errors import InputError, check_least
from accupoison.gradients import gradient
from accupoison.types import Batch, Context, Grads, ModelView


def trusted_rows(trusted: Sequence[Batch], most: int, name: str, *, least: int = 1) -> Batch:
    """Return the first ``most`` trusted images [N, ...], each once: batches go round again where there are few.

    Args:
        trusted: The batches.
        most: How many.
        name: The defence that needs them.
        least: How many there must be.

    Raises:
        InputError: There are fewer.
    """
    first: dict[int, int] = {}
    for row, number in enumerate(number for batch in trusted for number in batch.ids.tolist()):
        first.setdefault(number, row)
    if len(first) < least:
        raise InputError(f"the defence {name} gets {len(first)} trusted images, too few; give data.trusted 4 or more")
    return Batch.concat(trusted).rows(torch.tensor(list(first.values())[:most], device=trusted[0].x.device))


def project(u: Grads, h: Grads, *, cap: float = math.inf, conflict: bool = True) -> Grads:
    """Return ``u`` without what goes against ``h``, and no longer than ``cap`` times ``h``; differentiable by ``u``.

    Without the cap it is A-GEM's step (Chaudhry et al., ICLR 2019, Eq. 11), there for g alone, here for the momentum.

    Args:
        u: The direction, one tensor [*] a parameter; weights move against it.
        h: The trusted gradient, likewise.
        cap: Bound on the l2 norm of the result, in norms of ``h``; infinity bounds nothing.
        conflict: Where the inner product of the two is negative, remove the part of ``u`` along ``h``.
    """
    size, along = _inner(h, h), _inner(u, h)
    if conflict and along < 0:
        u = tuple(x - (along / size).to(x) * y for x, y in zip(u, h, strict=True))
    length, bound = _inner(u, u).sqrt(), cap * size.sqrt()
    return tuple(x * (bound / length).to(x) for x in u) if length > bound else u


def _inner(a: Grads, b: Grads) -> Tensor:
    return torch.stack([(x.double() * y.double()).sum() for x, y in zip(a, b, strict=True)]).sum()


@DEFENSES.register("TRUST-PROJ")
@dataclass(kw_only=True)
class TrustedProjection(Defense):
    """Let the momentum u = 0.9 v + g go nowhere that trusted labelled images lose by, and no farther than they ask for.

    With their gradient h, <u, h> is kept at 0 or more and abs(u) at ``cap`` abs(h); what is left of u becomes the
    momentum, so nothing that was removed comes back later, as it would if g alone were projected. h is taken in train
    mode: poisoned running statistics do not enter it.

    Attributes:
        project: Remove the part of u along h where the two are at odds.
        cap: The bound on abs(u), in lengths of h.
        buffer: Trusted images that h is the gradient on, at most; they are saved with the run.
    """

    requires: ClassVar[frozenset[str]] = frozenset({"trusted-labelled"})
    couples: ClassVar[bool] = False
    neutral: ClassVar[dict[str, Any]] = {"project": False, "cap": math.inf}

    project: bool = True
    cap: float = 2.0
    buffer: int = 200
    buffer_x: Tensor | None = field(default=None, init=False, repr=False, compare=False)
    buffer_y: Tensor | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.cap > 0:
            raise InputError(f"defense.cap {self.cap} is not above 0; give one such as 2, or inf for no bound")
        check_least("defense.buffer", self.buffer, 1, "a number of images such as 200")

    @property
    def projects(self) -> bool:
        """Whether there is anything to do."""
        return self.project or self.cap < math.inf

    def setup(self, live: ModelView, reference: ModelView | None, trusted: Sequence[Batch], ctx: Context) -> None:
        """Keep the trusted images, with their labels."""
        if self.projects:
            rows = trusted_rows(trusted, self.buffer, type(self).name)
            self.buffer_x, self.buffer_y = rows.x, rows.y

    def direct(self, direction: Grads, view: ModelView, ctx: Context) -> Grads:
        """Return what is left of the momentum."""
        direct = self.directing(view, ctx)
        return direction if direct is None else direct(direction)

    def directing(self, view: ModelView, ctx: Context) -> Callable[[Grads], Grads] | None:
        """Return :meth:`direct` for the update of ``ctx``, with h taken now; None where nothing is projected."""
        if self.buffer_x is None or self.buffer_y is None:
            return None
        return partial(self._left, trusted=gradient(view, self.buffer_x, self.buffer_y, train=True), ctx=ctx)

    def _left(self, direction: Grads, trusted: Grads, ctx: Context) -> Grads:
        left = project(direction, trusted, cap=self.cap, conflict=self.project)
        removed = tuple(a.detach() - b.detach() for a, b in zip(direction, left, strict=True))
        whole, part = (float(_inner(x, x).detach()) for x in (direction, removed))
        ctx.log("defense/redirected", math.sqrt(part / whole) if whole else 0.0)
        return left
