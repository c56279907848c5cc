"""From settings to a simulation: what a run needs, loaded and put together."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from accupoison.config.schema import DataSettings, OnlineConfig
from accupoison.data import DataSet, Splits
from accupoison.data.fabricated import fabricated_id, source_ids
from accupoison.defenses.dsc import CALIBRATION_BATCHES
from accupoison.errors import InputError
from accupoison.learner import Learner
from accupoison.loop.simulation import Simulation
from accupoison.models.view import view_of
from accupoison.records.files import holds
from accupoison.records.ledger import LEDGER, Ledger
from accupoison.runs.base_model import IDENTITY, BaseModel, open_data, parts_of
from accupoison.runs.burnin import EARLY
from accupoison.runs.model_check import check_images
from accupoison.runs.places import default_place, find_checkpoint
from accupoison.runs.population import stream_population
from accupoison.runs.replay import replay_of
from accupoison.runs.streams import fitting, stream_of
from accupoison.types import Batch, ModelView
from accupoison.updates import DPSGD, check_private


@dataclass(frozen=True)
class Built:
    """A simulation with what it was made from.

    Attributes:
        simulation: The simulation.
        data: The images.
        splits: Their parts.
        burnin: Ids of the images that the base model was trained on as they are, int64 [N]; None if unknown. They need
            not be those of ``splits``: protocol ``released_split`` goes on from base models of any division.
        model: The network in words.
        note: What the user should know about the parts and the checkpoint, or "".
    """

    simulation: Simulation
    data: DataSet
    splits: Splits
    burnin: Tensor | None
    model: str
    note: str


def build_simulation(config: OnlineConfig, root: Path, *, swap: Tensor | None = None, seed: int | None = None) -> Built:
    """Load what a run needs and put it together.

    Args:
        config: All settings.
        root: The directory of checkpoints.
        swap: For each id, who comes in its place, int64 [ids]; see :func:`accupoison.data.make_stream`.
        seed: Of everything but the order of the stream and its trigger; None is the run's.

    Raises:
        InputError: Something that the configuration names is not to be had or does not fit the rest.
    """
    device = config.run.compute()
    path, early_path = find_checkpoint(config, root)
    base = BaseModel.load(path, config.model.name)
    base.check_model(config.model, path)
    data, splits = open_data(config.data, device)
    asked, config = config, fitting(config, splits)
    base = base.of(config.model, data, splits.burnin)
    base.check_data(config.data, data, path)
    _check_parts(config, splits)
    learner = _learner(config, base, path)
    check_images(learner.model, base.spec.name, data, splits.val, config.stream.batch_size, fresh=False)
    early = None if early_path is None else _early(config, early_path, base, data)
    s, note = config.stream, splits.note
    if data.features:
        s = replace(s, augment="none", quantise=False)
        note = f"{note} {data.name} has features: no crop, no flip and no rounding to 8 bits.".strip()
    stream = stream_of(config, data, splits, swap=swap)
    if isinstance(config.update, DPSGD):
        check_private(learner, base.spec.name, data.batch(splits.val[:1]))
    simulation = Simulation(
        learner=learner,
        stream=stream,
        attack=config.attack.fresh() if s.replay is None else replay_of(config, data, stream),
        defense=config.defense.fresh(),
        update=config.update,
        schedule=s,
        trigger=config.trigger,
        reference=early,
        val=data.batch(splits.val),
        trusted=trusted_batches(data, splits, s.batch_size),
        seed=config.run.seed if seed is None else seed,
        flip=data.flip,
        population=stream_population(config, data, splits),
    )
    if "snapshot" in config.defense.requires and simulation.reference is None:
        raise InputError(
            f"the defence {config.defense.name} compares with an early snapshot and there is no "
            f"{path.with_name(EARLY)}; give one with <start.reference>"
        )
    model = f"{base.spec.name}, width {base.spec.width}, {base.spec.norm} norm"
    if s.batch_size < asked.stream.batch_size:
        note += f" Batches have {s.batch_size} samples in place of {asked.stream.batch_size}, so that all of them fit."
    note = " ".join(filter(None, (note.strip(), *_notes(config, base, path, root))))
    return Built(simulation, data, splits, _trained_on(base, data, path), model, note)


def _trained_on(base: BaseModel, data: DataSet, path: Path) -> Tensor | None:
    """Return whom the base model has learnt as they are; a poisoned burn-in leaves its ledger beside the checkpoint."""
    if not base.data:
        return None
    ids = parts_of(data, DataSettings(**{key: base.data[key] for key in IDENTITY if key in base.data})).burnin
    ledger = path.with_name(LEDGER)
    if not holds(ledger.exists):
        return ids
    rows = Ledger.load(ledger).rows
    return ids[~torch.isin(ids, source_ids(torch.from_numpy(rows["id"][rows["changed"] & ~_twins(rows["id"])].copy())))]


def _twins(ids: NDArray[np.int64]) -> NDArray[np.bool_]:
    made = torch.from_numpy(ids.copy())
    return (fabricated_id("twin", source_ids(made)) == made).numpy()


def _notes(config: OnlineConfig, base: BaseModel, path: Path, root: Path) -> Iterator[str]:
    start = config.start
    usual = default_place(root, config.data.name, config.model, start.recipe, start.seed)
    if start.checkpoint is None and path.parent != usual:
        yield f"There is no {usual}; the stream starts from {path.parent}, of another number of epochs."
    if not base.data and config.data.splits != "released_split":
        yield f"{path} does not say which images it was trained on, so the stream may hold some of them."
    if base.optimizer is None and config.optim.restore_momentum and config.optim.momentum:
        yield f"{path} has no momentum to go on with, so the stream starts without."


def trusted_batches(data: DataSet, splits: Splits, size: int) -> list[Batch]:
    """Return the batches that a defence calibrates on.

    Args:
        data: The images.
        splits: Their parts; the batches are of the trusted images, going round again where there are too few.
        size: Rows of a batch.
    """
    ids = splits.trusted
    if len(ids) == 0:
        return []
    rounds = ids.repeat(math.ceil(CALIBRATION_BATCHES * size / len(ids)))
    return [data.batch(part) for part in torch.split(rounds[: CALIBRATION_BATCHES * size], size)]


def _learner(config: OnlineConfig, base: BaseModel, path: Path) -> Learner:
    o = config.optim
    model = base.build(path, config.run.compute())
    lr = base.lr if o.lr is None else o.lr
    if not lr:
        raise InputError(f"{path} does not say at what learning rate it would go on; set optim.lr, for example to 0.1")
    learner = Learner(
        model,
        lr=lr,
        momentum=o.momentum,
        weight_decay=o.weight_decay,
        bn_mode=o.bn_mode,
        kernels=config.run.kernels,
    )
    if o.restore_momentum and base.optimizer is not None:
        state, weights = base.optimizer["state"], learner.parameters
        buffers = {key: value["momentum_buffer"] for key, value in state.items()}
        if any(key >= len(weights) or not _fits(buffer, weights[key]) for key, buffer in buffers.items()):
            raise InputError(f"the momentum in {path} does not fit its weights; set optim.restore_momentum=false")
        groups = learner.optimizer.state_dict()["param_groups"]  # the stream's own rate, momentum and decay
        learner.optimizer.load_state_dict({"state": state, "param_groups": groups})
    return learner


def _fits(buffer: Tensor | None, weight: Tensor) -> bool:
    return buffer is None or (buffer.shape == weight.shape and buffer.is_floating_point())


def _early(config: OnlineConfig, path: Path, base: BaseModel, data: DataSet) -> ModelView:
    early = BaseModel.load(path, config.model.name)
    early = early if early.named else replace(early, spec=base.spec)
    for key in ("name", "width", "norm", "num_classes"):
        early_value, base_value = getattr(early.spec, key), getattr(base.spec, key)
        if early_value != base_value:
            raise InputError(
                f"the early snapshot {path} holds a model with {key} {early_value} and the checkpoint one with "
                f"{base_value}; give the checkpoint's own with <start.reference>"
            )
    early.check_data(config.data, data, path)
    return view_of(early.build(path, data.device), config.run.kernels)


def _check_parts(config: OnlineConfig, splits: Splits) -> None:
    if not len(splits.val):
        raise InputError("the val split is empty and its images are the attacker's own; give data.val 1 or more")
    if config.evaluate.monitor and not len(splits.monitor):
        raise InputError(
            "the monitor split is empty and accuracy is followed on it; give data.monitor 1 or more, or set "
            "evaluate.monitor=false"
        )
