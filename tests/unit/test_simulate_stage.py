"""Poison put in by the training code, poison in fixed places, and several updates on the trigger."""

from typing import Any

import pytest
import torch

from accupoison.records.ledger import Ledger
from accupoison.testing.bench import same
from accupoison.types import Phase, Step
from tests.messages import refuses
from tests.simulations import EPS, attack_of, distance, run, simulation, weights_and_statistics


def moved(step: Step) -> float:
    """Return how far the farthest pixel went after the defence."""
    return float((step.seen.x - step.passed.x).abs().max())


@pytest.mark.parametrize("attack", ["accumulative", "direct", "noise"])
@pytest.mark.parametrize("defense", ["ST", "AT", "TRADES", "CLIP", "DSC"])
def test_code_poisons_what_the_defence_passed_on(attack: str, defense: str) -> None:
    steps = run(attack_of(attack, channel="code"), defense)
    assert [s.phase for s in steps] == [Phase.ORDINARY] * 3 + [Phase.TRIGGER, Phase.RECOVER]
    for step in steps[:4]:
        assert distance(step) == 0  # nothing is on the wire
        assert EPS / 2 < moved(step) <= EPS + 1e-6
        assert step.metrics["attack/linf"] == pytest.approx(moved(step))
    assert moved(steps[4]) == 0
    data = run(attack_of(attack), defense)
    assert all(s.seen is s.passed and distance(s) > 0 for s in data[:4])
    assert not torch.equal(data[0].seen.x, steps[0].seen.x)


def test_the_ledger_tells_the_codes_poison_from_a_correction() -> None:
    for stage, defense in (("code", "ST"), ("wire", "ST"), ("code", "DSC")):
        ledger = Ledger()
        for step in run(attack_of("direct", channel=stage), defense):
            ledger.add(step)
        rows = ledger.rows[ledger.rows["step"] < 2]
        assert rows["changed"].all()
        assert rows["corrected"].all() == (defense == "DSC")
        assert rows["used"].all()


def test_a_defence_that_rejects_everything_leaves_the_code_nothing() -> None:
    steps = run(attack_of("direct", channel="code"), "FREEZE")
    assert all(len(s.seen) == len(s.passed) for s in steps)


@pytest.mark.parametrize("trigger", ["clean", "adversarial", "coast"])
def test_updates_on_the_trigger_are_made_one_after_the_other(trigger: str) -> None:
    once, twice = (simulation(triggers=(trigger,), recovery_steps=0, updates=n) for n in (1, 2))
    for simulated in (once, twice):
        *_, fire = simulated.run()
        assert fire.phase is Phase.TRIGGER
    learner = once.learner
    if trigger == "coast":
        learner.coast()
    else:
        once.update.step(learner, once.defense, fire.seen, _context(once))
    assert same(weights_and_statistics(learner), weights_and_statistics(twice.learner))


def _context(simulated: Any) -> Any:  # noqa: ANN401
    from accupoison.loop.context import StepContext

    return StepContext(0, "update", simulated.t, {})


def test_no_updates_are_refused() -> None:
    with refuses("trigger.updates 0 1"):
        simulation(updates=0)


def changed_rows(steps: list[Step]) -> list[list[int]]:
    return [(s.wire.x != s.clean.x).flatten(1).any(1).nonzero().flatten().tolist() for s in steps[:4]]


def test_fixed_places_are_the_same_in_every_batch_and_in_the_trigger() -> None:
    def rows(resample_rows: bool) -> list[list[int]]:
        attack = attack_of("accumulative", ratio=0.5, resample_rows=resample_rows)
        return changed_rows(run(attack, augment="before"))

    fixed, drawn = rows(False), rows(True)
    assert [len(found) for found in fixed] == [3, 3, 3, 3]
    assert len({tuple(found) for found in fixed}) == 1
    assert len(drawn[3]) == 6  # the trigger whole
    assert len({tuple(found) for found in drawn[:3]}) > 1


@pytest.mark.parametrize("resample_rows", [False, True])
def test_a_small_ratio_still_poisons_a_row(resample_rows: bool) -> None:
    steps = run(attack_of("accumulative", ratio=0.01, resample_rows=resample_rows), augment="before")
    assert [len(found) for found in changed_rows(steps)] == [1, 1, 1, 6 if resample_rows else 1]


def test_accumulation_can_aim_at_the_clean_trigger() -> None:
    clean, crafted = (run(attack_of("accumulative", aim=aim), triggers=("clean",)) for aim in ("clean", "crafted"))
    assert not torch.equal(clean[0].sent.x, crafted[0].sent.x)
    attack = attack_of("accumulative", aim="clean")
    simulated = simulation(attack, triggers=("clean",))
    next(simulated.run())
    assert attack.crafted is None  # nothing is crafted that nobody needs


def test_optimised_may_be_compared_with_coast_and_clean() -> None:
    steps = run(triggers=("coast", "clean", "optimised"))
    alone = run(triggers=("optimised",))
    fired = [s for s in steps if s.phase is Phase.TRIGGER]
    assert [s.branch for s in fired] == ["coast", "clean", "optimised"]
    assert same([s.sent for s in steps[:3]], [s.sent for s in alone[:3]])
    assert same(fired[2].sent, alone[3].sent)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"channel": "data"}, "attack.channel 'data' code wire"),
        ({"max_loss_increase": -0.1}, "attack.max_loss_increase -0.1"),
        ({"aim": "cleen"}, "attack.aim 'cleen' clean"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], words: str) -> None:
    with refuses(words):
        attack_of("accumulative", **settings)
