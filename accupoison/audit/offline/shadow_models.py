"""The offline protocol: shadow models from one pool of data, victims from another, the test set audited."""

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from accupoison.audit.signals import check_queries, signals
from accupoison.config.layers import Layer, plain, resolve
from accupoison.config.renamed import Say, quiet, with_new_names
from accupoison.config.schema import (
    REGISTRIES,
    BurninConfig,
    DataSettings,
    ModelSettings,
    RunSettings,
    TrainSettings,
    at_home,
)
from accupoison.data import DataSet
from accupoison.errors import InputError
from accupoison.learner import Learner
from accupoison.measure.hardware import ceiling, training_flops
from accupoison.records.arrays import write_arrays
from accupoison.records.files import read_json
from accupoison.records.run_directory import ENV, WORLDS, RunDirectory, check_contents, environment
from accupoison.rng import derive, generator
from accupoison.runs.base_model import open_data
from accupoison.runs.trainer import Burnin
from accupoison.runs.workers import carry_out
from accupoison.updates import SGD

POOLS = ("victims", "shadows")
MOST = 100_000
"""Models of an audit, at most; more are a typing error."""


@dataclass(frozen=True, kw_only=True)
class ShadowSettings:
    """How many models, and who gets what.

    Attributes:
        size: Samples that each model is trained on; the audited ones among them are included.
        shadows: Models of the attacker.
        victims: Models that are attacked, each by all shadows.
        population: Training samples that no model gets, for the attacks that compare with a population.
        queries: What is asked about each sample, as text with commas; None is the image and, where it keeps its class,
            its mirror image.
    """

    size: int = 20_000
    shadows: int = 20
    victims: int = 4
    population: int = 1000
    queries: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for name, least in (("size", 1), ("shadows", 5), ("victims", 1), ("population", 1)):
            if getattr(self, name) < least:
                raise InputError(f"shadows.{name} {getattr(self, name)} is below {least}; give a larger number")
        for name in ("shadows", "victims"):
            if getattr(self, name) > MOST:
                raise InputError(f"shadows.{name} {getattr(self, name)} is above {MOST}; give a smaller number")
        if self.queries is not None:
            check_queries(self.queries)


