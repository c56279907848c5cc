"""Shadow replays: a run again with other samples in the places of its stream, as shadow models for its audit."""

import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from accupoison.attacks import Attack
from accupoison.audit.attack_suite import ShadowAttacks, model_facts
from accupoison.audit.focus import focus, untouched
from accupoison.audit.offline.shadow_models import MAX_MODELS
from accupoison.audit.online.pairs import Pairs, pair
from accupoison.audit.online.run import config_of, finished
from accupoison.audit.results import Results
from accupoison.audit.signals import (
    Audited,
    ModelSignals,
    ask,
    check_queries,
    make_models,
    read_signals,
    signals_path,
    write_signals,
)
from accupoison.config.layers import plain
from accupoison.config.schema import OnlineConfig, burnin_config
from accupoison.data import DataSet, Splits
from accupoison.errors import InputError, check_choice
from accupoison.gradients import project_linf
from accupoison.loop.schedule import CRAFTED
from accupoison.records.files import read_json
from accupoison.records.run_directory import CONFIG, RunDirectory, environment
from accupoison.rng import derive
from accupoison.runs.base_model import open_data
from accupoison.runs.build import Built, build_simulation, find_checkpoint
from accupoison.runs.burnin import FINAL, Progress, run_burnin
from accupoison.runs.engines import Engine
from accupoison.runs.inputs import input_digests
from accupoison.runs.replay import check_batch, load_batch
from accupoison.types import Batch, Context, ModelView, Verdict

POISONS = ("per-replay", "transfer")
BURNINS = ("shared", "own")
MINIMUM = 8
"""Replays that every attack can do with: each is attacked by the other pairs, and those calibrate on each other."""


@dataclass(frozen=True, kw_only=True)
class ReplaySettings:
    """How the shadow replays are made.

    Attributes:
        count: Replays, an even number: they come in complementary pairs.
        poison: "per-replay": the attacker crafts anew in each. "transfer": it adds the perturbations that the run has
            sent (``evaluate.save_batches``) to whoever stands in each place.
        burnin: "shared": all replays start from the run's base model, so the auditor knows the weights before the
            stream. "own": each makes a base model of its own by the same recipe.
        queries: What is asked about each sample; see :data:`accupoison.audit.signals.QUERIES`.

    Raises:
        InputError: The number is odd, too small or too large, or a word is unknown.
    """

    count: int = 16
    poison: str = "per-replay"
    burnin: str = "shared"
    queries: tuple[str, ...] = ("plain", "flip")

    def __post_init__(self) -> None:
        if self.count < MINIMUM or self.count % 2:
            raise InputError(f"{self.count} replays: give an even number of at least {MINIMUM}, as they come in pairs")
        if self.count > MAX_MODELS:
            raise InputError(f"{self.count} replays are more than {MAX_MODELS}; give a smaller number")
        for name, value, known in (("poison", self.poison, POISONS), ("burn-in", self.burnin, BURNINS)):
            check_choice(f"{name} of replays", value, known)
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
        """Return the trigger as it was sent: its samples are the same in all replays."""
        return clean.with_x(load_batch(self.source, None)["x"].to(clean.x.device))


@dataclass(frozen=True)
class ReplayAudit:
    """What it takes to audit a run by shadow replays.

    Attributes:
        run: The run's directory.
        root: The directory of checkpoints.
        out: The directory of the audit.
        settings: How the replays are made.
    """

    run: Path
    root: Path
    out: Path
    settings: ReplaySettings

    def opened(self) -> tuple[OnlineConfig, DataSet, Splits, Pairs]:
        """Return the run's settings, its data and the pairs that the replays exchange.

        Raises:
            InputError: The run cannot be audited so.
        """
        config = config_of(self.run)
        if config.stop.active:
            raise InputError(f"{self.run} had a stop rule, so its replays would end at different steps; audit another")
        if config.stream.replay is not None:
            raise InputError(f"{self.run} is a replay, whose poison belongs to other samples; audit the run it replays")
        data, splits = open_data(config.data, torch.device("cpu"))
        return config, data, splits, pair(config, data, splits)


def make_replay(audit: ReplayAudit, number: int) -> str:
    """Replay the run with other samples and write the signals of its last model.

    Args:
        audit: The audit.
        number: Of the replay, from 0; replays 2k and 2k + 1 are complementary.

    Returns:
        The replay's name.

    Raises:
        InputError: It diverged, or something that the run rests on is missing.
    """
    started = time.perf_counter()
    config, data, _, pairs = audit.opened()
    last = replace(config.trigger, types=config.trigger.types[-1:])  # the branch that the audited model took
    config = replace(config, trigger=last)
    if audit.settings.burnin == "own":
        config = _with_own_burnin(audit, config, number)
    swap = pairs.swap(data.size, pairs.assignment(config.run.seed, number))
    # The words that seeds are derived from are those of the first version, so that audits go on as they began.
    built = build_simulation(config, audit.root, swap=swap, seed=derive(config.run.seed, "worlds", number))
    if audit.settings.poison == "transfer":
        built.simulation.attack = Transfer(source=audit.run, data=built.data, eps=config.attack.budget(trigger=False))
    learnt: set[int] = set()
    images = 0
    for step in built.simulation.run():
        if step.verdict is Verdict.COMMIT:
            learnt.update(step.seen.ids.tolist())
            images += len(step.seen)
    arrays = _signals(built, pairs, learnt, audit.settings)
    path = signals_path(audit.out, _name(number))
    write_signals(path, arrays, built.simulation.learner, built.data, started=started, images=images)
    return path.stem


