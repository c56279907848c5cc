"""The loop with attackers who relabel samples and add some of their own."""

from dataclasses import dataclass, field, replace
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F

from accupoison.attacks import ATTACKS, Attack
from accupoison.attacks.planned import PlannedAttack
from accupoison.attacks.twins import twins_of
from accupoison.config.schema import rows_apart
from accupoison.data import crop_flip
from accupoison.data.fabricated import FIRST_FABRICATED, fabricated_id, source_ids
from accupoison.defenses import DEFENSES, Defense
from accupoison.errors import ComponentError
from accupoison.loop.twins import beside_twins
from accupoison.records.ledger import Ledger
from accupoison.rng import generator
from accupoison.testing.bench import Bench, BenchContext, same
from accupoison.types import Batch, Context, ModelView, Verdict
from tests.messages import refuses
from tests.simulations import CRAFTING, ROWS, SMALL, any_attack, data, outcome, run, simulation

PLANNED = [name for name in ATTACKS.names() if name not in CRAFTING]


@pytest.mark.parametrize("name", PLANNED)
def test_neutral_settings_are_a_clean_stream_bit_for_bit(name: str) -> None:
    cls = ATTACKS.get(name)
    neutral = ATTACKS.build(name, {**SMALL[name], **cls.neutral})  # type: ignore[attr-defined]
    clean = run("none", triggers=("clean",))
    for a, b in zip(run(neutral, triggers=("clean",)), clean, strict=True):
        assert all(same(getattr(a, part), getattr(b, part)) for part in ("clean", "sent", "passed", "seen"))
        assert a.metrics["optim/update_norm"] == b.metrics["optim/update_norm"]
        assert a.metrics["attack/poisoned_rows"] == 0


def test_own_rows_come_last_with_crops_of_their_own() -> None:
    attack = ATTACKS.build("targeted", {"count": 8, "copies": 2})
    plain = run("none", triggers=("clean",))
    added = 0
    for step, clean in zip(run(attack, triggers=("clean",)), plain, strict=True):
        own = step.sent.rows(slice(ROWS, None))
        added += len(own)
        assert same(step.clean, clean.clean)  # the crops of the stream's own rows do not depend on who is added
        assert torch.equal(step.sent.x[:ROWS], step.clean.x)
        assert step.metrics.get("attack/poisoned_rows", 0) == len(own)
        if len(own):
            raw = data().batch(source_ids(own.ids)).x
            expected = crop_flip(raw, rng=generator(0, "augment", step.t, "own"), flip=True)
            assert torch.equal(own.x, expected)
            assert bool((own.y != data().labels(source_ids(own.ids))).all())
    assert added == 16


def test_the_ledger_says_who_was_poisoned_where_and_with_which_label() -> None:
    ledger, labels = Ledger(), data().labels
    for step in run(ATTACKS.build("dirty-label", SMALL["dirty-label"]), triggers=("clean",)):
        ledger.add(step)
    rows = ledger.rows
    wrong = rows["label"] != labels(torch.from_numpy(rows["id"].copy())).numpy()
    assert int(wrong.sum()) == round(0.3 * 3 * ROWS)
    assert bool((rows["changed"] == wrong).all())
    assert bool(rows["offered"].all())
    assert set(rows["step"][wrong].tolist()) <= {0, 1, 2}
    ledger = Ledger()
    for step in run(any_attack("targeted"), triggers=("clean",)):
        ledger.add(step)
    own = ledger.rows["id"] < 0
    assert int(own.sum()) == 16
    assert bool((ledger.rows["changed"] == own).all())
    assert bool((ledger.rows["offered"] == ~own).all())
    assert bool(ledger.rows["used"].all())
    assert set(ledger.learnt("clean")) == set(ledger.rows["id"][~own].tolist())


@dataclass(kw_only=True)
class Watcher(Defense):
    ids: list[int] = field(default_factory=list, init=False)

    def intercept(self, view: ModelView, batch: Batch, ctx: Context) -> Batch:
        self.ids += batch.ids.tolist()
        return batch


def test_a_defence_cannot_tell_added_rows_by_their_ids() -> None:
    watcher = Watcher()
    simulated = simulation(ATTACKS.build("targeted", {"count": 8, "copies": 2}), watcher, ("clean",))
    steps = list(simulated.run())
    true = torch.cat([step.sent.ids for step in steps])
    shown = torch.tensor(watcher.ids)
    assert bool((shown >= 0).all())
    assert len(set(shown.tolist())) == len(set(true.tolist()))
    names = dict(zip(true.tolist(), shown.tolist(), strict=True))
    own = [name for i, name in names.items() if i < 0]
    others = [name for i, name in names.items() if i >= 0]
    assert min(others) < max(own)
    assert min(own) < max(others)
    assert not any(a.bit_length() < 40 for a in (*own, *others))  # all look alike


def test_twins_are_learnt_after_the_defence() -> None:
    images = data()
    for step in run("code", "FREEZE", triggers=("clean",)):
        assert len(step.seen) == 0  # nothing was passed on to make twins of
    for step in run(ATTACKS.build("code", {}), "DSC", triggers=("none",), recovery_steps=0):
        assert len(step.sent) == len(step.passed) == ROWS
        assert torch.equal(step.seen.x[:ROWS], step.passed.x)
        assert torch.equal(source_ids(step.seen.ids[ROWS:]), step.clean.ids)
        assert torch.equal(step.seen.x[ROWS:], twins_of(images.batch(step.clean.ids).x, mean=0.5, std=0.1))
        assert torch.equal(step.seen.y[ROWS:], step.clean.y)
        assert step.metrics["attack/poisoned_rows"] == ROWS
        assert step.verdict is Verdict.COMMIT


