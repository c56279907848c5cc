"""Every registered attack and defence keeps the public contract, and does something."""

import math
from typing import Any

import pytest

from accupoison.attacks import ATTACKS, Attack, PixelAttack
from accupoison.defenses import DEFENSES, Defense
from accupoison.loop.access import access_for
from accupoison.loop.after_update import Judge, Served
from accupoison.release import RELEASES
from accupoison.release.base import MEMBERS
from accupoison.testing import check_attack, check_defense, check_release
from accupoison.testing.attack import known_defense
from accupoison.testing.bench import Bench, BenchContext, learn, same
from accupoison.testing.release import SHARPER
from accupoison.types import Access, Batch, Verdict
from accupoison.updates import SGD

Settings = dict[str, Any]

ATTACK_SETTINGS: dict[str, list[Settings]] = {
    "none": [{"warm_start_ball": True}],
    "noise": [{"kind": "uniform"}, {"kind": "rademacher", "eps": 0.3}],
    "direct": [{"steps": 2}, {"steps": 1, "max_loss_increase": 0.05}],
    "accumulative": [
        {"objective": "both", "steps": 2, "gamma": 0.5},
        {"objective": "second_order", "steps": 1, "eps": 0.3},
        {"objective": "first_order", "steps": 2},
        {"steps": 2, "warm_start_ball": True},
        {"steps": 1, "ratio": 0.5, "val_size": 3, "bn_mode": "train"},
        {"steps": 1, "ratio": 0.5, "resample_rows": False, "aim": "clean", "round_sign": True},
    ],
    "under-radar": [
        {"steps": 2, "kappa": 100.0},
        {"steps": 1, "kappa": 0.8, "spend": "knapsack"},
    ],
    "statistics": [{"steps": 2}],
    "accumulative-statistics": [{"steps": 2, "ratio": 0.5, "objective": "second_order"}],
    "denial": [{"ratio": 0.5, "steps": 2}],
    "through-dsc": [{"steps": 2, "backward": "smooth", "gamma": 0.5}],
    "unrolled": [{"steps": 2, "kappa": 100.0}],
    "dirty-label": [
        {"target_class": 1, "ratio": 0.1},
        {"target_class": None, "ratio": 0.5},
        {"target_class": 2, "ratio": 0.3, "source": "own", "balance": 0.3, "rate": 2},
    ],
    "targeted": [
        {"count": 5, "copies": 2},
        {"count": 3, "copies": 3, "placement": "before", "target_class": 1, "seed": 1},
        {"count": 6, "copies": 2, "placement": "after", "rate": 6},
        {"count": 6, "copies": 4, "adaptive": True, "confidence": 0.25},
    ],
    "clean-label": [{"ratio": 0.3, "iterations": 3}, {"ratio": 0.1, "iterations": 3, "encoder": "base.pt", "eps": 0.1}],
    "backdoor": [{"ratio": 0.4, "patch": 3}],
    "code": [{}, {"ratio": 0.5, "mean": 0.0}],
}
TRACKED: Settings = {"min_samples": 4, "min_separation": 0.0}  # rows of the bench show no two groups
DEFENSE_SETTINGS: dict[str, list[Settings]] = {
    "AT": [{"steps": 2}, {"steps": 2, "direction": "descend", "eps": 0.01}],
    "TRADES": [{"steps": 2}, {"steps": 0}],
    "CLIP": [{"max_norm": 0.1}, {"max_norm": 0.01, "norm": "linf"}],
    # at 0 every batch is corrected, with a slope some are, and a calibrated threshold is state
    "DSC": [
        {"threshold": 0.0, "steps": 3},
        {"threshold": 0.0, "slope": 0.05, "steps": 2},
        {"steps": 2},
        {"steps": 2, "per_sample": True},
    ],
    "MIXUP": [{}, {"alpha": 1.0}],
    "MEDBN": [{}, {"amount": 0.5}],
    "EMA": [{}, {"decay": 0.5}],
    "RDUMB": [{"every": 1}, {"every": 2}, {"every": None, "drift": 1e-4}],
    "STAT-TRUST": [{}, {"statistics": "frozen"}],
    "TRUST-PROJ": [{"cap": 0.5}, {"cap": math.inf, "buffer": 3}],
    "GATE": [{"z": 0.0}],
    "STACK-CURRENT": [{}, {"statistics": "reestimated", "delta": 0.01, "buffer": 4}],
    "STACK": [{"z": 0.0}, {"statistics": "frozen", "project": False, "delta": math.inf}],
    "NLL-STATIC": [
        {**TRACKED, "reg_term": 1.0},
        {**TRACKED, "target": "soft", "window": 8, "alpha": 0.0},
        {**TRACKED, "mixture": "margin", "max_b": 0.5},
        {**TRACKED, "mixture": "gaussian", "warmup_epochs": 1, "window": 6, "refit": 2},
    ],
    "NLL-DYNAMIC": [
        {**TRACKED, "max_b": 0.9},
        {**TRACKED, "mixture": "gaussian-logits", "window": 9, "warmup_epochs": 1, "dynamic_epochs": 1},
        {**TRACKED, "alpha": 0.0, "reg_term": 0.5},
    ],
}
FITTED: Settings = {"hidden": (16,), "epochs": 10, "lr": 0.1, "max_iterations": 30, "cap": 1.0}
RELEASE_SETTINGS: dict[str, list[Settings]] = {
    "round": [{"digits": 0}, {"digits": 1}, {}],
    "top-k": [{"k": 1}, {"k": 2}],
    "temperature": [{}, {"temperature": 0.01}, {"temperature": 100.0}],
    "memguard": [FITTED, {**FITTED, "budget": 0.05}],
    "defenmi": [FITTED, {**FITTED, "delta": 0.0}, {**FITTED, "epsilon": 100.0, "budget": 0.3}],
}
ATTACK_CASES = [(name, s) for name in ATTACKS.names() for s in ATTACK_SETTINGS.get(name, [{}])]
DEFENSE_CASES = [(name, s) for name in DEFENSES.names() for s in DEFENSE_SETTINGS.get(name, [{}])]
RELEASE_CASES = [(name, s) for name in RELEASES.names() for s in RELEASE_SETTINGS.get(name, [{}])]
STANDARD = "ST"
CRAFTING = [name for name in ATTACKS.names() if issubclass(ATTACKS.get(name), PixelAttack)]
"""Attacks that move pixels, and can make a trigger."""
MOVING = [
    case
    for case in ATTACK_CASES
    if case[0] != "none"
    and case[0] in CRAFTING
    and "max_loss_increase" not in case[1]
    and not {"resample_rows", "spend"} & set(case[1])
]


