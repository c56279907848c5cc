"""A check that cannot fail is worthless: each one is shown something that it must refuse."""

import random
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from accupoison.attacks import Attack
from accupoison.data import DataSet
from accupoison.defenses import Defense
from accupoison.release import Release
from accupoison.testing import check_attack, check_data, check_defense, check_model, check_release, unchanged
from accupoison.testing.bench import Bench, same
from accupoison.types import Batch
from tests.contract import broken_attacks, broken_defenses, broken_releases


@pytest.fixture(autouse=True)
def _clean_globals() -> Iterator[None]:
    yield
    torch.set_grad_enabled(True)
    torch.set_default_dtype(torch.float32)


def _name(value: object) -> str:
    name = getattr(value, "__name__", str(value))  # never an address: processes side by side must agree on names
    return re.sub(r"\W+", "-", str(name))


@pytest.mark.parametrize(("cls", "words"), broken_attacks.BROKEN, ids=_name)
def test_broken_attack(cls: type[Attack], words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        check_attack(cls)


@pytest.mark.parametrize(("cls", "words"), broken_defenses.BROKEN, ids=_name)
def test_broken_defense(cls: type[Defense], words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        check_defense(cls)


@pytest.mark.parametrize(("cls", "words"), broken_releases.BROKEN, ids=_name)
def test_broken_release(cls: type[Release], words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        check_release(cls)


def test_promises_that_are_not_made_are_not_checked() -> None:
    check_attack(broken_attacks.Unbounded)


def _momentum(bench: Bench, batch: Batch) -> None:
    bench.learner.momentum()[0].mul_(2)


def _rate(bench: Bench, batch: Batch) -> None:
    bench.learner.lr *= 2


def _training(bench: Bench, batch: Batch) -> None:
    next(bench.learner.model.children()).train()


def _grad(bench: Bench, batch: Batch) -> None:
    parameter = next(bench.learner.model.parameters())
    parameter.grad = torch.zeros_like(parameter)


def _requires_grad(bench: Bench, batch: Batch) -> None:
    next(bench.learner.model.parameters()).requires_grad_(False)


def _weight(bench: Bench, batch: Batch) -> None:
    with torch.no_grad():
        next(bench.learner.model.parameters()).view(-1)[0].mul_(1 + 1e-6)


def _buffer(bench: Bench, batch: Batch) -> None:
    next(b for b in bench.learner.model.buffers() if b.dtype == torch.int64).add_(1)


def _extra(bench: Bench, batch: Batch) -> None:
    batch.extra["late"] = batch.x  # type: ignore[index]


CHANGES: list[tuple[Callable[[Bench, Batch], object], str]] = [
    (_weight, "the weights"),
    (_buffer, "the buffers"),
    (_grad, "the .grad of a parameter"),
    (_requires_grad, "the requires_grad of a parameter"),
    (_training, "the .training of a module"),
    (_momentum, "the optimiser"),
    (_rate, "the optimiser"),
    (_extra, "what it was given to read"),
    (lambda bench, batch: batch.ids.add_(1), "what it was given to read"),
    (lambda bench, batch: torch.rand(1), "the global random state"),
    (lambda bench, batch: np.random.rand(), "the global random state"),
    (lambda bench, batch: random.random(), "the global random state"),
    (lambda bench, batch: torch.set_default_dtype(torch.float64), "torch's gradient mode or default dtype"),
]


@pytest.mark.parametrize(("change", "what"), CHANGES)
def test_unchanged_sees(change: Callable[[Bench, Batch], object], what: str) -> None:
    bench = Bench.make()
    batch = bench.batches[0]
    with (
        pytest.raises(AssertionError, match=f"the culprit changed {re.escape(what)}"),
        unchanged(bench.learner, "the culprit", batch),
    ):
        change(bench, batch)


def test_unchanged_lets_buffers_pass_where_it_is_told_to() -> None:
    bench = Bench.make()
    with unchanged(bench.learner, "an update", buffers=False):
        _buffer(bench, bench.batches[0])
    with pytest.raises(AssertionError, match="the weights"), unchanged(bench.learner, "an update", buffers=False):
        _weight(bench, bench.batches[0])


def test_same_is_exact() -> None:
    nan = torch.tensor([1.0, torch.nan])
    assert same({"a": [nan, 1, "x", None]}, {"a": [nan.clone(), 1, "x", None]})
    assert same(float("nan"), float("nan"))
    for a, b in [
        (nan, torch.tensor([1.0, 2.0])),
        (torch.zeros(2), torch.zeros(2, dtype=torch.float64)),
        (torch.zeros(2), torch.zeros(1, 2)),
        ([1], [1, 1]),
        ({"a": 1}, {"b": 1}),
        (1, 1.0),
        (True, 1),
        (np.zeros(2), np.ones(2)),
        (torch.zeros(1), None),
    ]:
        assert not same(a, b)


class Net(nn.Module):
    """A sound model; its subclasses each break one promise."""

    seen: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(12, num_classes)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.flatten(1).pow(2))  # type: ignore[no-any-return]


class Dropping(Net):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(super().forward(x), 0.5, self.training)


class Noisy(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + torch.rand_like(x))


class Counting(Net):
    def forward(self, x: Tensor) -> Tensor:
        self.seen.add_(1)
        return super().forward(x)


class Narrow(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[:, 1:]


class Idle(Net):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.idle = nn.Parameter(torch.zeros(3))


class Flat(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.detach())


class Grey(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * 0)


@pytest.mark.parametrize("make", [Net, Dropping])
def test_a_sound_model_passes(make: Callable[..., nn.Module]) -> None:
    check_model(make, (3, 2, 2))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (Noisy, "answers differently when asked again in eval mode"),
        (Counting, "changes its state in eval mode"),
        (Narrow, r"maps 4 inputs to \[4, 4\]; it must return logits \[4, 5\]"),
        (Idle, "has a parameter idle that gets no gradient"),
        (Flat, "inputs or parameters that its gradient does not depend on"),
        (Grey, "with respect to the inputs is zero or not finite"),
        (lambda num_classes: num_classes, "returned a int, not a torch.nn.Module"),
    ],
    ids=_name,
)
def test_broken_model(make: Callable[..., nn.Module], words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        check_model(make, (3, 2, 2))


def sound(**changes: Any) -> DataSet:  # noqa: ANN401
    """Return a sound data set with some parts changed."""
    x, y = torch.arange(60 * 12, dtype=torch.uint8).view(60, 3, 2, 2), torch.arange(60) % 3
    parts: dict[str, Any] = {"train_x": x[:40], "train_y": y[:40], "test_x": x[40:], "test_y": y[40:]} | changes
    return DataSet("made", classes=("a", "b", "c"), flip=True, **parts)


def test_sound_data_pass() -> None:
    check_data(lambda _: sound())
    features = {"train_x": torch.rand(40, 5), "test_x": torch.rand(20, 5)}
    check_data(lambda _: sound(**features))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: sound(train_x=torch.rand(40, 3, 2, 2)), "images must be uint8"),
        (lambda: sound(train_x=torch.rand(40, 5) * 2), r"train_x leaves \[0, 1\]"),
        (lambda: sound(test_x=torch.zeros(20, 3, 4, 4, dtype=torch.uint8)), r"and test samples \[3, 4, 4\]"),
        (lambda: sound(train_y=torch.arange(40) % 2), "no sample of class 2"),
        (lambda: sound(test_y=torch.arange(20) % 4), "test_y has no labels, or some outside 0 to 2"),
        (lambda: sound(test_y=torch.arange(19) % 3), r"labels must be int64 \[20\]"),
        (lambda: sound(train_x=torch.randint(256, (40, 3, 2, 2)).byte()), "two loads gave different bytes"),
        (lambda: 3, "returned a int, not a DataSet"),
    ],
)
def test_broken_data(make: Callable[[], DataSet], words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        check_data(lambda _: make())