@dataclass(frozen=True, kw_only=True)
class OfflineConfig:
    """Everything that determines an audit by the offline protocol."""

    data: DataSettings = field(default_factory=DataSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    train: TrainSettings = field(default_factory=TrainSettings)
    update: SGD = field(default_factory=SGD)
    shadows: ShadowSettings = field(default_factory=ShadowSettings)
    run: RunSettings = field(default_factory=RunSettings)


def offline_config(layers: Sequence[Layer], say: Say = quiet) -> OfflineConfig:
    """Return the configuration that ``layers`` make over the defaults; ``say`` is told of old names."""
    return resolve(OfflineConfig, layers, REGISTRIES, say)


@dataclass(frozen=True, eq=False)
class Division:
    """Who may get which samples.

    Attributes:
        audited: Test samples whose membership is to be told, int64 [N].
        population: Training samples that no model gets.
        pools: Training samples of the victims and of the shadows.
        dropped: Samples left out because another one is the same image.
    """

    audited: Tensor
    population: Tensor
    pools: dict[str, Tensor]
    dropped: int


def divide(data: DataSet, settings: ShadowSettings, seed: int) -> Division:
    """Divide a data set; of samples that are alike byte for byte, none is audited and one may be trained on.

    Raises:
        InputError: There are too few samples for models of this size.
    """
    first, alike = _twins(data)
    test = torch.arange(data.num_train, data.size)
    audited = test[~alike[test]]
    train = torch.arange(data.num_train)
    train = train[first[train]]
    train = train[torch.randperm(len(train), generator=generator(seed, "pools"))]
    population, rest = train[: settings.population], train[settings.population :]
    half = len(rest) // 2
    needed = settings.size - len(audited) // 2
    if needed > half or needed < 0:
        most = half + len(audited) // 2
        raise InputError(
            f"shadows.size {settings.size} does not fit: half of the {len(audited)} audited samples and up to {half} "
            f"of a pool make {len(audited) // 2} to {most}; choose a number in between"
        )
    pools = dict(zip(POOLS, (rest[:half], rest[half : 2 * half]), strict=True))
    return Division(audited, population, pools, int((~first).sum()))


def _twins(data: DataSet) -> tuple[Tensor, Tensor]:
    """Return which samples [size] are the first of their bytes, and which have a twin at all."""
    seen: dict[bytes, list[int]] = {}
    for half, start in ((data.train_x, 0), (data.test_x, data.num_train)):
        for row, sample in enumerate(half.cpu().numpy()):
            seen.setdefault(hashlib.blake2b(sample.tobytes(), digest_size=16).digest(), []).append(start + row)
    first, alike = torch.zeros(data.size, dtype=torch.bool), torch.zeros(data.size, dtype=torch.bool)
    for rows in seen.values():
        first[rows[0]] = True
        alike[rows] = len(rows) > 1
    return first, alike


def members_of(
    division: Division, settings: ShadowSettings, pool: str, number: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Return the training ids of a model and which of the audited samples are among them, bool [N]."""
    rng = generator(seed, "members", pool, number)
    keep = torch.zeros(len(division.audited), dtype=torch.bool)
    keep[torch.randperm(len(keep), generator=rng)[: len(keep) // 2]] = True
    own = division.pools[pool]
    drawn = own[torch.randperm(len(own), generator=rng)[: settings.size - int(keep.sum())]]
    return torch.cat([division.audited[keep], drawn]), keep


def make_world(config: OfflineConfig, out: Path, pool: str, number: int) -> str:
    """Train one model and write its signals to ``out``, unless they are there already; the weights are not kept."""
    path = world_path(out, pool, number)
    if path.exists():
        return path.stem
    started = time.perf_counter()
    run = RunSettings(seed=derive(config.run.seed, "world", pool, number), device=config.run.device)
    settings = BurninConfig(data=config.data, model=config.model, train=config.train, update=config.update, run=run)
    data, _ = open_data(config.data, torch.device("cpu"))
    division = divide(data, config.shadows, config.run.seed)
    members, keep = members_of(division, config.shadows, pool, number, config.run.seed)
    burnin = Burnin.prepare(settings, members, name=f"model {number} of the {pool}")
    burnin.train()
    view, queries = burnin.learner.view(), queries_of(config, burnin.data)
    phi, probs = signals(view, burnin.data, division.audited, queries)
    _, others = signals(view, burnin.data, division.population, ["plain"])
    arrays = {"phi": phi, "probs": probs, "population": others, "keep": keep.numpy()}
    seen = burnin.step * config.train.batch_size
    took = time.perf_counter() - started
    share = share_of_ceiling(burnin.learner, burnin.data, seen / took)
    facts = {"seconds": took, "images": seen, "share": share, "epsilon": _epsilon(burnin)}
    write_arrays(path, {**arrays, **{name: np.float64(value) for name, value in facts.items()}})
    return path.stem


def share_of_ceiling(learner: Learner, data: DataSet, images_per_second: float) -> float:
    """Return the matrix products of so many forward and backward passes as a share of what the machine reaches.

    NaN for a network that torch's counter cannot count: a speed is not worth an audit.
    """
    x = data.batch(torch.arange(min(8, data.size))).x
    try:
        return images_per_second * training_flops(learner.model, x) / _ceiling(learner.device)
    except Exception:  # networks of others can raise anything under the counter's hooks
        return float("nan")


@cache
def _ceiling(device: torch.device) -> float:
    """Measure once a process: it takes as long as a small world."""
    return ceiling(device)


def _epsilon(burnin: Burnin) -> float:
    return burnin.epsilon


def queries_of(config: OfflineConfig, data: DataSet) -> tuple[str, ...]:
    """Return what is asked about each sample."""
    if config.shadows.queries is not None:
        return config.shadows.queries
    return ("plain", "flip") if data.flip else ("plain",)


def world_path(out: Path, pool: str, number: int) -> Path:
    """Return the file with the signals of a model."""
    return out / WORLDS / f"{pool}-{number:03d}.npz"


def run_offline(config: OfflineConfig, out: Path, *, jobs: int, report: Callable[[int, int, str], None]) -> None:
    """Train all models that ``out`` does not have yet; a run that was cut off goes on by the same call.

    Args:
        config: All settings.
        out: The directory.
        jobs: Processes at once.
        report: Told (models done, models in all, the last one).

    Raises:
        InputError: ``out`` belongs to other settings, there are too few samples, or a model diverged.
    """
    data, _ = open_data(config.data, torch.device("cpu"))
    if RunDirectory.holds_run(out):
        check_contents(out, data.name, read_json(out / ENV).get("data"), data.fingerprint())
    divide(data, config.shadows, config.run.seed)  # too few samples are said before anything is trained
    settings, env = at_home(plain(config), out), {**environment(), "data": data.fingerprint()}
    with RunDirectory.resume_or_create(out, settings, env, with_new_names):
        models = [("shadows", i) for i in range(config.shadows.shadows)]
        models += [("victims", i) for i in range(config.shadows.victims)]
        left = [model for model in models if not world_path(out, *model).exists()]
        tasks = [(make_world, (config, out, *model)) for model in left]
        for done, name in enumerate(carry_out(tasks, jobs), start=1):
            report(done, len(left), name)
