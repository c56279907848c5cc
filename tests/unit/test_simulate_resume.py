"""A simulation put back to any of its steps goes on bit for bit."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from accupoison.attacks import ATTACKS
from accupoison.defenses import DEFENSES
from accupoison.loop.simulation import Simulation
from accupoison.records import checkpoint
from accupoison.testing.bench import same
from accupoison.types import Phase
from tests.simulations import CRAFTING, attack_of, outcome, simulation

BRANCHES = ("coast", "clean", "adversarial")
Make = Callable[[], Simulation]


def record(made: Simulation, fire_at: int | None = None) -> tuple[list[dict[str, Any]], list[list[object]]]:
    """Return the state before each step and after the last one, and the steps."""
    states, steps = [made.state()], []
    for step in made.run():
        if step.t == fire_at:
            made.end_accumulation()
        states.append(made.state())
        steps.append(outcome(step))
    return states, steps


def resumes_anywhere(make: Make, *, fire_at: int | None = None) -> list[list[object]]:
    """Assert that a new simulation restored to any state takes the very next step to the very next state.

    By induction that is the whole continuation, at a fraction of its cost.
    """
    states, steps = record(make(), fire_at)
    assert len(steps) > 2
    for k, state in enumerate(states):
        resumed = make()
        resumed.restore(state)
        assert same(resumed.state(), state)
        step = next(resumed.run(), None)
        if step is None:
            assert k == len(steps)
            continue
        if step.t == fire_at:
            resumed.end_accumulation()
        assert same(outcome(step), steps[k])
        assert same(resumed.state(), states[k + 1])
    return steps


@pytest.mark.parametrize("defense", ["ST", "DSC", "TRADES"])
@pytest.mark.parametrize("attack", ATTACKS.names())
def test_every_attack(attack: str, defense: str) -> None:
    triggers = BRANCHES if attack in CRAFTING else BRANCHES[:-1]
    steps = resumes_anywhere(lambda: simulation(attack, defense, triggers, steps=2))
    phases = [step[2] for step in steps]
    assert phases == [Phase.ORDINARY] * 2 + [Phase.TRIGGER, Phase.RECOVER] * len(triggers)


@pytest.mark.parametrize("defense", [name for name in DEFENSES.names() if name not in ("ST", "DSC", "TRADES")])
def test_every_other_defence(defense: str) -> None:
    resumes_anywhere(lambda: simulation("accumulative", defense, BRANCHES, steps=2))


def test_a_calibrated_threshold() -> None:
    steps = resumes_anywhere(lambda: simulation("accumulative", DEFENSES.build("DSC", {"steps": 2}), steps=2))
    thresholds = {step[6]["defense/threshold"] for step in steps}  # type: ignore[index]
    assert len(thresholds) == 1
    assert 0 < thresholds.pop() < float("inf")


@pytest.mark.parametrize("warm_start_ball", [False, True])
@pytest.mark.parametrize("attack", ["accumulative", "none"])
def test_optimised_triggers(attack: str, warm_start_ball: bool) -> None:
    resumes_anywhere(
        lambda: simulation(attack_of(attack, warm_start_ball=warm_start_ball), triggers=("optimised",), steps=2)
    )


@pytest.mark.parametrize("attack", ["accumulative", "noise"])
def test_after_firing_early(attack: str) -> None:
    steps = resumes_anywhere(lambda: simulation(attack, "DSC", ("none", "adversarial"), steps=6), fire_at=1)
    assert [step[0] for step in steps] == [0, 1, 3, 2, 3]


@pytest.mark.parametrize("augment", ["before", "none"])
def test_other_orders(augment: str) -> None:
    resumes_anywhere(lambda: simulation(triggers=("adversarial", "clean"), augment=augment, steps=1))


@pytest.mark.parametrize("start", [1, 3, 4, 6])
def test_to_the_end_through_a_file(start: int, tmp_path: Path) -> None:
    """5 + 5 = 10: the state goes through a checkpoint, and all that follows is as without the stop."""

    def make() -> Simulation:
        return simulation("accumulative", "DSC", BRANCHES)

    whole = make()
    states, steps = record(whole)
    path = tmp_path / "state.pt"
    checkpoint.save(path, "run-state", states[start])
    resumed = make()
    resumed.restore(checkpoint.load(path, "run-state"))
    assert same([outcome(step) for step in resumed.run()], steps[start:])
    assert same(resumed.learner.state(), whole.learner.state())


def test_a_state_is_not_used_up() -> None:
    states, steps = record(simulation("accumulative", "DSC", BRANCHES))
    for _ in range(2):
        resumed = simulation("accumulative", "DSC", BRANCHES)
        resumed.restore(states[2])
        assert same([outcome(step) for step in resumed.run()], steps[2:])


def test_a_state_matters() -> None:
    """Put back to another step, the run goes another way."""
    states, steps = record(simulation("accumulative", "DSC", BRANCHES))
    resumed = simulation("accumulative", "DSC", BRANCHES)
    resumed.restore({**states[2], "parts": states[1]["parts"]})
    assert not same(outcome(next(resumed.run())), steps[2])


@pytest.mark.parametrize("mixture", ["beta", "gaussian"])
@pytest.mark.parametrize("name", ["NLL-STATIC", "NLL-DYNAMIC"])
def test_noisy_label_defences(name: str, mixture: str) -> None:
    settings = {"mixture": mixture, "min_samples": 4, "min_separation": 0.0, "window": 8}
    resumes_anywhere(lambda: simulation("noise", DEFENSES.build(name, settings), ("clean",), steps=3))