def _name(number: int) -> str:
    return f"{number:03d}"


def _signals(built: Built, pairs: Pairs, learnt: Iterable[int], settings: ReplaySettings) -> dict[str, NDArray[Any]]:
    view = built.simulation.learner.view()
    if not all(bool(p.isfinite().all()) for p in view.params()):
        raise InputError("a replay diverged, so its model says nothing; audit a run that does not")
    audited = Audited(built.data, pairs.ids, built.splits.monitor)
    member = torch.isin(pairs.ids, torch.tensor(sorted(learnt), dtype=torch.int64))
    return ask(view, audited, settings.queries, member)


def _with_own_burnin(audit: ReplayAudit, config: OnlineConfig, number: int) -> OnlineConfig:
    """Return the settings with a base model of this replay's own, made by the recipe of the run's."""
    recipe = find_checkpoint(config, audit.root)[0].parent / CONFIG
    if not recipe.exists():
        raise InputError(f"there is no {recipe}, so the base model cannot be made again; use the shared burn-in")
    seed = derive(config.run.seed, "burn-in", number)
    burnin = burnin_config([read_json(recipe), {"run": {"seed": seed}}])
    folder = audit.out / "burnins" / _name(number)
    if not (folder / FINAL).exists():
        run_burnin(burnin, folder, resume=RunDirectory.holds_run(folder), progress=lambda *_: None)
    return replace(config, start=replace(config.start, checkpoint=str(folder / FINAL), reference=None))


def make_replays(audit: ReplayAudit, *, engine: Engine, report: Progress) -> None:
    """Make the replays that ``audit.out`` does not have yet; what was cut off goes on by the same call.

    Args:
        audit: The audit.
        engine: What makes them.
        report: Told (replays done, replays in all, the last one).

    Raises:
        InputError: The run cannot be audited so, or ``audit.out`` has replays of another run, or of other settings.
    """
    config, data, splits, _ = audit.opened()
    if not len(splits.monitor):
        raise InputError("the monitor split is empty and it is the population of the attacks; audit a run that has one")
    if audit.settings.poison == "transfer":
        _check_transfer(audit.run, config, data)
    own = {"inputs": input_digests(config, audit.root, data), **asdict(audit.settings)}
    section = "shadow_replays"
    if RunDirectory.holds_run(audit.out) and "worlds" in read_json(audit.out / CONFIG):  # of an older version
        section = "worlds"
        own["poison"] = own["poison"].replace("per-replay", "per-world")
    tasks = {_name(i): (make_replay, (audit, i)) for i in range(audit.settings.count)}
    make_models(audit.out, {**plain(config), section: own}, environment(), tasks, engine, report)


def _check_transfer(run: Path, config: OnlineConfig, data: DataSet) -> None:
    if config.stream.augment == "before":
        raise InputError(
            f"{run} was cropped before the attack, so its perturbations fit its own samples; use per-replay"
        )
    if config.attack.in_code:
        raise InputError(f"the poison of {run} was put in by the training code and never sent; use per-replay")
    if config.attack.poisons_rows:
        raise InputError(
            f"the attack {config.attack.name} of {run} moves no pixels, so nothing transfers; use per-replay"
        )
    for t in range(config.stream.steps):
        check_batch(run, t, data)
    if CRAFTED.intersection(config.trigger.types[-1:]):
        check_batch(run, None, data)


def audit_replays(audit: ReplayAudit) -> tuple[dict[str, tuple[list[Results], Results]], dict[str, Any]]:
    """Attack every replay with all other pairs, and the run itself with all of them.

    Args:
        audit: The audit, whose replays :func:`make_replays` has made.

    Returns:
        What the attacks achieve on each replay, and on the run: for all audited samples but the poisoned ones under the
        name "", and for those that the run's attack is after under theirs; and facts about the replays.

    Raises:
        InputError: A replay is missing, damaged or of other samples, or the run has not ended.
    """
    config, data, splits, pairs = audit.opened()
    audited = Audited(data, pairs.ids, splits.monitor)
    replays = [read_signals(audit.out, _name(i), audited, group=i // 2) for i in range(audit.settings.count)]
    built, ledger, _ = finished(audit.run, config, audit.root)
    learnt = ledger.learnt(config.trigger.types[-1])
    run = ModelSignals.of(_signals(built, pairs, learnt, audit.settings), audited)
    attack, saved = built.simulation.attack, built.simulation.attack.state()
    after = {name: ids for name, (ids, _) in focus(attack, saved, data, pairs.ids, pairs.ids).items()}
    found: dict[str, tuple[list[Results], Results]] = {}
    facts: dict[str, Any] = {}
    for name, ids in {"": untouched(saved, pairs.ids), **after}.items():
        rows = torch.isin(pairs.ids, ids).numpy()
        some = [replay.rows(rows) for replay in replays]
        of_replays = [ShadowAttacks(replay.apart(some)).attack(replay) for replay in some]
        found[name] = of_replays, ShadowAttacks(some).attack(run.rows(rows))
        facts = facts or model_facts(some, some)
    return found, {**facts, "pairs": len(pairs.inside)}
