from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from accupoison.attacks import Attack, Noise, PixelAttack
from accupoison.data import crop_flip, quantise
from accupoison.defenses import Defense
from accupoison.errors import ComponentError, InputError
from accupoison.loop.discrepancy_probe import probe
from accupoison.loop.schedule import Schedule, Triggers
from accupoison.loop.simulation import Simulation
from accupoison.records.tags import check_tags
from accupoison.rng import generator
from accupoison.testing.bench import same
from accupoison.types import Batch, Context, Forward, ModelView, Phase, Verdict
from tests.messages import refuses, says
from tests.simulations import BRANCHES, EPS, ROWS, attack_of, distance, outcome, run, simulation


@pytest.mark.parametrize("defense", ["DSC", "TRADES", "FREEZE"])
def test_changing_the_defence_leaves_the_data_alone(defense: str) -> None:
    plain, defended = run(), run(defense=defense)
    assert len(plain) == len(defended) == 5
    for a, b in zip(plain, defended, strict=True):
        assert same(a.clean, b.clean)  # ids, crops and all
    assert not same(plain[2].sent, defended[2].sent)  # while the poison follows the weights


def test_the_seed_decides() -> None:
    first, again, other = run(), run(), run(seed=1)
    assert same([outcome(s) for s in first], [outcome(s) for s in again])
    assert [s.clean.ids.tolist() for s in first] != [s.clean.ids.tolist() for s in other]


@pytest.mark.parametrize(("attack", "defense"), [("accumulative", "DSC"), ("none", "ST"), ("noise", "TRADES")])
def test_branches_leave_from_the_same_state(attack: str, defense: str) -> None:
    """Each branch of a run with several is bit for bit what it is in a run of its own."""
    together = run(attack, defense, BRANCHES)
    trunk = [outcome(s) for s in together if not s.branch]
    assert [s.phase for s in together if not s.branch] == [Phase.ORDINARY] * 3
    for branch in BRANCHES:
        alone = run(attack, defense, (branch,))
        parted = [outcome(s) for s in together if s.branch == branch]
        assert same([outcome(s) for s in alone], trunk + parted)
        assert [s.t for s in alone] == ([0, 1, 2, 4] if branch == "none" else [0, 1, 2, 3, 4])
    backwards = run(attack, defense, BRANCHES[::-1])
    for branch in BRANCHES:
        of_branch = [[outcome(s) for s in steps if s.branch == branch] for steps in (together, backwards)]
        assert same(*of_branch)


def test_branches_differ() -> None:
    ends = {}
    simulated = simulation(triggers=BRANCHES)
    for step in simulated.run():
        ends[step.branch] = simulated.learner.weights()
    for a in BRANCHES:
        assert all(not torch.equal(ends[a], ends[b]) for b in BRANCHES if b != a)


def test_freeze_changes_nothing() -> None:
    simulated = simulation(defense="FREEZE", triggers=("none", "clean", "adversarial"))
    before = simulated.learner.state()
    for step in simulated.run():
        assert step.verdict is Verdict.SKIP
        assert len(step.seen) == 0
        assert step.metrics["defense/rejected"] == 1.0
        assert step.metrics["optim/distance_from_start"] == 0.0
        assert same(simulated.learner.state(), before)


@dataclass(kw_only=True)
class Spy(Defense):
    """Writes down every id it is shown, with the first pixel as a mark of who it was."""

    seen: list[Batch] = field(default_factory=list, init=False)
    times: list[int] = field(default_factory=list, init=False)

    def setup(self, live: ModelView, reference: ModelView | None, trusted: Sequence[Batch], ctx: Context) -> None:
        self.seen += trusted

    def intercept(self, view: ModelView, batch: Batch, ctx: Context) -> Batch:
        self.seen.append(batch)
        self.times.append(ctx.t)
        return batch.rows(torch.arange(len(batch)).flip(0))

    def losses(self, forward: Forward, batch: Batch) -> Tensor:
        self.seen.append(batch)
        return super().losses(forward, batch)


def test_the_defence_never_sees_true_ids() -> None:
    spy = Spy()
    simulated = simulation("none", spy, ("clean",), augment="none", quantise=False)
    steps = list(simulated.run())
    images = {id_: image for step in steps for id_, image in zip(step.clean.ids.tolist(), step.clean.x, strict=True)}
    shown = {id_: image for batch in spy.seen for id_, image in zip(batch.ids.tolist(), batch.x, strict=True)}
    true = {x.numpy().tobytes(): id_ for id_, x in images.items()}
    names = {id_: true[x.numpy().tobytes()] for id_, x in shown.items() if x.numpy().tobytes() in true}
    assert len(names) == len(images) == 5 * ROWS  # one pseudonym each, the same at every time
    assert sum(name == id_ for name, id_ in names.items()) < 5  # one in 120 by chance
    trusted = torch.cat([batch.ids for batch in simulated.trusted]).tolist()
    at_setup = torch.cat([batch.ids for batch in spy.seen[:4]]).tolist()
    assert len(set(at_setup)) == 20
    assert sum(a == b for a, b in zip(trusted, at_setup, strict=True)) < 5
    assert set(at_setup).isdisjoint(names)  # the same renaming for all: nobody trusted looks like one of the stream
    for step in steps:
        assert torch.equal(step.seen.ids, step.clean.ids.flip(0))  # outside, the true ones again
        assert torch.equal(step.seen.x, step.sent.x.flip(0))
    assert spy.times == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("augment", ["before", "after", "none"])
