"""Small simulations that the tests of the loop share."""

from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor

from accupoison.attacks import ATTACKS, Attack, PixelAttack
from accupoison.data import DataSet, DataStream, SplitSizes, make_stream, split
from accupoison.defenses import DEFENSES, Defense
from accupoison.learner import Learner
from accupoison.loop.context import StepContext
from accupoison.loop.schedule import Schedule, Triggers
from accupoison.loop.simulation import Simulation
from accupoison.models.view import view_of
from accupoison.types import Batch, Phase, Population, Step, Verdict
from accupoison.updates import SGD
from tests.nets import random_net

ROWS, EPS = 6, 16 / 255
BRANCHES = ("none", "coast", "clean", "adversarial")
SIZES = SplitSizes(burnin=6, stream=60, trigger=12, val=8, trusted=20, monitor=4)


@cache
def data() -> DataSet:
    """Return 120 random images of 8x8 pixels."""
    rng = torch.Generator().manual_seed(5)
    x = torch.randint(256, (120, 3, 8, 8), generator=rng, dtype=torch.uint8)
    y = torch.randint(10, (120,), generator=rng)
    return DataSet("random", x[:110], y[:110], x[110:], y[110:], tuple("abcdefghij"), flip=True)


CRAFTING = [name for name in ATTACKS.names() if issubclass(ATTACKS.get(name), PixelAttack)]
"""Attacks that move pixels, and can make a trigger; the others cannot."""
SMALL: dict[str, dict[str, Any]] = {
    "dirty-label": {"target_class": None, "ratio": 0.3},
    "targeted": {"count": 8, "copies": 2, "rate": 8},
    "clean-label": {"target_class": 3, "ratio": 0.3, "iterations": 2},
    "backdoor": {"ratio": 0.3, "patch": 2},
    "code": {"ratio": 0.7},
}
"""Settings of the others that fit these data."""


def attack_of(name: str, **settings: object) -> PixelAttack:
    """Return an attack that takes two steps."""
    attack = ATTACKS.build(name, {"steps": 2} | settings)
    assert isinstance(attack, PixelAttack)
    return attack


def any_attack(name: str) -> Attack:
    """Return a small attack of any kind."""
    return attack_of(name) if name in CRAFTING else ATTACKS.build(name, SMALL[name])


def defense_of(name: str) -> Defense:
    """Return a defence with few inner steps; DSC corrects the first two batches and leaves the others."""
    settings: dict[str, dict[str, Any]] = {
        "AT": {"steps": 1},
        "TRADES": {"steps": 1},
        "DSC": {"steps": 2, "threshold": 0.0, "slope": 0.015},
        "CLIP": {"max_norm": 0.5},
        "RDUMB": {"every": 2, "drift": 1e-3},
    }
    return DEFENSES.build(name, settings.get(name, {}))


def simulation(
    attack: Attack | str = "accumulative",
    defense: Defense | str = "ST",
    triggers: tuple[str, ...] = ("adversarial",),
    *,
    steps: int = 3,
    recovery_steps: int = 1,
    augment: str = "after",
    quantise: bool = True,
    updates: int = 1,
    kind: str = "iid",
    seed: int = 0,
    device: str = "cpu",
    kernels: str = "auto",
) -> Simulation:
    """Return a simulation on a tiny network with momentum; the same arguments give the same one."""
    images = data().to(device)
    parts = split(images, sizes=SIZES)
    learner = Learner(random_net(0, torch.float32).to(device), lr=0.05, weight_decay=1e-3, kernels=kernels)
    SGD().step(learner, Defense(), images.batch(parts.burnin), StepContext(0, "burnin", 0, {}))
    return Simulation(
        learner=learner,
        stream=make_stream(kind, images, parts, batch_size=ROWS, length=steps + 1 + recovery_steps, seed=seed),
        attack=any_attack(attack) if isinstance(attack, str) else attack,
        defense=defense_of(defense) if isinstance(defense, str) else defense,
        update=SGD(),
        schedule=Schedule(steps=steps, recovery_steps=recovery_steps, augment=augment, quantise=quantise),
        trigger=Triggers(types=triggers, updates=updates),
        reference=view_of(random_net(1, torch.float32).to(device), kernels),
        val=images.batch(parts.val),
        trusted=[images.batch(part) for part in parts.trusted.view(-1, 5)],
        seed=seed,
        flip=images.flip,
        population=population(
            images, make_stream(kind, images, parts, batch_size=ROWS, length=steps, seed=seed), parts.stream
        ),
    )


def population(images: DataSet, stream: DataStream, candidates: Tensor) -> Population:
    """Return whom an attack may poison."""
    return Population(
        steps=tuple(stream.ids(t) for t in range(len(stream))),
        candidates=candidates,
        total=ROWS * len(stream),
        size=images.size,
        num_classes=images.num_classes,
        labels=lambda ids: images.labels(ids).cpu(),
        raw=images.batch,
        model=lambda path: view_of(random_net(1, torch.float32).to(images.device)),
    )


def run(*args: object, **kwargs: object) -> list[Step]:
    """Return all steps of a simulation with these arguments."""
    return list(simulation(*args, **kwargs).run())  # type: ignore[arg-type]


def distance(step: Step) -> float:
    """Return how far the farthest pixel went."""
    return float((step.sent.x - step.clean.x).abs().max())


def timeless(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return what two runs of the same thing must agree on."""
    return {tag: value for tag, value in metrics.items() if not tag.startswith("time/")}


def outcome(step: Step) -> list[object]:
    """Return all of a step that two runs of the same thing must agree on."""
    return [step.t, step.branch, step.phase, step.clean, step.sent, step.seen, timeless(step.metrics), step.verdict]


def weights_and_statistics(learner: Learner) -> dict[str, Tensor]:
    """Return a copy of the model's state dict."""
    model: dict[str, Tensor] = learner.state()["model"]
    return model


def step_of(
    clean: Batch,
    sent: Batch,
    seen: Batch,
    *,
    t: int = 0,
    branch: str = "",
    phase: Phase = Phase.ORDINARY,
    verdict: Verdict = Verdict.COMMIT,
) -> Step:
    """Return a step of these batches, as the loop yields it; the defence has passed on what was learnt."""
    return Step(
        t=t,
        branch=branch,
        phase=phase,
        clean=clean,
        sent=sent,
        passed=seen,
        seen=seen,
        wire=sent,
        metrics={},
        verdict=verdict,
    )
