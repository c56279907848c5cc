"""Worlds: replays of a run in which other samples stand in for those of the stream, as shadows for its audit."""

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from accupoison.attacks import Attack
from accupoison.audit.attack_suite import Attacker, Outcome, World, collect, exposure_of, facts, read_world
from accupoison.audit.offline.shadow_models import MOST, share_of_ceiling
from accupoison.audit.online.pairs import Pairs, pair
from accupoison.audit.online.run import config_of, finished
from accupoison.audit.signals import check_queries, signals
from accupoison.config.layers import plain
from accupoison.config.renamed import with_new_names
from accupoison.config.schema import OnlineConfig, burnin_config
from accupoison.data import DataSet
from accupoison.errors import InputError, did_you_mean
from accupoison.gradients import project_linf
from accupoison.loop.schedule import CRAFTED
from accupoison.records.arrays import write_arrays
from accupoison.records.files import read_json
from accupoison.records.run_directory import CONFIG, WORLDS, RunDirectory, environment
from accupoison.rng import derive
from accupoison.runs.base_model import open_data
from accupoison.runs.build import Built, build_simulation, find_checkpoint
from accupoison.runs.burnin import FINAL, run_burnin
from accupoison.runs.online import input_digests
from accupoison.runs.replay import check_batch, load_batch
from accupoison.runs.workers import carry_out
from accupoison.types import Batch, Context, ModelView, Verdict

POISONS, BURNINS = ("per-world", "transfer"), ("shared", "own")
LEAST = 8
"""Worlds that every attack can do with: each is attacked by the other pairs, and those calibrate on each other."""


@dataclass(frozen=True, kw_only=True)
class WorldSettings:
    """How the worlds are made.

    Attributes:
        count: Worlds, an even number: they come in complementary pairs.
        poison: "per-world": the attacker crafts anew in each. "transfer": it adds the perturbations that the run has
            sent (``evaluate.save_batches``) to whoever stands in each place.
        burnin: "shared": all worlds start from the run's base model, so the auditor knows the weights before the
            stream. "own": each makes a base model of its own by the same recipe.
        queries: What is asked about each sample; see :data:`accupoison.audit.signals.QUERIES`.
    """

    count: int = 16
    poison: str = "per-world"
    burnin: str = "shared"
    queries: tuple[str, ...] = ("plain", "flip")

    def __post_init__(self) -> None:
        if self.count < LEAST or self.count % 2:
            raise InputError(f"{self.count} worlds: give an even number of at least {LEAST}, as they come in pairs")
        if self.count > MOST:
            raise InputError(f"{self.count} worlds are more than {MOST}; give a smaller number")
        for name, value, known in (("poison", self.poison, POISONS), ("burn-in", self.burnin, BURNINS)):
            if value not in known:
                raise InputError(f"unknown {name} of worlds {value!r}{did_you_mean(value, known)}")
        check_queries(self.queries)


@dataclass(kw_only=True)
class Transfer(Attack):
    """Add the perturbations that another run has sent to whoever stands in each place.

    Attributes:
        source: The directory of that run.
        data: Its samples.
        eps: Its radius in pixels; None had none.
    """

    source: Path
    data: DataSet
    eps: float | None

    def budget(self, *, trigger: bool) -> float | None:
        """Return ``eps``; the trigger, sent as it was, was held to its own."""
        return None if trigger else self.eps

    def poison(self, view: ModelView, batch: Batch, ctx: Context) -> Batch:
        """Return the batch with the perturbations of this step."""
        sent = load_batch(self.source, ctx.t)
        moved = sent["x"].to(batch.x.device) - self.data.batch(sent["clean_ids"]).x
        return batch.with_x(project_linf(batch.x + moved, batch.x, 1.0 if self.eps is None else self.eps))

    def trigger(self, view: ModelView, clean: Batch, ctx: Context) -> Batch:
        """Return the trigger as it was sent: its samples are the same in all worlds."""
        return clean.with_x(load_batch(self.source, None)["x"].to(clean.x.device))


def target_config(run: Path) -> OnlineConfig:
    """Return the settings of the run that is audited.

    Raises:
        InputError: There is none that worlds could be like.
    """
    config = config_of(run)
    if config.stop.active:
        raise InputError(f"{run} had a stop rule, so worlds would end at different steps; audit a run without")
    if config.stream.replay is not None:
        raise InputError(f"{run} is a replay, whose poison belongs to other samples; audit the run it replays")
    return config


def world_path(out: Path, number: int) -> Path:
    """Return the file with the signals of a world."""
    return out / WORLDS / f"{number:03d}.npz"


@dataclass(frozen=True)
class Task:
    """What it takes to make the worlds of a run.

    Attributes:
        run: The run's directory.
        root: The directory of checkpoints.
        out: Where the worlds are kept.
        settings: How they are made.
    """

    run: Path
    root: Path
    out: Path
    settings: WorldSettings


def make_world(task: Task, number: int) -> str:
    """Replay the run with other samples and write what the model says in the end, unless that is there already."""
    path = world_path(task.out, number)
    if path.exists():
        return path.stem
    started, config = time.perf_counter(), target_config(task.run)
    data, splits = open_data(config.data, torch.device("cpu"))
    pairs = pair(config, data, splits)
    last = replace(config.trigger, types=config.trigger.types[-1:])  # the path that the audited model took
    config = replace(config, trigger=last)
    if task.settings.burnin == "own":
        config = _with_own_burnin(task, config, number)
    swap = pairs.swap(data.size, pairs.coins(config.run.seed, number))
    built = build_simulation(config, task.root, swap=swap, seed=derive(config.run.seed, "worlds", number))
    if task.settings.poison == "transfer":
        built.simulation.attack = Transfer(source=task.run, data=built.data, eps=config.attack.budget(trigger=False))
    learnt: set[int] = set()
    images = 0
    for step in built.simulation.run():
        if step.verdict is Verdict.COMMIT:
            learnt.update(step.seen.ids.tolist())
            images += len(step.seen)
    arrays = _signals(built, pairs, learnt, task.settings)
    took = time.perf_counter() - started
    share = share_of_ceiling(built.simulation.learner, built.data, images / took)
    about = {"seconds": took, "images": images, "share": share, "epsilon": np.inf}
    write_arrays(path, {**arrays, **{name: np.float64(value) for name, value in about.items()}})
    return path.stem


