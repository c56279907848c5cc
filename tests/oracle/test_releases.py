"""What is released in place of probabilities: closed forms, reductions, and the defects of the released codes."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from accupoison.audit.roc import auc_of
from accupoison.config.releases import parse_release
from accupoison.errors import InputError
from accupoison.loop.context import StepContext
from accupoison.release.classifier import falling, train_classifier
from accupoison.release.coarse import Round, Temperature, TopK
from accupoison.release.defenmi import DefenMI
from accupoison.release.memguard import MemGuard
from accupoison.release.search import choose, coins, find_noise
from accupoison.rng import generator
from accupoison.types import Batch
from tests.messages import says


class Logits:
    """A model whose inputs are its logits."""

    def frozen(self) -> Any:  # noqa: ANN401
        return lambda x: x


VIEW: Any = Logits()


def some(count: int, classes: int = 6, scale: float = 3.0, name: str = "some") -> Tensor:
    return scale * torch.randn(count, classes, generator=generator(0, name), dtype=torch.float64)


def spread(probs: Tensor) -> Tensor:
    """A classifier that takes the sure for members: its logit is 0 where the largest confidence is 0.6."""
    return 8 * (probs[:, :1] - 0.6)


def sorted_rows(logits: Tensor) -> Tensor:
    return logits.sort(dim=1, descending=True).values


def fitted(cls: type[MemGuard] = MemGuard, classes: int = 6, **settings: Any) -> MemGuard:  # noqa: ANN401
    """Return a release that has learnt to tell sure answers from unsure ones."""
    release = cls(hidden=(16,), lr=0.5, epochs=30, max_iterations=100, cap=10.0, **settings)
    nobody = torch.zeros(60, dtype=torch.int64)
    members, others = (Batch(x, nobody, torch.arange(60), bounded=False) for x in known(classes))
    release.fit(VIEW, members, others, StepContext(0, "release", 0, {}))
    return release


def known(classes: int = 6) -> tuple[Tensor, Tensor]:
    return some(60, classes, 5.0, "members"), some(60, classes, 1.0, "others")


@pytest.mark.parametrize(
    ("digits", "given", "rounded"),
    [
        (2, [0.9512, 0.0488], [0.95, 0.05]),
        (1, [0.29, 0.71], [0.3, 0.7]),
        (2, [0.29, 0.71], [0.29, 0.71]),  # 0.29 * 100 is below 29
        (0, [0.3, 0.44, 0.26], [0, 1, 0]),
        (1, [0.24, 0.24, 0.26, 0.26], [0.2, 0.2, 0.4, 0.2]),  # 3 tie at 0.3 with the first; it gives a unit
        (1, [0.46, 0.47, 0.07], [0.4, 0.5, 0.1]),
        (2, [0.505, 0.495], [0.51, 0.49]),
    ],
)
def test_rounding_sums_to_one_and_keeps_the_label(digits: int, given: list[float], rounded: list[float]) -> None:
    found = Round(digits=digits).rewrite(torch.tensor([given], dtype=torch.float64))
    assert found[0].tolist() == pytest.approx(rounded)


@pytest.mark.parametrize("digits", [0, 1, 2, 8])
def test_rounding_of_many(digits: int) -> None:
    for scale in (0.01, 1.0, 30.0):  # almost even, and almost certain
        probs = some(500, 30, scale).softmax(1)
        found = Round(digits=digits).rewrite(probs)
        assert torch.equal(found.argmax(1), probs.argmax(1))
        assert (found.sort(1).values.diff(dim=1)[:, -1] > 0).all()  # no tie at the top
        assert torch.allclose(found.sum(1), torch.ones(500, dtype=torch.float64), atol=1e-12)
        assert torch.allclose(found * 10**digits, (found * 10**digits).round(), atol=1e-5)
        assert float((found - probs).abs().max()) * 10**digits < 2


def test_the_largest_are_as_they_are_and_the_rest_is_even() -> None:
    probs = torch.tensor([[0.1, 0.4, 0.05, 0.3, 0.15]], dtype=torch.float64)
    assert TopK(k=2).rewrite(probs)[0].tolist() == pytest.approx([0.1, 0.4, 0.1, 0.3, 0.1])
    assert torch.equal(TopK(k=5).rewrite(probs), probs)
    assert torch.equal(TopK(k=9).rewrite(probs), probs)


def test_temperature_divides_logits() -> None:
    logits = some(20)
    found = Temperature(temperature=2.5).rewrite(logits.softmax(1))
    assert torch.allclose(found, (logits / 2.5).softmax(1), atol=1e-12)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("memgard", "release 'memgard' memguard"),
        ("round:2.5", "release.round.digits '2.5' whole number"),
        ("round:9", "release.digits 9 [0, 8]"),
        ("round:digit=2", "release.round.digit digits"),
        ("round:2,digits=3", "'round:2,digits=3' digits twice"),
        ("round:", "'round:' NAME:KEY=VALUE round:digits=VALUE"),
        ("memguard:budget=3", "release.budget 3 [0, 2]"),
        ("memguard:budget=nan", "release.memguard.budget 'nan' number"),
        ("memguard:hidden=8,0", "release.hidden (8, 0) 256,128,64"),
        ("defenmi:epsilon=0", "release.epsilon 0 above 0"),
        ("defenmi:delta=-1", "release.delta -1"),
        ("temperature:0", "release.temperature 0 [0.01, 100]"),
        ("top-k:0", "release.k 0 label-only"),
        ("label-only:1", "label-only no settings"),
        ("", "release '' choose"),
    ],
)
def test_a_spec_that_cannot_be_used(text: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_release(text)
    says(caught.value, words)


def test_specs() -> None:
    assert parse_release("Round:3") == Round(digits=3)
    assert parse_release("defenmi") == DefenMI()
    made = parse_release("memguard:0.5,hidden=8,4,step=0.2")
    assert made == MemGuard(budget=0.5, hidden=(8, 4), step=0.2)
    for release in (Round(digits=3), TopK(), made, DefenMI(budget=0.25, delta=0.0), parse_release("label-only")):
        assert parse_release(release.spec) == release
    assert made.spec == "memguard:budget=0.5,step=0.2,hidden=8,4"
    assert (DefenMI().cap, MemGuard().cap, DefenMI().delta, DefenMI().epsilon) == (1e4, 1e5, 1.0, 3.0)


@pytest.mark.parametrize("gap", [3.0, 31.0])  # at 31 the other confidence is 3e-14, and so is the gradient
def test_the_search_of_two_classes_in_closed_form(gap: float) -> None:
    """Both gradients point along (1, -1): the gap falls by 0.1 sqrt(2) a step until p is at most 0.6."""
    u0 = torch.tensor([[gap, 0.0]], dtype=torch.float64)
    steps = math.ceil((gap - math.log(0.6 / 0.4)) / (0.1 * math.sqrt(2)))
    wanted = torch.tensor(gap - steps * 0.1 * math.sqrt(2), dtype=torch.float64).sigmoid()
    for limit, reached in ((steps, True), (steps - 1, False)):
        found, success = find_noise(spread, u0, u0.softmax(1), max_iterations=limit, cap=0.1)
        assert success.tolist() == [reached]
        assert float(found[0, 0]) == pytest.approx(float(wanted if reached else u0.softmax(1)[0, 0]), rel=1e-3)


def test_what_is_found_is_barely_on_the_other_side_with_the_label_on_top() -> None:
    u0 = sorted_rows(some(80))
    found, success = find_noise(spread, u0, u0.softmax(1))
    assert success.all()
    before, after = (spread(falling(p))[:, 0] for p in (u0.softmax(1), found))
    assert (before * after <= 0).all()
    assert float(after.abs().max()) < 0.3  # a step of 0.1 moves p by 0.025 at most, and the logit by 0.2
    assert (found[:, 0] > found[:, 1:].amax(1)).all()


def test_the_last_success_is_the_closest() -> None:
    u0 = sorted_rows(some(80, 10))
    target = u0.softmax(1)
    distances = [(find_noise(spread, u0, target, cap=cap)[0] - target).abs().sum(1) for cap in (0.1, 1.0, 100.0)]
    assert (distances[0].mean(), distances[1].mean()) > (distances[1].mean(), distances[2].mean())
    assert float(distances[2].mean()) < float(distances[0].mean())


def test_a_classifier_that_is_undecided_is_left_so() -> None:
    u0 = sorted_rows(some(5))
    found, success = find_noise(lambda p: 0 * p[:, :1], u0, some(5, name="target").softmax(1))
    assert torch.equal(found, u0.softmax(1))
    assert not success.any()


@pytest.mark.parametrize("cls", [MemGuard, DefenMI])
def test_rows_step_together_and_stop_apart(cls: type[MemGuard]) -> None:
    """The answer to a query is that which it gets alone; the released codes ask one at a time."""
    release, x, ids = fitted(cls), some(40, name="queries"), torch.arange(40)
    together = release.candidates(VIEW, x, ids)[1]
    alone = torch.cat([release.candidates(VIEW, x[i : i + 1], ids[i : i + 1])[1] for i in range(10)])
    assert torch.allclose(together[:10], alone, rtol=0, atol=1e-9)
    order = torch.randperm(40, generator=generator(0, "order"))
    assert torch.allclose(release.candidates(VIEW, x[order], ids[order])[1], together[order], rtol=0, atol=1e-9)


@pytest.mark.parametrize("cls", [MemGuard, DefenMI])
def test_targets_are_sorted_like_the_logits(cls: type[MemGuard]) -> None:
    """A defect of the released code: t stays in class order while u is sorted. Then names of classes would matter."""
    release, x, ids = fitted(cls, budget=1.0), some(30, name="queries"), torch.arange(30)
    if isinstance(release, DefenMI):
        release = replace_delta(release)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    other = release.fresh()
    other.set_state(release.state())
    if isinstance(other, DefenMI) and other.mean_logits is not None:
        other.mean_logits = other.mean_logits[order][:, order]
    found, renamed = release.candidates(VIEW, x, ids)[1], other.candidates(VIEW, x[:, order], ids)[1]
    assert torch.allclose(renamed, found[:, order], rtol=0, atol=1e-9)
    assert float((found - x.softmax(1)).abs().sum(1).mean()) > 0.05


def replace_delta(release: DefenMI) -> DefenMI:
    """Return the same without noise, whose draws go by the place of a feature."""
    quiet = replace(release, delta=0.0)
    quiet.set_state(release.state())
    return quiet


def test_the_fall_back_is_the_target_in_the_order_of_the_classes() -> None:
    """A defect of the released code: it is written through the permutation that undoes the sorting."""
    release = fitted(DefenMI, step=1e-9)  # which reaches nothing
    assert isinstance(release, DefenMI)
    assert release.mean_logits is not None
    x = some(30, name="queries")
    probs, noisy = release.candidates(VIEW, x, torch.arange(30))
    assert torch.allclose(noisy, release.mean_logits[x.argmax(1)].softmax(1), atol=1e-12)
    assert torch.equal(probs, x.softmax(1))


def test_the_target_is_the_mean_of_what_is_taken_for_the_class() -> None:
    release = fitted(DefenMI)
    assert isinstance(release, DefenMI)
    assert release.mean_logits is not None
    logits = torch.cat(known())
    mean = logits[logits.argmax(1) == 2].mean(0)
    assert torch.allclose(release.mean_logits[2], mean)
    release.mean_logits[2] = 0  # nobody was taken for it
    probs = some(50, name="queries").softmax(1)
    targets, own = release.target(probs), probs.argmax(1) == 2
    assert torch.equal(targets[own], probs[own])
    assert not torch.isclose(targets[~own], probs[~own]).all(1).any()


def test_the_reference_is_the_query_itself() -> None:
    """A defect of the released code: undefended answers, and what the change is measured by, are of noised queries."""
    release, x, ids = fitted(DefenMI, budget=0.0), some(30, name="queries"), torch.arange(30)
    assert torch.equal(release(VIEW, x, ids), x.softmax(1))
    assert torch.equal(release.candidates(VIEW, x, ids)[0], x.softmax(1))
    start = release.start(VIEW, x, ids, x)
    assert 0.15 < float((start - x).abs().mean()) < 0.5  # of a Laplace variable: its scale, 1/3


def test_noise_belongs_to_the_query() -> None:
    release, x = fitted(DefenMI), some(10, name="queries")
    ids = torch.tensor([7, 7, 3, 9, 1, 2, 4, 5, 6, 8])
    noise = release.start(VIEW, x, ids, x) - x
    assert torch.allclose(noise[0], noise[1], atol=1e-6)
    assert not torch.isclose(noise[1], noise[2]).all()
    again = release.start(VIEW, x[4:5], ids[4:5], x[4:5]) - x[4:5]
    assert torch.allclose(again[0], noise[4], atol=1e-12)


@pytest.mark.parametrize("budget", [0.0, 0.1, 0.4, 2.0])
def test_the_noisy_answer_comes_as_often_as_the_budget_allows(budget: float) -> None:
    """A defect of the released code: both arms of the random choice are the same."""
    probs, noisy = (torch.tensor([p], dtype=torch.float64).expand(4000, 3) for p in ([0.9, 0.1, 0], [0.65, 0.25, 0.1]))
    draws = coins(3, torch.arange(4000))
    found = choose(spread, probs, noisy, draws, budget)
    taken = (found == noisy).all(1)
    assert ((found == probs).all(1) | taken).all()
    assert float(taken.double().mean()) == pytest.approx(min(budget / 0.5, 1), abs=0.03)
    assert float((found - probs).abs().sum(1).mean()) <= budget + 0.015


def test_the_noisy_answer_never_comes_with_another_label_or_where_the_classifier_is_surer() -> None:
    probs = torch.tensor([[0.9, 0.1], [0.62, 0.38], [0.9, 0.1]], dtype=torch.float64)
    noisy = torch.tensor([[0.4, 0.6], [0.95, 0.05], [0.5, 0.5]], dtype=torch.float64)
    assert torch.equal(choose(spread, probs, noisy, torch.zeros(3, dtype=torch.float64), 2.0), probs)


def test_coins_are_a_function_of_key_and_id() -> None:
    one = coins(1, torch.tensor([5, -3, 5]))
    assert one[0] == one[2] == coins(1, torch.tensor([5]))[0]
    assert len({*one.tolist(), *coins(2, torch.tensor([5])).tolist()}) == 3


def test_the_classifier_learns_what_members_look_like() -> None:
    inside, outside = (x.softmax(1) for x in known())
    made = {
        "hidden": (16,),
        "lr": 0.5,
        "epochs": 30,
    }
    model = train_classifier(inside, outside, rng=generator(0), **made)  # type: ignore[arg-type]
    with torch.no_grad():
        right = [float((model(falling(p).float())[:, 0] > 0).double().mean()) for p in (inside, outside)]
    assert right[0] > 0.8
    assert right[1] < 0.2


def test_who_knows_the_release_turns_the_score_around() -> None:
    """The classifier is deceived, and by its very threshold: members lie just below it, and others just above."""
    release, member = fitted(budget=2.0), np.arange(120) < 60
    logits, ids = torch.cat([some(60, scale=s, name=f"queries {s}") for s in (5.0, 1.0)]), torch.arange(120)
    right, aucs = [], []
    for budget in (0.0, 0.1, 2.0):
        made = replace(release, budget=budget)
        made.set_state(release.state())
        answers = made(VIEW, logits, ids)
        right.append(float(((made.classifier(falling(answers))[:, 0] > 0).numpy() == member).mean()))
        aucs.append(auc_of(answers.amax(1).numpy(), member)[0])
    assert right[0] > 0.8
    assert right[0] > right[1] > right[2]
    assert aucs[0] > 0.85
    assert aucs[0] > aucs[1] > 0.5 > aucs[2]


def test_a_release_that_has_not_learnt_says_so() -> None:
    with pytest.raises(InputError, match="memguard has not learnt"):
        MemGuard()(VIEW, some(2), torch.arange(2))
