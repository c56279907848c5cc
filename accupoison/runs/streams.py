"""The stream of a run, in batches that its data are enough for."""

from dataclasses import replace

from torch import Tensor

from accupoison.config.schema import OnlineConfig
from accupoison.data import DataSet, DataStream, Splits, make_stream


def stream_of(config: OnlineConfig, data: DataSet, splits: Splits, *, swap: Tensor | None = None) -> DataStream:
    """Return the stream that a run's settings ask for.

    Args:
        config: All settings.
        data: The samples.
        splits: Whose they are.
        swap: For each id, who comes in its place, int64 [ids]; see :func:`accupoison.data.make_stream`.

    Raises:
        InputError: The parts have too few samples for it.
    """
    s = fitting(config, splits).stream
    length = s.steps + 1 + s.recovery_steps
    seed = config.run.seed
    return make_stream(s.kind, data, splits, batch_size=s.batch_size, length=length, seed=seed, pool=s.pool, swap=swap)


def fitting(config: OnlineConfig, splits: Splits) -> OnlineConfig:
    """Return settings with batches as large as asked for, or as the parts allow where a small data set shrank them.

    Args:
        config: All settings.
        splits: The parts as they came to be.
    """
    s, pool = config.stream, len(splits.stream)
    if s.pool != "stream" or config.data.splits != "fresh" or pool >= config.data.stream:
        return config  # nothing was scaled, so a batch that does not fit is a mistake to be told
    largest = min(pool if s.kind == "cycling" else pool // (s.steps + 1 + s.recovery_steps), len(splits.trigger))
    size = min(s.batch_size, max(1, largest))
    return config if size == s.batch_size else replace(config, stream=replace(s, batch_size=size))
