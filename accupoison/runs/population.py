"""Whom an attacker may poison or ask about, in a stream and in an offline training."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from accupoison.config.schema import OnlineConfig
from accupoison.data import DataSet, Splits
from accupoison.errors import InputError, first_line
from accupoison.measure.membership import never_learnt
from accupoison.models.view import view_of
from accupoison.rng import generator
from accupoison.runs.base_model import BaseModel
from accupoison.runs.streams import stream_of
from accupoison.types import ModelView, Population


def stream_population(config: OnlineConfig, data: DataSet, splits: Splits) -> Population:
    """Return the samples of a run's stream, also where a replay puts others in their places, and as many others.

    Args:
        config: All settings.
        data: The samples.
        splits: Whose they are.
    """
    s = config.stream
    length = s.steps + 1 + s.recovery_steps
    stream = stream_of(config, data, splits)
    steps = tuple(stream.ids(t) for t in range(s.steps))
    coming = torch.cat([torch.empty(0, dtype=torch.int64), *steps]).unique()  # type: ignore[no-untyped-call]
    later = torch.cat([stream.trigger(s.steps).ids.cpu(), *(stream.ids(t) for t in range(s.steps + 1, length))])
    known = torch.cat([coming, later, splits.burnin])  # whom the model has learnt, or will have
    parts = [part[~torch.isin(part, known)] for part in (splits.stream, never_learnt(splits, {}))]
    parts = [part[torch.randperm(len(part), generator=generator(config.run.seed, "candidates"))] for part in parts]
    others = torch.cat(parts)[: len(coming)]  # images of the stream's own part first
    total = sum(len(ids) for ids in steps)
    return _population(data, steps, torch.cat([coming, others]), total, config.run.kernels)


def training_population(
    data: DataSet,
    victims: Tensor,
    candidates: Tensor,
    total: int,
    kernels: str,
    rehearse: Callable[[Tensor, Tensor, Tensor, int], ModelView] | None,
) -> Population:
    """Return the samples of an offline training.

    Args:
        data: The samples.
        victims: Ids whose labels may be changed, int64 [N].
        candidates: Ids whose membership may be asked about, int64 [M].
        total: Samples that are trained on.
        kernels: Of models that are opened; see :func:`accupoison.models.view.view_of`.
        rehearse: Trains the model anew; see :class:`~accupoison.types.Population`. None where nobody will.
    """
    population = _population(data, (victims,), candidates, total, kernels)
    return replace(population, ordered=False, rehearse=rehearse)


def _population(
    data: DataSet,
    steps: tuple[Tensor, ...],
    candidates: Tensor,
    total: int,
    kernels: str,
) -> Population:
    return Population(
        steps=steps,
        candidates=candidates,
        total=total,
        size=data.size,
        num_classes=data.num_classes,
        labels=lambda ids: data.labels(ids).cpu(),
        raw=data.batch,
        model=partial(_opened, data=data, kernels=kernels),
    )


def _opened(path: str, *, data: DataSet, kernels: str) -> ModelView:
    base = BaseModel.load(Path(path))
    view = view_of(base.build(Path(path), data.device), kernels)
    try:
        view.features(data.batch(torch.arange(1)).x)
    except Exception as error:  # a network of other inputs may raise anything
        raise InputError(
            f"the model in {path} cannot look at samples of {data.name} ({first_line(error, named=True)}); give one "
            "that was trained on such"
        ) from error
    return view