def _signals(built: Built, pairs: Pairs, learnt: Iterable[int], settings: WorldSettings) -> dict[str, NDArray[Any]]:
    view, data = built.simulation.learner.view(), built.data
    if not bool(torch.cat([p.detach().flatten() for p in view.params()]).isfinite().all()):
        raise InputError("a world diverged, so its model says nothing; audit a run that does not")
    phi, probs = signals(view, data, pairs.ids, settings.queries)
    _, population = signals(view, data, built.splits.monitor, ["plain"])
    keep = torch.isin(pairs.ids, torch.tensor(sorted(learnt), dtype=torch.int64)).numpy()
    return {"phi": phi, "probs": probs, "population": population, "keep": keep}


def _with_own_burnin(task: Task, config: OnlineConfig, number: int) -> OnlineConfig:
    """Return the settings with a base model of this world's own, made by the recipe of the run's."""
    recipe = find_checkpoint(config, task.root)[0].parent / CONFIG
    if not recipe.exists():
        raise InputError(f"there is no {recipe}, so the base model cannot be made again; use the shared burn-in")
    seed = derive(config.run.seed, "burn-in", number)
    made = burnin_config([read_json(recipe), {"run": {"seed": seed}}])
    place = task.out / "burnins" / f"{number:03d}"
    if not (place / FINAL).exists():
        run_burnin(made, place, resume=RunDirectory.holds_run(place), progress=lambda *_: None)
    return replace(config, start=replace(config.start, checkpoint=str(place / FINAL), reference=None))


def run_worlds(task: Task, *, jobs: int, report: Callable[[int, int, str], None]) -> None:
    """Make the worlds that ``task.out`` does not have yet; what was cut off goes on by the same call.

    Args:
        task: What to do.
        jobs: Processes at once.
        report: Told (worlds done, worlds in all, the last one).

    Raises:
        InputError: The run cannot be audited so, or ``task.out`` has worlds of another run, or of other settings.
    """
    config = target_config(task.run)
    data, splits = open_data(config.data, torch.device("cpu"))
    pair(config, data, splits)
    if not len(splits.monitor):
        raise InputError("the monitor split is empty and it is the population of the attacks; audit a run that has one")
    if task.settings.poison == "transfer":
        _check_transfer(task.run, config, data)
    settings = {**plain(config), "worlds": {"inputs": input_digests(config, task.root, data), **asdict(task.settings)}}
    out = task.out
    with RunDirectory.resume_or_create(out, settings, environment(), with_new_names):
        left = [number for number in range(task.settings.count) if not world_path(out, number).exists()]
        tasks = [(make_world, (task, number)) for number in left]
        for done, name in enumerate(carry_out(tasks, jobs), start=1):
            report(done, len(left), name)


def _check_transfer(run: Path, config: OnlineConfig, data: DataSet) -> None:
    if config.stream.augment == "before":
        raise InputError(
            f"{run} was cropped before the attack, so its perturbations fit its own samples; use per-world"
        )
    if config.attack.in_code:
        raise InputError(f"the poison of {run} was put in by the training code and never sent; use per-world")
    for t in range(config.stream.steps):
        check_batch(run, t, data)
    if CRAFTED.intersection(config.trigger.types[-1:]):
        check_batch(run, None, data)


def audit_worlds(task: Task) -> tuple[list[Outcome], list[Outcome], dict[str, Any]]:
    """Attack every world with all other pairs, and the run itself with all of them.

    Returns:
        Outcomes over worlds, those of the run alone, and facts about the worlds.

    Raises:
        InputError: A world is missing, damaged or of another size, or the run has not ended.
    """
    config = target_config(task.run)
    data, splits = open_data(config.data, torch.device("cpu"))
    pairs = pair(config, data, splits)
    labels, others = (data.labels(ids).numpy() for ids in (pairs.ids, splits.monitor))
    worlds = [
        read_world(world_path(task.out, i), len(labels), others, group=i // 2) for i in range(task.settings.count)
    ]
    found = [Attacker(world.apart(worlds), labels).attack(world) for world in worlds]
    alone = Attacker(worlds, labels).attack(_target(task, config, pairs, others))
    about = {**facts(worlds, worlds, labels), **exposure_of(worlds, pairs.ids.numpy(), labels)}
    del about["epsilon"]  # worlds do not account for it; the run's own is in its summary
    return collect(found), collect([alone]), {**about, "pairs": len(pairs.inside)}


def _target(task: Task, config: OnlineConfig, pairs: Pairs, population_labels: NDArray[np.int64]) -> World:
    built, ledger, _ = finished(task.run, config, task.root)
    learnt = ledger.learnt(config.trigger.types[-1])
    found = _signals(built, pairs, learnt, task.settings)
    rows = np.arange(len(population_labels))
    probs, population = (found[name].astype(np.float64) for name in ("probs", "population"))
    probs /= probs.sum(axis=1, keepdims=True)
    told = np.clip(population[rows, population_labels], 0, 1)
    return World(found["phi"].astype(np.float64), probs, found["keep"], told, 1.0, 0.0, 0.0, np.inf)
