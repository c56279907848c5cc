"""The online batches, before anybody touches them."""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from accupoison.data.corruptions import SHIFTS, Shift
from accupoison.data.dataset import DataSet
from accupoison.data.splits import Splits
from accupoison.errors import InputError, check_choice, first_line
from accupoison.registry import Lookup
from accupoison.rng import generator
from accupoison.types import Batch

STREAMS: "Lookup[Callable[..., DataStream]]" = Lookup("stream.kind", "streams")
"""Streams by kind; each is called with the arguments of :class:`DataStream`."""
POOLS = ("stream", "burnin")
"""The parts that batches may be drawn from."""


@STREAMS.register("iid")
class DataStream:
    """A stream of clean batches without repeats; every batch depends on the seed and its step alone.

    Args:
        data: Where the images are.
        splits: Parts of ``data``; batches come from ``stream`` and the trigger from ``trigger``.
        batch_size: Images in a batch, and in the trigger batch.
        length: Steps.
        seed: Decides the order and the trigger.
        pool: ``stream``: batches come from the stream split and the trigger from its own. ``burnin``: both come from
            the images that the base model was trained on, as in Pang et al. (2021).
        swap: For each id, who comes in its place, int64 [data.size]; the trigger stays. None swaps nobody.
        shift: A corruption that grows from none to full strength at the last step; None has none.

    Attributes:
        shift: How images change as the stream goes on; None if they do not.

    Raises:
        InputError: The pool is unknown, a number is not positive, or a split has too few images.
    """

    kind: ClassVar[str] = "iid"
    repeats: ClassVar[bool] = False
    own_trigger: ClassVar[bool] = True

    def __init__(
        self,
        data: DataSet,
        splits: Splits,
        *,
        batch_size: int,
        length: int,
        seed: int,
        pool: str = "stream",
        swap: Tensor | None = None,
        shift: str | None = None,
    ) -> None:
        for name, value in {"batch size": batch_size, "length": length}.items():
            if value < 1:
                raise InputError(f"the {name} of the stream is {value}; give 1 or more")
        kind = self.kind if shift is None else f"shift:{shift}"
        if shift is not None and data.features:
            raise InputError(f"stream.kind {kind} corrupts images and {data.name} has features; choose iid or cycling")
        check_choice("stream.pool", pool, POOLS)
        available = len(getattr(splits, pool))
        _check_fits(pool, available, batch_size)
        if self.own_trigger and pool == "stream":
            _check_fits("trigger", len(splits.trigger), batch_size)
        needed = batch_size * (length + (pool == "burnin"))  # the trigger comes out of the same pool
        if not self.repeats and needed > available:
            raise InputError(_too_long(kind, pool, available, batch_size, length))
        self.shift = None if shift is None else Shift(shift, seed, length)
        self._data = data
        self._pool = splits.burnin if pool == "burnin" else splits.stream
        self._batch_size = batch_size
        self._length = length
        self._seed = seed
        self._swap = swap
        self._trigger = self._draw_trigger(splits.trigger, pool)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, t: int) -> Batch:
        """Return batch ``t``: float32 images in [0, 1] on the device of the data set.

        Raises:
            IndexError: ``t`` is not in ``range(len(self))``.
        """
        return self._batch(self.ids(t), t)

    def ids(self, t: int) -> Tensor:
        """Return the ids of batch ``t``, int64 [B] on the CPU, without making its images.

        Raises:
            IndexError: ``t`` is not in ``range(len(self))``.
        """
        if not 0 <= t < self._length:
            raise IndexError(f"the stream has steps 0 to {self._length - 1}, not {t}")
        ids = self._pool[self._places(t)]
        return ids if self._swap is None else self._swap[ids]

    def trigger(self, t: int) -> Batch:
        """Return the stream's own clean trigger batch, the same images at every ``t``, shifted as the world is then."""
        return self._batch(self._trigger, t)

    def _batch(self, ids: Tensor, t: int) -> Batch:
        batch = self._data.batch(ids)
        return batch if self.shift is None else batch.with_x(self.shift(batch.x, batch.ids, t))

    def _places(self, t: int) -> Tensor:
        """Return where in the pool the samples of batch ``t`` are."""
        turn, offset = divmod(t * self._batch_size, len(self._pool))
        order = self._order(turn)[offset : offset + self._batch_size]
        if len(order) < self._batch_size:  # only a cycling stream gets here: the batch runs into the next pass
            order = torch.cat([order, self._order(turn + 1)[: self._batch_size - len(order)]])
        return order

    def _draw_trigger(self, part: Tensor, pool: str) -> Tensor:
        if pool == "burnin":  # the end of the order, which a stream without repeats reaches last
            return self._pool[self._order(0)[-self._batch_size :]]
        return part[torch.randperm(len(part), generator=generator(self._seed, "trigger"))[: self._batch_size]]

    def _order(self, turn: int) -> Tensor:
        """Return the order of the pool in one pass; the batches without repeats are those of the first pass."""
        return torch.randperm(len(self._pool), generator=generator(self._seed, "stream", turn))