def access(attack: Attack, bench: Bench, *, crafted: bool) -> Access:
    given = {"val": bench.val, "trigger": bench.trigger, "crafted": crafted, "population": bench.population}
    return access_for(attack, SGD(), known_defense(bench), reoptimise=False, **given)


@pytest.mark.parametrize(("name", "settings"), ATTACK_CASES)
def test_attack_contract(name: str, settings: Settings) -> None:
    check_attack(lambda: ATTACKS.build(name, settings))


@pytest.mark.parametrize(("name", "settings"), DEFENSE_CASES)
def test_defense_contract(name: str, settings: Settings) -> None:
    check_defense(lambda: DEFENSES.build(name, settings))


@pytest.mark.parametrize(("name", "settings"), RELEASE_CASES)
def test_release_contract(name: str, settings: Settings) -> None:
    check_release(lambda: RELEASES.build(name, settings))


@pytest.mark.parametrize(("name", "settings"), [case for case in RELEASE_CASES if case[0] != "identity"])
def test_release_changes_answers(name: str, settings: Settings) -> None:
    bench, release = Bench.make(sharper=SHARPER), RELEASES.build(name, settings)
    queries = Batch.concat(bench.batches)
    half = len(queries) // 2 if MEMBERS in release.requires else 0
    members, others = queries.rows(slice(0, half)), queries.rows(slice(len(queries) - half, len(queries)))
    release.fit(bench.learner.view(), members, others, BenchContext("release", 0))
    found, own = (r(bench.learner.view(), queries.x, queries.ids) for r in (release, RELEASES.build("identity", {})))
    assert float((found - own).abs().sum(1).max()) > 1e-3