def test_how_well_wrong_labels_are_found_is_measured() -> None:
    nll = DEFENSES.build("NLL-STATIC", {"min_samples": 6, "window": 18, "min_separation": 0.0, "mixture": "margin"})
    steps = run(ATTACKS.build("dirty-label", SMALL["dirty-label"]), nll, triggers=("clean",), steps=6)
    aucs = [step.metrics["defense/noisy_auc"] for step in steps if "defense/noisy_auc" in step.metrics]
    assert len(aucs) >= 3
    assert all(0 <= auc <= 1 for auc in aucs)
    for step in steps:
        noise, wrong = step.passed.extra["noise"], step.sent.y != step.clean.y
        if wrong.any() and not wrong.all():
            wins = (noise[wrong][:, None] > noise[~wrong]).float() + (
                noise[wrong][:, None] == noise[~wrong]
            ).float() / 2
            assert step.metrics["defense/noisy_auc"] == pytest.approx(float(wins.mean()))


@dataclass(kw_only=True)
class Rogue(Attack):
    keeps_ids: ClassVar[bool] = False
    how: str = ""

    def poison(self, view: ModelView, batch: Batch, ctx: Context) -> Batch:
        match self.how:
            case "drops":
                return batch.rows(slice(1, None))
            case "moves":
                return batch.rows(torch.arange(len(batch)).flip(0))
            case "borrows":
                return Batch.concat([batch, batch.rows(slice(0, 1))])
        own = replace(batch.rows(slice(0, 1)), ids=fabricated_id("own", batch.ids[:1]))
        return Batch.concat([batch, own])


@pytest.mark.parametrize(
    ("how", "words"), [("drops", "[5, 3, 8, 8]"), ("moves", "order"), ("borrows", "fabricated_id")]
)
def test_an_attack_leaves_the_rows_of_others_in_their_place(how: str, words: str) -> None:
    with refuses(f"Rogue {words}", ComponentError):
        next(simulation(Rogue(how=how), triggers=("clean",)).run())
    step = next(simulation(Rogue(), triggers=("clean",)).run())
    assert len(step.sent) == ROWS + 1
    assert int(step.sent.ids[-1]) <= -FIRST_FABRICATED


def test_a_plan_is_the_same_whatever_the_run() -> None:
    plans = []
    for seed, defense in ((0, "ST"), (1, "DSC")):
        simulated = simulation(any_attack("dirty-label"), defense, ("clean",))
        other = simulation("none", seed=seed, triggers=("clean",))
        simulated.seed, simulated.learner = seed, other.learner
        next(simulated.run())
        assert isinstance(simulated.attack, PlannedAttack)
        plans.append([simulated.attack.changed_ids, simulated.attack.changed_y])
    assert same(*plans)


def test_resuming_needs_no_plan_anew() -> None:
    whole = [outcome(step) for step in simulation("clean-label", triggers=("clean",)).run()]
    first = simulation("clean-label", triggers=("clean",))
    next(first.run())
    again = simulation("clean-label", triggers=("clean",))
    again.attack.joining = None  # would fail if it were called
    again.restore(first.state())
    assert same([outcome(step) for step in again.run()], whole[1:])


def test_twins_keep_out_of_the_losses_of_a_mixing_defence() -> None:
    bench = Bench.make()
    defense = DEFENSES.build("MIXUP", {"alpha": 1.0})
    passed = defense.intercept(bench.learner.view(), bench.batches[0], BenchContext("defense", 0))
    twins = replace(bench.batches[1], ids=fabricated_id("twin", bench.batches[1].ids))
    blank = {name: torch.cat([value, torch.zeros_like(value)]) for name, value in passed.extra.items()}
    seen = replace(Batch.concat([passed, twins]), extra=blank)
    both = beside_twins(defense, passed, seen)
    logits = bench.learner.view().logits(seen.x, train=True)  # one pass, whose statistics are of all rows
    lam, partner_y = passed.extra["lambda"], passed.extra["partner_y"]
    of_rows = [F.cross_entropy(logits[: len(passed)], y, reduction="none") for y in (passed.y, partner_y)]
    of_twins = F.cross_entropy(logits[len(passed) :], twins.y, reduction="none")
    expected = [lam * of_rows[0] + (1 - lam) * of_rows[1], of_twins]
    with bench.learner.forward() as forward:
        torch.testing.assert_close(both.losses(forward, seen), torch.cat(expected))
    assert beside_twins(defense, passed, passed) is defense


def test_no_epsilon_where_a_sample_has_a_say_in_other_rows() -> None:
    assert rows_apart(Defense(), ATTACKS.build("dirty-label", {}))
    assert not rows_apart(Defense(), ATTACKS.build("code", {}))
    assert not rows_apart(DEFENSES.build("MIXUP", {}), ATTACKS.build("none", {}))


def test_one_class_has_no_other_label() -> None:
    simulated = simulation("dirty-label", triggers=("clean",))
    assert simulated.population is not None
    alone = replace(simulated.population, num_classes=1)
    simulated.access = replace(simulated.access, population=alone)
    with refuses("dirty-label one class"):
        next(simulated.run())
