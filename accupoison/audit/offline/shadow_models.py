"""The offline protocol: shadow models from one pool of data, target models from another, the test set audited."""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from accupoison.attacks import Attack
from accupoison.attacks.targeted import Copies, Targeted
from accupoison.audit.signals import (
    Audited,
    ask,
    check_queries,
    make_models,
    signals_path,
    write_signals,
)
from accupoison.config.layers import Layer, plain, resolve
from accupoison.config.renamed import Say, quiet
from accupoison.config.schema import REGISTRIES, BurninConfig
from accupoison.config.threat_model import burnin_threat
from accupoison.data import DataSet
from accupoison.errors import InputError, check_least
from accupoison.records.arrays import read_arrays, write_arrays
from accupoison.records.files import read_json, write_json
from accupoison.records.run_directory import ENV, RunDirectory, check_contents, environment
from accupoison.records.tags import THREAT
from accupoison.rng import derive, generator
from accupoison.runs.base_model import open_data
from accupoison.runs.burnin import Progress
from accupoison.runs.engines import Engine
from accupoison.runs.trainer import Burnin

POOLS = {"target_models": "victims", "shadows": "shadows"}
"""The pools, and the words from which their random numbers are drawn: those of the first version, so that audits go on
as they began."""
PLAN = "plan.npz"
"""Of an attack that rehearses: the rows that it adds, the same for all models."""
MAX_MODELS = 100_000
"""Models of an audit, at most; more are a typing error."""


@dataclass(frozen=True, kw_only=True)
class ShadowSettings:
    """How many models, and who gets what.

    Attributes:
        size: Samples that each model is trained on; the audited ones among them are included.
        shadows: Models of the attacker, 5 or more.
        target_models: Models that are attacked, each by all shadows; 1 or more.
        population: Training samples that no model gets, for the attacks that compare with a population.
        leave_one_out: Attack every shadow by all others, and train no target models.
        queries: What is asked about each sample, as text with commas; None is the image and, where it keeps its class,
            its mirror image.

    Raises:
        InputError: A number is too small or too large, or a query is unknown.
    """

    size: int = 20_000
    shadows: int = 20
    target_models: int = 4
    population: int = 1000
    leave_one_out: bool = False
    queries: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for name, least in (("size", 1), ("shadows", 5), ("target_models", 1), ("population", 1)):
            check_least(f"shadows.{name}", getattr(self, name), least, "a larger number")
        for name in POOLS:
            if getattr(self, name) > MAX_MODELS:
                raise InputError(f"shadows.{name} {getattr(self, name)} is above {MAX_MODELS}; give a smaller number")
        if self.queries is not None:
            check_queries(self.queries)

    def models(self) -> list[tuple[str, int]]:
        """Return the pool and the number of every model, shadows first."""
        pools = ["shadows"] if self.leave_one_out else list(reversed(POOLS))
        return [(pool, number) for pool in pools for number in range(getattr(self, pool))]


@dataclass(frozen=True, kw_only=True)
class OfflineConfig(BurninConfig):
    """Everything that determines an audit by the offline protocol: how a model is trained, and how many are."""

    shadows: ShadowSettings = field(default_factory=ShadowSettings)


def offline_config(layers: Sequence[Layer], say: Say = quiet) -> OfflineConfig:
    """Return the configuration that ``layers`` make over the defaults; ``say`` is told of old names."""
    return resolve(OfflineConfig, layers, REGISTRIES, say)


@dataclass(frozen=True, eq=False)
class Division:
    """Who may get which samples.

    Attributes:
        audited: Test samples whose membership is to be told, int64 [N].
        population: Training samples that no model gets, int64 [Z].
        pools: Training samples of the target models and of the shadows, int64 each.
        dropped: Samples left out because another one is the same image.
    """

    audited: Tensor
    population: Tensor
    pools: dict[str, Tensor]
    dropped: int


def divide(data: DataSet, settings: ShadowSettings, seed: int) -> Division:
    """Divide a data set; of samples that are alike byte for byte, none is audited and one may be trained on.

    Args:
        data: The data set.
        settings: How many samples a model and the population get.
        seed: Of the pools.

    Raises:
        InputError: There are too few samples for models of this size.
    """
    first, duplicated = _duplicates(data)
    test = torch.arange(data.num_train, data.size)
    audited = test[~duplicated[test]]
    train = torch.arange(data.num_train)
    train = train[first[train]]
    train = train[torch.randperm(len(train), generator=generator(seed, "pools"))]
    rest = train[settings.population :]
    half = len(rest) // 2
    needed = settings.size - len(audited) // 2
    if needed > half or needed < 0:
        most = half + len(audited) // 2
        raise InputError(
            f"shadows.size {settings.size} does not fit: half of the {len(audited)} audited samples and up to {half} "
            f"of a pool make {len(audited) // 2} to {most}; choose a number in between"
        )
    pools = dict(zip(POOLS, (rest[:half], rest[half : 2 * half]), strict=True))
    return Division(audited, train[: settings.population], pools, int((~first).sum()))


