"""Data: image sets by name, their parts, the stream of clean batches, and what happens to images on the way."""

from accupoison.data.augment import crop_flip, quantise
from accupoison.data.corruptions import Shift
from accupoison.data.sources import STATS, DataSet, load
from accupoison.data.splits import Splits, SplitSizes, split
from accupoison.data.stream import DataStream, make_stream

__all__ = [
    "STATS",
    "DataSet",
    "DataStream",
    "Shift",
    "SplitSizes",
    "Splits",
    "crop_flip",
    "load",
    "make_stream",
    "quantise",
    "split",
]