@STREAMS.register("cycling")
class CyclingStream(DataStream):
    """Pass after pass over the pool, each newly shuffled, for any length."""

    kind = "cycling"
    repeats = True


@STREAMS.register("released_stream")
class ReleasedStream(DataStream):
    """The same images at every step and as the trigger, as in the code released with Zhu et al. (ICML 2023)."""

    kind = "released_stream"
    repeats = True
    own_trigger = False

    def _places(self, t: int) -> Tensor:
        return self._order(0)[: self._batch_size]

    def _draw_trigger(self, part: Tensor, pool: str) -> Tensor:
        return self._pool[self._places(0)]


for _shift, _says in SHIFTS.items():
    _shifted = partial(DataStream, shift=_shift)
    _shifted.__doc__ = f"Like iid, more corrupted from step to step: {_says[0].lower()}{_says[1:]}"
    STREAMS.register(f"shift:{_shift}")(_shifted)


def make_stream(kind: str, data: DataSet, splits: Splits, **settings: Any) -> DataStream:  # noqa: ANN401
    """Return the stream of clean batches of a run.

    Args:
        kind: One of :data:`STREAMS`: ``iid`` (a draw from the stream split, without repeats), ``cycling``,
            ``released_stream``, or ``shift:NAME``, which is iid under a corruption.
        data: Where the images are.
        splits: Parts of ``data``.
        **settings: The other arguments of :class:`DataStream`.

    Raises:
        InputError: The kind is unknown, or :class:`DataStream` refuses its arguments.
    """
    make = STREAMS.get(kind)
    if not STREAMS.is_path(kind):
        return make(data, splits, **settings)
    try:
        made: object = make(data, splits, **settings)
    except InputError:
        raise
    except Exception as error:  # it is somebody's own and may raise anything
        made = first_line(error, named=True)
    if not isinstance(made, DataStream):
        raise InputError(
            f"stream.kind {kind!r} made {made!r}; it must take the arguments of accupoison.data.DataStream and return "
            "one"
        )
    return made


def _check_fits(name: str, available: int, batch_size: int) -> None:
    if not available:
        raise InputError(f"the {name} split is empty; give it at least {batch_size} images, one batch")
    if available < batch_size:
        raise InputError(
            f"a batch of {batch_size} images is larger than the {name} split of {available}; "
            f"use a batch of at most {available} or a larger split"
        )


def _too_long(kind: str, pool: str, available: int, batch_size: int, length: int) -> str:
    own = int(pool == "burnin")  # the trigger's batch
    fixes = [f"at most {available // batch_size - own} steps in all"]
    if available >= length + own:
        fixes.append(f"a batch of at most {available // (length + own)}")
    if kind == "iid":
        fixes.append("stream.kind=cycling")
    return (
        f"stream.kind={kind} needs {batch_size * (length + own)} images ({length + own} batches of {batch_size}, "
        f"before, at and after the trigger) without repeats, but the {pool} split has {available}; "
        f"use {' or '.join(fixes)}"
    )