def _duplicates(data: DataSet) -> tuple[Tensor, Tensor]:
    """Return which samples are the first of their bytes, and which have a duplicate at all, bool [size] each."""
    rows_by_content: dict[bytes, list[int]] = {}
    for half, start in ((data.train_x, 0), (data.test_x, data.num_train)):
        for row, sample in enumerate(half.cpu().numpy(), start):
            rows_by_content.setdefault(hashlib.blake2b(sample.tobytes(), digest_size=16).digest(), []).append(row)
    first = torch.zeros(data.size, dtype=torch.bool)
    duplicated = torch.zeros(data.size, dtype=torch.bool)
    for rows in rows_by_content.values():
        first[rows[0]] = True
        duplicated[rows] = len(rows) > 1
    return first, duplicated


def members_of(
    division: Division, settings: ShadowSettings, pool: str, number: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Draw the training samples of a model: half of the audited ones, the others from its pool.

    Args:
        division: Who may get which samples.
        settings: How many a model gets.
        pool: Of ``POOLS``.
        number: Of the model in its pool, from 0.
        seed: Of the audit.

    Returns:
        The training ids, int64 [size], and which of the audited samples are among them, bool [N].
    """
    rng = generator(seed, "members", POOLS[pool], number)
    keep = torch.zeros(len(division.audited), dtype=torch.bool)
    keep[torch.randperm(len(keep), generator=rng)[: len(keep) // 2]] = True
    own = division.pools[pool]
    drawn = own[torch.randperm(len(own), generator=rng)[: settings.size - int(keep.sum())]]
    return torch.cat([division.audited[keep], drawn]), keep


def model_name(pool: str, number: int) -> str:
    """Return the name of a model's file of signals; see :func:`accupoison.audit.signals.signals_path`."""
    return f"{pool}-{number:03d}"


def train_model(config: OfflineConfig, out: Path, pool: str, number: int) -> str:
    """Train one model and write its signals; the weights are not saved.

    Args:
        config: All settings.
        out: The directory of the audit.
        pool: Of ``POOLS``.
        number: Of the model in its pool, from 0.

    Returns:
        The model's name.

    Raises:
        InputError: It diverged.
    """
    name = model_name(pool, number)
    started = time.perf_counter()
    run = replace(config.run, seed=derive(config.run.seed, "world", POOLS[pool], number))
    data, _ = open_data(config.data, torch.device("cpu"))
    division = divide(data, config.shadows, config.run.seed)
    members, keep = members_of(division, config.shadows, pool, number, config.run.seed)
    trained = replace(config, run=run, attack=_planned(config, out))
    burnin = Burnin.prepare(trained, members, name=name, candidates=division.audited)
    burnin.train()
    queries = config.shadows.queries or (("plain", "flip") if data.flip else ("plain",))
    audited = Audited(burnin.data, division.audited, division.population)
    write_signals(
        signals_path(out, name),
        ask(burnin.learner.view(), audited, queries, keep),
        burnin.learner,
        burnin.data,
        started=started,
        images=burnin.step * config.train.batch_size,
        epsilon=burnin.epsilon,
    )
    return name


def _rehearses(config: OfflineConfig) -> bool:
    return isinstance(config.attack, Targeted) and config.attack.adaptive


def _planned(config: OfflineConfig, out: Path) -> Attack:
    """Return the attack of a model: one that rehearses does so once for all, so that they get the same poison."""
    if not _rehearses(config):
        return config.attack
    plan = read_arrays(out / PLAN, ("ids", "labels"), kind="plan", fix="delete it, and the same command makes it anew")
    return Copies(copies=torch.from_numpy(plan["ids"]), labels=torch.from_numpy(plan["labels"]))


def run_offline(config: OfflineConfig, out: Path, *, engine: Engine, report: Progress) -> None:
    """Train all models that ``out`` does not have yet; a run that was cut off goes on by the same call.

    Args:
        config: All settings.
        out: The directory.
        engine: What makes them.
        report: Told (models done, models in all, the last one).

    Raises:
        InputError: ``out`` belongs to other settings, there are too few samples, or a model diverged.
    """
    data, _ = open_data(config.data, torch.device("cpu"))
    if RunDirectory.holds_run(out):
        check_contents(out, data.name, read_json(out / ENV).get("data"), data.fingerprint())
    division = divide(data, config.shadows, config.run.seed)  # too few samples are said before anything is trained
    if _rehearses(config) and not (out / PLAN).exists():
        members, _ = members_of(division, config.shadows, "shadows", 0, derive(config.run.seed, "rehearsal"))
        burnin = Burnin.prepare(config, members, name="the rehearsal", candidates=division.audited)
        burnin.begin()
        plan = burnin.attack
        assert isinstance(plan, Targeted)
        write_arrays(out / PLAN, {"ids": plan.own_ids.numpy(), "labels": plan.own_y.numpy()})
    models = config.shadows.models()
    tasks = {model_name(*model): (train_model, (config, out, *model)) for model in models}
    make_models(out, plain(config), {**environment(), "data": data.fingerprint()}, tasks, engine, report)
    threat = burnin_threat(config, asked=True)
    assert threat is not None
    write_json(out / THREAT, threat.as_dict())
