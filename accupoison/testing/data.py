"""What every data set promises."""

from collections.abc import Callable
from pathlib import Path

from accupoison.data import DataSet, SplitSizes, make_stream, split
from accupoison.rng import global_seed
from accupoison.testing.bench import expect


def check_data(load: Callable[[Path | None], DataSet], data_dir: Path | None = None) -> None:
    """Load a data set twice and hold it to its layout.

    Samples must be uint8 [N, 3, H, W], or features float32 [N, D] in [0, 1], alike in both halves; labels must be int64
    and name classes, each of which the train half must have; both loads must give the same bytes; and its parts must
    make a stream.

    Args:
        load: The loader; gets the data directory.
        data_dir: What it gets.

    Raises:
        AssertionError: A promise was broken; the message says which.
    """
    loads = []
    for seed in (1, 2):  # of the global generators, which must not matter
        with global_seed(seed):
            loads.append(load(data_dir))
    data = loads[0]
    expect(isinstance(data, DataSet), f"the loader returned a {type(data).__name__}, not a DataSet")
    try:
        data.check()
    except ValueError as error:
        raise AssertionError(str(error)) from error
    missing = set(range(data.num_classes)) - set(data.train_y.tolist())
    expect(not missing, f"the train half has no sample of class {min(missing, default=0)}")
    expect(data.fingerprint() == loads[1].fingerprint(), "two loads gave different bytes; fix the seed in the loader")
    _check_stream(data)


def _check_stream(data: DataSet) -> None:
    parts = split(data, sizes=SplitSizes(burnin=40, stream=40, trigger=10, val=10, trusted=10, monitor=10))
    stream = make_stream("cycling", data, parts, batch_size=min(2, len(parts.trigger)), length=2, seed=0)
    batch = stream[1]
    expect(bool(((batch.x >= 0) & (batch.x <= 1)).all()), "a batch of the stream leaves [0, 1]")