@pytest.mark.parametrize(("name", "settings"), MOVING)
def test_attack_moves_images(name: str, settings: Settings) -> None:
    bench, attack = Bench.make(), ATTACKS.build(name, settings)
    attack.setup(bench.learner.view(), access(attack, bench, crafted=False), BenchContext("attack", 0))
    assert isinstance(attack, PixelAttack)
    sent = attack.poison(bench.learner.view(), bench.batches[0], BenchContext("attack", 0))
    distance = (sent.x - bench.batches[0].x).abs()
    assert float(distance.max()) == pytest.approx(attack.eps, rel=0.01)  # the whole budget, somewhere
    assert float((distance > 0).float().mean()) > 0.25


@pytest.mark.parametrize(("name", "settings"), [case for case in ATTACK_CASES if case[0] not in CRAFTING])
def test_attack_of_another_kind_changes_batches(name: str, settings: Settings) -> None:
    bench, attack = Bench.make(), ATTACKS.build(name, settings)
    attack.setup(bench.learner.view(), access(attack, bench, crafted=False), BenchContext("attack", 0))
    changed = [
        not same(attack.poison(bench.learner.view(), batch, BenchContext("attack", t)), batch)
        for t, batch in enumerate(bench.batches)
    ]
    assert sum(changed) >= 2


@pytest.mark.parametrize("name", CRAFTING)
def test_crafted_trigger_uses_its_budget(name: str) -> None:
    bench, attack = Bench.make(), ATTACKS.build(name, {"eps": 0.05, "steps": 2})
    attack.setup(bench.learner.view(), access(attack, bench, crafted=True), BenchContext("attack", 0))
    crafted = attack.trigger(bench.learner.view(), bench.trigger, BenchContext("attack", 3))
    assert float((crafted.x - bench.trigger.x).abs().max()) == pytest.approx(0.05, rel=1e-5)


@pytest.mark.parametrize(("name", "settings"), [case for case in DEFENSE_CASES if case[0] != STANDARD])
def test_defense_differs_from_standard_training(name: str, settings: Settings) -> None:
    ours, plain = Bench.make(), Bench.make()
    defense = DEFENSES.build(name, {**settings, "threshold": 0.0} if name == "DSC" else settings)
    defense.setup(ours.learner.view(), ours.reference, ours.trusted, BenchContext("setup", 0))
    judge, served = Judge(ours.learner, defense), Served(ours.learner, defense)
    for t in range(2):
        before, seen = judge.before(), defense.intercept(ours.learner.view(), ours.batches[t], BenchContext("x", t))
        learn(ours.learner, seen, defense)
        judge.settle(before, Verdict.COMMIT, BenchContext("after", t))
        learn(plain.learner, plain.batches[t])
    assert not same(dict(served.view().state()), dict(plain.learner.view().state()))


@pytest.mark.parametrize("name", DEFENSES.names())
def test_neutral_settings_are_settings(name: str) -> None:
    cls = DEFENSES.get(name)
    if cls.neutral is None:
        assert "neutral" in (cls.__doc__ or "")  # the reason
        return
    assert cls.neutral.keys() <= DEFENSES.settings(name).keys()
    assert name == STANDARD or cls.neutral
    cls(**cls.neutral)


def test_what_needs_no_defence_is_left_alone() -> None:
    """Standard training and a DSC that never fires see exactly what was sent."""
    bench = Bench.make()
    for defense in (Defense(), DEFENSES.build("DSC", {"threshold": math.inf})):
        defense.setup(bench.learner.view(), bench.reference, bench.trusted, BenchContext("setup", 0))
        assert same(
            defense.intercept(bench.learner.view(), bench.batches[0], BenchContext("defense", 0)), bench.batches[0]
        )
