"""From settings to images and their parts."""

from dataclasses import fields, replace
from pathlib import Path

import torch

from accupoison.config.schema import DataSettings
from accupoison.data import DataSet, Splits, SplitSizes, load, split


def open_data(settings: DataSettings, device: torch.device) -> tuple[DataSet, Splits]:
    """Return the data set on ``device``, and who gets which of its images.

    Raises:
        InputError: The data are not there, damaged, or too few.
    """
    folder = None if settings.dir is None else Path(settings.dir)
    data = load(settings.name, data_dir=folder, offline=settings.offline)
    if settings.flip is not None:
        data = replace(data, flip=settings.flip)
    sizes = SplitSizes(**{f.name: getattr(settings, f.name) for f in fields(SplitSizes)})
    parts = split(data, protocol=settings.splits, seed=settings.split_seed, sizes=sizes, held_out=settings.held_out)
    return data.to(device), replace(parts, note=f"{data.note} {parts.note}".strip())
