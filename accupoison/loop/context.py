"""What a hook of an attack, defence or update rule receives."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Generator, Tensor

from accupoison.data.corruptions import Shift
from accupoison.rng import generator


class StepContext:
    """The :class:`~accupoison.types.Context` of one hook in one step.

    Args:
        seed: Of the run.
        role: Of the hook, such as "attack".
        t: The step, from 0.
        metrics: Gets what is logged.
        share: Of the training, or of the steps before the trigger, that is done; in [0, 1].
        epoch_size: Samples of one pass over the training set; None in a stream.
        shift: How images change as the stream goes on; None if they do not.
    """

    def __init__(
        self,
        seed: int,
        role: str,
        t: int,
        metrics: dict[str, float],
        *,
        share: float = 0.0,
        epoch_size: int | None = None,
        shift: Shift | None = None,
    ) -> None:
        self._seed, self._role, self._t, self._metrics = seed, role, t, metrics
        self._share, self._epoch_size, self._shift = share, epoch_size, shift

    @property
    def t(self) -> int:
        """The step."""
        return self._t

    @property
    def share(self) -> float:
        """What is done of the training, or of the steps before the trigger."""
        return self._share

    @property
    def epoch_size(self) -> int | None:
        """Samples of one pass over the training set; None in a stream."""
        return self._epoch_size

    def present(self, x: Tensor, ids: Tensor) -> Tensor:
        """Return images [B, ...] as they look at this step; ``x`` itself where nothing shifts."""
        return x if self._shift is None else self._shift(x, ids, self._t)

    def rng(self, *names: str) -> Generator:
        """Return a generator for this hook, step and purpose."""
        return generator(self._seed, self._role, self._t, *names)

    def log(self, tag: str, value: float) -> None:
        """Add a scalar to the step's metrics."""
        self._metrics[tag] = value


@contextmanager
def clock(metrics: dict[str, float], tag: str) -> Iterator[None]:
    """Put the wall time of a block into ``metrics`` under ``tag``, in seconds."""
    started = time.perf_counter()
    yield
    metrics[tag] = time.perf_counter() - started
