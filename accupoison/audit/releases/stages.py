"""The four stages of a study of releases: user models, defences, shadow models, attacks. Each task leaves one file."""

import resource
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from accupoison.audit.releases.attackers import Attackers, figures
from accupoison.audit.releases.rows import answers, fit, rows_of
from accupoison.audit.releases.settings import ReleasesConfig, divide
from accupoison.audit.samples import Samples, change
from accupoison.config.layers import plain
from accupoison.config.renamed import with_new_names
from accupoison.config.schema import BurninConfig, at_home
from accupoison.data import DataSet
from accupoison.errors import InputError, check_choice
from accupoison.measure.dp_accountant import epsilon_of
from accupoison.models.view import view_of
from accupoison.records import checkpoint
from accupoison.records.files import read_json, write_json
from accupoison.records.run_directory import ENV, STAGES, RunDirectory, check_contents, environment
from accupoison.release.base import ask
from accupoison.rng import derive
from accupoison.runs.base_model import BaseModel, open_data
from accupoison.runs.burnin import Progress
from accupoison.runs.engines import Local, results
from accupoison.runs.trainer import Burnin
from accupoison.runs.workers import Task
from accupoison.types import Batch, ModelView, State
from accupoison.updates import DPSGD, SGD

NAMES = ("user", "defense", "shadow", "attack")
"""The stages, in their order."""
STATES = "release-states"


@dataclass(frozen=True, eq=False)
class Replicate:
    """One replicate of a study, and where its files are.

    Attributes:
        config: All settings.
        out: The directory of the study.
        number: Of the replicate, from 0.
    """

    config: ReleasesConfig
    out: Path
    number: int

    @property
    def seed(self) -> int:
        """Of all randomness of this replicate."""
        return derive(self.config.run.seed, "replicate", self.number)

    def path(self, what: str, noise: float | None = None) -> Path:
        """Return the file of a stage's result; ``noise`` is the multiplier of a model trained with DP-SGD."""
        private = "" if noise is None else f"-dpsgd-{noise:g}"
        return self.out / STAGES / f"{what}-{self.number:03d}{private}{'.json' if what == 'attack' else '.pt'}"

    def needs(self, what: str, noise: float | None = None) -> Path:
        """Return the file of an earlier stage.

        Raises:
            InputError: That stage is not done.
        """
        path = self.path(what, noise)
        if not path.exists():
            stage = "shadow" if what == "attacker" else what
            raise InputError(f"there is no {path} yet; first run the stage {stage}, or all stages without --stage")
        return path

    def data(self) -> tuple[DataSet, dict[str, Tensor]]:
        """Return the data set on the device, and the ids of this replicate's parts, int64 [N]."""
        data, _ = open_data(self.config.data, self.config.run.compute())
        return data, divide(data, self.config.parts, self.seed)

    def view(self, what: str, noise: float | None = None) -> ModelView:
        """Return the model of the user or the shadow, "user" or "shadow"."""
        path = self.needs(what, noise)
        model = BaseModel.load(path).build(path, self.config.run.compute())
        return view_of(model, self.config.run.kernels)

    def states(self, what: str) -> dict[str, State]:
        """Return the fitted releases of the user ("defense") or of the attacker ("attacker").

        Raises:
            InputError: The file is missing or damaged.
        """
        path = self.needs(what)
        found = checkpoint.load(path, STATES)
        with checkpoint.reading_payload(path):
            return {row.fitted_as: found[row.fitted_as] for row in rows_of(self.config.study)}


def training(config: ReleasesConfig, seed: int, noise: float | None) -> BurninConfig:
    """Return how a model is trained.

    Args:
        config: All settings.
        seed: Of the model.
        noise: Multiplier of DP-SGD's noise; None for ordinary training.
    """
    model, train, p = config.model, config.train, config.private
    update = SGD()
    if noise is not None:
        update = DPSGD(noise_multiplier=noise, max_grad_norm=p.max_grad_norm, delta=p.delta)
        model = replace(model, name=p.model or model.name, width=p.width or model.width, norm=p.norm or model.norm)
        own = {"epochs": p.epochs, "batch_size": p.batch_size, "lr": p.lr, "momentum": p.momentum, "last_epochs": 0}
        train = replace(train, **own, schedule="constant", milestones=(), early=None)  # type: ignore[arg-type]
    run = replace(config.run, seed=seed)
    return BurninConfig(data=config.data, model=model, train=train, update=update, run=run)


def train_model(replicate: Replicate, what: str, noise: float | None) -> str:
    """Train the user's model or the shadow, and save it.

    Args:
        replicate: Which replicate.
        what: "user" or "shadow".
        noise: Multiplier of DP-SGD's noise; None for ordinary training.
    """
    path = replicate.path(what, noise)
    settings = training(replicate.config, derive(replicate.seed, what), noise)
    _, parts = replicate.data()
    members = parts["members" if what == "user" else "shadow_members"]
    burnin = Burnin.prepare(settings, members, name=path.stem)
    burnin.train()
    burnin.base_model().save(path)
    return path.stem


def fit_releases(replicate: Replicate, what: str) -> str:
    """Fit all releases: "defense", by the user to the user's model; "attacker", by the attacker to the shadow."""
    path = replicate.path(what)
    model, inside, outside = {
        "defense": ("user", "members", "defense_nonmembers"),
        "attacker": ("shadow", "shadow_members", "shadow_nonmembers"),
    }[what]
    view, (data, parts) = replicate.view(model), replicate.data()
    members, others = (data.batch(parts[name]) for name in (inside, outside))
    states = fit(rows_of(replicate.config.study), view, members, others, derive(replicate.seed, what))
    checkpoint.save(path, STATES, states)
    return path.stem