def test_clean_and_sent_get_the_same_crop(augment: str) -> None:
    simulated = simulation("noise", triggers=("adversarial",), augment=augment)
    for step in simulated.run():
        if step.phase is Phase.TRIGGER:
            rng = generator(0, "augment", "trigger" if augment == "before" else step.t)
            raw = simulated.stream.trigger(3)
        else:
            rng, raw = generator(0, "augment", step.t), simulated.stream[step.t]
        expected = raw.x if augment == "none" else crop_flip(raw.x, rng=rng, flip=True)
        assert torch.equal(step.clean.x, expected)
        assert torch.equal(step.clean.ids, raw.ids)
        assert (distance(step) > 0) is (step.phase is not Phase.RECOVER)
        assert distance(step) <= EPS + 1e-6  # another crop would be far off
        if augment == "after":  # padding is put on what was attacked, so it stays black
            assert bool((step.sent.x[raw.x.amin((1, 2, 3)) > 0][expected[raw.x.amin((1, 2, 3)) > 0] == 0] == 0).all())


def test_quantised_images_are_on_the_grid() -> None:
    for on in (True, False):
        for step in run(attack_of("accumulative", eps=0.05), quantise=on, augment="none"):
            levels = step.sent.x * 255
            assert bool(((levels - levels.round()).abs() < 1e-4).all()) is (on or step.phase is Phase.RECOVER)
    exact, rounded = (simulation(Noise(), quantise=on, augment="none").run() for on in (False, True))
    for a, b in zip(exact, rounded, strict=True):
        if a.phase is Phase.ORDINARY:
            assert torch.equal(b.sent.x, quantise(a.sent.x, a.clean.x))


def test_the_released_stream_repeats_its_batch_under_new_crops() -> None:
    steps = run("none", kind="released_stream", augment="before", triggers=("clean",))
    assert all(torch.equal(s.clean.ids, steps[0].clean.ids) for s in steps)
    assert len({s.clean.x.numpy().tobytes() for s in steps}) == len(steps)


def test_what_is_measured_comes_before_the_update() -> None:
    simulated = simulation(defense="DSC")
    steps, learner = simulated.run(), simulated.learner
    for t in range(5):
        live, weights = learner.snapshot(), learner.weights()
        step = next(steps)
        check_tags(step.metrics)
        hits = live.logits(step.clean.x).argmax(1) == step.clean.y
        assert step.metrics["stream/acc"] == float(hits.float().mean())
        assert simulated.reference is not None
        rng = generator(0, "probe", t)
        seen = replace(step.seen, extra={})
        for tag, value in probe(live, simulated.reference, step.clean, step.sent, seen, rng).items():
            assert step.metrics[tag] == value
        assert step.metrics["optim/update_norm"] == float((learner.weights() - weights).norm())
        assert step.metrics["optim/distance_from_start"] == float((learner.weights() - simulated._start).norm())
        assert step.metrics["optim/lr"] == 0.05


@dataclass(kw_only=True)
class Careless(PixelAttack):
    bounded = False
    to: float = 2.0

    def poison(self, view: ModelView, batch: Batch, ctx: Context) -> Batch:
        return batch.with_x(torch.full_like(batch.x, self.to))


@dataclass(kw_only=True)
class Spoiling(Defense):
    def intercept(self, view: ModelView, batch: Batch, ctx: Context) -> Batch:
        return batch.with_x(batch.x * float("nan"))


@dataclass(kw_only=True)
class Overdone(Careless):
    bounded = True
    to: float = 1.0


@pytest.mark.parametrize(
    ("attack", "defense", "words"),
    [
        (Careless(), "ST", "Careless [0, 1] 2 2"),
        (Overdone(), "ST", "Overdone 1.0 budget"),
        ("none", Spoiling(), "Spoiling [0, 1] NaN nan nan"),
    ],
)
def test_broken_components_are_stopped(attack: Attack | str, defense: Defense | str, words: str) -> None:
    simulated: Simulation = simulation(attack, defense, quantise=False)
    before = simulated.learner.state()
    with refuses(words, ComponentError):
        next(simulated.run())
    assert same(simulated.learner.state(), before)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"steps": -1}, "stream.steps -1 is negative"),
        ({"recovery_steps": -1}, "stream.recovery_steps -1 is negative"),
        ({"steps": 10**9}, "more than 1000000000 together"),
        ({"types": ("cost",)}, "trigger 'cost' coast"),
        ({"types": ()}, "trigger.types '' list"),
        ({"types": ("clean", "clean")}, "trigger.types 'clean,clean' list"),
        ({"updates": 0}, "trigger.updates 0 1"),
        ({"types": ("adversarial", "optimised")}, "optimised trigger changes"),
        ({"augment": "later"}, "stream.augment 'later' after"),
    ],
)
def test_schedules_that_make_no_sense(settings: dict[str, Any], words: str) -> None:
    kind = Triggers if settings.keys() <= {"types", "updates"} else Schedule
    with pytest.raises(InputError) as caught:
        kind(**settings)
    says(caught.value, words)
