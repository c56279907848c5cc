"""What every data set promises."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from accupoison.data import DataSet, SplitSizes, make_stream, split
from accupoison.testing.bench import expect, global_seed


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
    found = []
    for seed in (1, 2):  # of the global generators, which must not matter
        with global_seed(seed):
            found.append(load(data_dir))
    data = found[0]
    expect(isinstance(data, DataSet), f"the loader returned a {type(data).__name__}, not a DataSet")
    for half in ("train", "test"):
        _check_half(data, half, getattr(data, f"{half}_x"), getattr(data, f"{half}_y"))
    shapes = [list(x.shape[1:]) for x in (data.train_x, data.test_x)]
    expect(shapes[0] == shapes[1], f"train samples are {shapes[0]} and test samples {shapes[1]}")
    missing = set(range(data.num_classes)) - set(data.train_y.tolist())
    expect(not missing, f"the train half has no sample of class {min(missing, default=0)}")
    expect(data.fingerprint() == found[1].fingerprint(), "two loads gave different bytes; fix the seed in the loader")
    _check_stream(data)


def _check_half(data: DataSet, half: str, x: Tensor, y: Tensor) -> None:
    if x.ndim == 2:
        expect(x.dtype == torch.float32, f"{half}_x is {x.dtype}; features must be float32")
        expect(bool(((x >= 0) & (x <= 1)).all()), f"{half}_x leaves [0, 1]; scale the features")
    else:
        layout = x.dtype == torch.uint8 and x.ndim == 4 and x.shape[1] == 3
        expect(layout, f"{half}_x is {x.dtype} {list(x.shape)}; images must be uint8 [N, 3, H, W]")
    labels = y.dtype == torch.int64 and y.shape == (len(x),)
    expect(labels, f"{half}_y is {y.dtype} {list(y.shape)}; labels must be int64 [{len(x)}]")
    inside = bool(((y >= 0) & (y < data.num_classes)).all())
    expect(inside, f"{half}_y has labels outside 0 to {data.num_classes - 1}, the classes that it names")


def _check_stream(data: DataSet) -> None:
    parts = split(data, sizes=SplitSizes(burnin=40, stream=40, trigger=10, val=10, trusted=10, monitor=10))
    stream = make_stream("cycling", data, parts, batch_size=min(2, len(parts.trigger)), length=2, seed=0)
    batch = stream[1]
    expect(bool(((batch.x >= 0) & (batch.x <= 1)).all()), "a batch of the stream leaves [0, 1]")