def attack(replicate: Replicate) -> str:
    """Ask the models through every release, attack the answers, and write what is achieved."""
    path, config = replicate.path("attack"), replicate.config
    data, parts = replicate.data()
    asked = _Asked.of(data, parts["members"], parts["nonmembers"])
    own = _Asked.of(data, parts["shadow_members"], parts["shadow_nonmembers"])
    rows = rows_of(config.study)
    fitted, shadow_view = replicate.states("defense"), replicate.view("shadow")
    released = answers(rows, fitted, replicate.view("user"), asked.batch)
    known = answers(rows, replicate.states("attacker"), shadow_view, own.batch)
    learning = [row for row in rows if row.release.requires]
    informed = {row.name: own.samples(probs) for row, probs, _ in answers(learning, fitted, shadow_view, own.batch)}
    attackers: Attackers | None = None
    results: list[dict[str, Any]] = []
    for (row, probs, seconds), (_, shadow_probs, _) in zip(released, known, strict=True):
        target, shadow = asked.samples(probs), own.samples(shadow_probs)
        if attackers is None:  # the first row is the undefended one
            undefended = target
            attackers = Attackers(shadow, config.neural, derive(replicate.seed, "attack"))
        facts = {"name": row.name, "family": row.family, "budget": row.budget, "keeps_label": row.release.keeps_label}
        facts |= {"seconds_per_query": seconds, **change(target, undefended), **_accuracies(target)}
        results.append({**facts, "attackers": figures(attackers.attack(target, shadow, informed.get(row.name)))})
    assert attackers is not None
    for noise in config.private.noise_multipliers:
        views = replicate.view("user", noise), replicate.view("shadow", noise)
        target, shadow = (
            side.samples(ask(view, side.batch.x).softmax(dim=1).numpy())
            for view, side in zip(views, (asked, own), strict=True)
        )
        epsilon = epsilon_of(config.private.epochs, noise, config.private.delta)
        facts = {"name": f"dpsgd:{noise:g}", "family": "dpsgd", "epsilon": epsilon, **_accuracies(target)}
        results.append({**facts, "attackers": figures(attackers.attack(target, shadow))})
    write_json(path, {"rows": results, "peak_megabytes": _peak()})
    return path.stem


@dataclass(frozen=True, eq=False)
class _Asked:
    """Whom a model is asked about: first those that it was trained on."""

    batch: Batch
    members: int

    @classmethod
    def of(cls, data: DataSet, members: Tensor, others: Tensor) -> "_Asked":
        return cls(data.batch(torch.cat([members, others])), len(members))

    def samples(self, probs: NDArray[np.float64]) -> Samples:
        y, ids = self.batch.y.cpu().numpy(), self.batch.ids.cpu().numpy()
        return Samples(probs, y, np.arange(len(y)) < self.members, ids)


def _accuracies(target: Samples) -> dict[str, float]:
    hit = target.probs.argmax(axis=1) == target.labels
    return {"train_accuracy": float(hit[target.member].mean()), "test_accuracy": float(hit[~target.member].mean())}


def _peak() -> float:
    """Return the largest memory that this process has had, in megabytes."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**20 if sys.platform == "darwin" else 2**10)


def left(replicate: Replicate, stage: str) -> list[Task]:
    """Return the tasks of a stage whose files are not there yet; later ones may need earlier ones."""
    noises = (None, *replicate.config.private.noise_multipliers)

    def trained(what: str) -> list[tuple[Path, Task]]:
        return [(replicate.path(what, noise), (train_model, (replicate, what, noise))) for noise in noises]

    def fitted(what: str) -> tuple[Path, Task]:
        return replicate.path(what), (fit_releases, (replicate, what))

    stages: dict[str, Callable[[], list[tuple[Path, Task]]]] = {
        "user": lambda: trained("user"),
        "defense": lambda: [fitted("defense")],
        "shadow": lambda: [*trained("shadow"), fitted("attacker")],
        "attack": lambda: [(replicate.path("attack"), (attack, (replicate,)))],
    }
    return [task for file, task in stages[stage]() if not file.exists()]


def _in_turn(tasks: list[Task]) -> str:
    """Carry out the tasks of one replicate, which need each other."""
    return [task(*arguments) for task, arguments in tasks][-1]


def run_study(config: ReleasesConfig, out: Path, *, stage: str | None, jobs: int, report: Progress) -> None:
    """Do what ``out`` does not have yet; a study that was cut off goes on by the same call.

    Args:
        config: All settings.
        out: The directory, new or of the same study.
        stage: Of ``NAMES``, that one alone; None does all.
        jobs: Processes at once, one replicate each.
        report: Told (stages of replicates done, those to do in all, the last file).

    Raises:
        InputError: ``out`` belongs to other settings or data, a setting does not fit, an earlier stage is missing, or a
            model diverged.
    """
    if stage is not None:
        check_choice("stage", stage, NAMES)
    data, _ = open_data(config.data, torch.device("cpu"))
    rows_of(config.study)  # what does not fit is said before anything is trained
    divide(data, config.parts, 0)
    if RunDirectory.holds_run(out):
        check_contents(out, data.name, read_json(out / ENV).get("data"), data.fingerprint())
    env = {**environment(), "data": data.fingerprint()}
    with RunDirectory.resume_or_create(out, at_home(plain(config), out), env, with_new_names):
        replicates = [Replicate(config, out, number) for number in range(config.study.seeds)]
        stages = {
            name: [tasks for replicate in replicates if (tasks := left(replicate, name))]
            for name in (NAMES if stage is None else (stage,))
        }
        done, total = 0, sum(map(len, stages.values()))
        for name, everything in stages.items():
            for last in results(Local(jobs), [(_in_turn, (tasks,)) for tasks in everything]):
                done += 1
                report(done, total, f"{name}: {last}")
