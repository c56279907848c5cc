"""A small challenge of one's own, with real models and the truth beside it."""

import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from accupoison.audit.challenge.answer import CLASSES, IMAGENET, NETWORKS
from accupoison.config.layers import Layer
from accupoison.config.schema import BurninConfig, burnin_config
from accupoison.data import STATS, DataSet
from accupoison.errors import InputError, check_choice
from accupoison.records.files import write_atomically
from accupoison.rng import derive, generator
from accupoison.runs.base_model import open_data
from accupoison.runs.trainer import Burnin

DATASETS = {"cifar10": "cifar10", "cifar100": "cifar100", "tiny-imagenet": "tinyimagenet"}
"""Our data sets and the challenge's names for them."""


def make_cell(root: Path, model: str, layers: Sequence[Layer], size: int) -> str:
    """Train a network on some samples and write the three files of a cell, and ``truth/DATASET_MODEL.npy``.

    Args:
        root: The directory.
        model: One of the challenge's networks.
        layers: Settings of the training.
        size: Samples with known membership, half of them members; as many again are test samples, half of them members.

    Returns:
        The cell's name.

    Raises:
        InputError: The challenge has no such network or data set, or there are too few samples.
    """
    check_choice("network of the challenge", model, NETWORKS)
    config = burnin_config([*layers, {"model": {"name": model}}])
    check_choice("data set of the challenge", config.data.name, DATASETS)
    dataset = DATASETS[config.data.name]
    data, _ = open_data(config.data, torch.device("cpu"))
    order = torch.randperm(data.num_train, generator=generator(config.run.seed, "challenge"))
    if size < 2 or 2 * size > len(order):
        raise InputError(f"a size of {size} needs {2 * size} training samples and {data.name} has {len(order)}")
    members, others = order[:size], order[size : 2 * size]
    burnin = Burnin.prepare(config, members, stats=STATS.get(dataset) or IMAGENET, name="the training")
    if burnin.data.num_classes != CLASSES[dataset]:
        raise InputError(f"{data.name} has {data.num_classes} classes here, not {CLASSES[dataset]}")
    burnin.train()
    weights = burnin.learner.state()["model"]
    name, half = f"{dataset}_{model}", size // 2
    _write(root / "datasets" / "eval" / f"{name}.p", data, [(members[:half], 1), (others[:half], 0)], config, True)
    test = [(members[half:], 1), (others[half:], 0)]
    truth = _write(root / "datasets" / "test" / f"{name}.p", data, test, config, False)
    write_atomically(root / "models" / f"{model}_{dataset}.pth", lambda file: torch.save(weights, file))
    write_atomically(root / "truth" / f"{name}.npy", lambda file: np.save(file, truth))
    return name


def _write(
    path: Path, data: DataSet, groups: Sequence[tuple[Tensor, int]], config: BurninConfig, known: bool
) -> NDArray[np.bool_]:
    """Write the samples of all groups in a random order and return who is a member."""
    ids = torch.cat([part for part, _ in groups])
    member = torch.cat([torch.full((len(part),), member) for part, member in groups])
    order = torch.randperm(len(ids), generator=generator(derive(config.run.seed, path.parent.name), "order"))
    batch = data.batch(ids[order])
    labels = batch.y.tolist()
    columns = (labels, member[order].tolist()) if known else (labels,)
    content = pickle.dumps([(x.clone(), *row) for x, *row in zip(batch.x, *columns, strict=True)])
    write_atomically(path, lambda file: file.write(content))
    return member[order].numpy().astype(np.bool_)
