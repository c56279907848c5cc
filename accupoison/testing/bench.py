"""A small world to try components in, and the watch over what they must leave alone."""

import copy
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor, nn

from accupoison.defenses import Defense
from accupoison.errors import RangeError
from accupoison.learner import Learner
from accupoison.loop.context import StepContext
from accupoison.models.view import view_of
from accupoison.records.tags import check_tags
from accupoison.registry import Component
from accupoison.rng import generator, global_seed
from accupoison.testing.population import population_of
from accupoison.types import Batch, ModelView, Population, State
from accupoison.updates import SGD

ROWS, SIDE, CLASSES, IDS = 6, 8, 4, 600
SEED, LR = 0, 0.1


class BenchContext(StepContext):
    """A context that remembers if it was asked for randomness or the step; ``refused`` may not ask for the present."""

    def __init__(self, role: str, t: int, refused: str = "") -> None:
        self.metrics: dict[str, float] = {}
        self.asked_rng, self.asked_t, self._who = False, False, refused
        super().__init__(SEED, role, t, self.metrics)

    @property
    def t(self) -> int:
        """The step."""
        self.asked_t = True
        return super().t

    def present(self, x: Tensor, ids: Tensor) -> Tensor:
        """Return ``x`` [B, ...]."""
        expect(not self._who, f'{self._who} asked for images of the present world, yet requires no "trusted-current"')
        return super().present(x, ids)

    def rng(self, *names: str) -> Generator:
        """Return the generator for ``names``."""
        self.asked_rng = True
        return super().rng(*names)


@dataclass(frozen=True, kw_only=True, eq=False)
class Bench:
    """A tiny network that has learnt a little, and batches; the same at every call of :meth:`make`.

    Attributes:
        learner: The live model, with momentum.
        reference: The early model.
        batches: What the stream brings.
        trigger: The clean trigger batch.
        val: The attacker's own images.
        trusted: What the defender may calibrate on.
        population: Whom an attack may poison: those of ``batches``, and the trusted as others to ask about.
    """

    learner: Learner
    reference: ModelView
    batches: tuple[Batch, ...]
    trigger: Batch
    val: Batch
    trusted: tuple[Batch, ...]
    population: Population

    @classmethod
    def make(cls, bn_mode: str = "train", sharper: float = 1.0) -> "Bench":
        """Build the world; the learner updates in ``bn_mode``, and its logits are ``sharper`` times as large."""
        early, learnt = _states()
        reference = _network().eval()
        reference.load_state_dict(early)
        learner = Learner(_network(), lr=LR, weight_decay=1e-3, bn_mode=bn_mode)
        learner.restore(learnt)
        with torch.no_grad():
            for parameter in learner.parameters[-2:] if sharper != 1 else ():
                parameter.mul_(sharper)
        batches = copy.deepcopy(_batches()[3:])  # so that who spoils them spoils nobody else's
        return cls(
            learner=learner,
            reference=view_of(reference),
            batches=batches[:6],
            trigger=batches[6],
            val=batches[7],
            trusted=batches[8:],
            population=population_of(batches, view_of(reference), size=IDS, num_classes=CLASSES),
        )


@cache
def _states() -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the early model's state dict and the state of a learner that went on for three steps."""
    learner = Learner(_network(), lr=LR, weight_decay=1e-3)
    early = learner.state()["model"]
    for batch in _batches()[:3]:
        learn(learner, batch)
    return early, learner.state()


def _network() -> nn.Sequential:
    """Return the smallest network that has everything: convolution, batch norm, a kink, and a linear head."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        return nn.Sequential(
            nn.Conv2d(3, 6, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.AvgPool2d(SIDE // 4),
            nn.Flatten(),
            nn.Linear(24, CLASSES),
        )


@cache
def _batches() -> tuple[Batch, ...]:
    """Return random images on the 8-bit grid, with many pixels at either end of the range."""
    rng = generator(SEED, "bench")
    count = 16 * ROWS
    x = torch.randint(-60, 316, (count, 3, SIDE, SIDE), generator=rng).clamp(0, 255).float() / 255
    y, ids = torch.randint(CLASSES, (count,), generator=rng), torch.randperm(IDS, generator=rng)[:count]
    return tuple(Batch(x, y, ids).rows(torch.arange(i, i + ROWS)) for i in range(0, count, ROWS))


def learn(learner: Learner, batch: Batch, defense: Defense | None = None, t: int = 0) -> None:
    """Take one SGD step.

    Args:
        learner: The model.
        batch: What it learns from.
        defense: Gives the losses; None is standard training.
        t: The step.
    """
    SGD().step(learner, defense or Defense(), batch, BenchContext("update", t))


def expect(holds: bool, broken: str) -> None:
    """Raise AssertionError with the sentence ``broken`` unless ``kept``; other than assert, -O leaves it in."""
    if not holds:
        raise AssertionError(broken)


def same(a: object, b: object) -> bool:
    """Return whether two nests of tensors, arrays, batches and plain values agree bit for bit; NaN equals NaN."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return np.array_equal(a, b)
    if isinstance(a, Batch) and isinstance(b, Batch):
        return same([a.x, a.y, a.ids, dict(a.extra)], [b.x, b.y, b.ids, dict(b.extra)])
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and (a == b or (a != a and b != b))


@contextmanager
def unchanged(learner: Learner, who: str, *given: object, buffers: bool = True) -> Iterator[None]:
    """Raise AssertionError if the body changes the model, its optimiser, ``given`` or anything global.

    Args:
        learner: Whose weights, buffers, gradients, modes and optimiser are watched.
        who: Named in the error: "attack Noise.poison".
        given: Batches and tensors that were handed over for reading.
        buffers: Watch the model's buffers too.
    """
    before = copy.deepcopy(_watched(learner, given))
    try:
        yield
    except RangeError as error:  # a batch is checked where it is made
        raise AssertionError(f"{who} returned {error.what}") from error
    for what, now in _watched(learner, given).items():
        expect((what == "the buffers" and not buffers) or same(before[what], now), f"{who} changed {what}")


def _watched(learner: Learner, given: Sequence[object]) -> dict[str, object]:
    model = learner.model
    return {
        "the weights": [p.detach() for p in model.parameters()],
        "the buffers": list(model.buffers()),
        "the .grad of a parameter": [p.grad for p in model.parameters()],
        "the requires_grad of a parameter": [p.requires_grad for p in (*model.parameters(), *learner.view().params())],
        "the .training of a module": [module.training for module in model.modules()],
        "the optimiser": learner.optimizer.state_dict(),
        "what it was given to read": given,
        "the global random state": (torch.get_rng_state(), np.random.get_state(), hash(random.getstate())),
        "torch's gradient mode or default dtype": (torch.is_grad_enabled(), torch.get_default_dtype()),
    }


def check_output(who: str, batch: Batch, context: BenchContext) -> None:
    """Raise AssertionError unless the images can go on to the next component and the scalars into the record.

    Args:
        who: The hook that returned them, for the message.
        batch: The images.
        context: What the hook logged to.
    """
    expect(isinstance(batch, Batch), f"{who} returned a {type(batch).__name__}, not a Batch")
    tensors = {"images": batch.x, **{f"extra[{name!r}]": value for name, value in batch.extra.items()}}
    for name, tensor in tensors.items():
        expect(not tensor.requires_grad, f"{who} returned {name} that carry a graph; detach them")
    expect(bool(batch.x.isfinite().all()), f"{who} returned images that are not finite")
    inside = batch.bounded and bool(((batch.x >= 0) & (batch.x <= 1)).all())  # also after a change in place
    expect(inside, f"{who} returned images outside [0, 1], or bounded=False")
    check_logged(who, context)


def check_logged(who: str, context: BenchContext) -> None:
    """Raise AssertionError unless what the hook ``who`` has logged to its context can go into the record."""
    try:
        check_tags(context.metrics)
    except ValueError as error:
        raise AssertionError(f"{who} logged an {error}") from error


def check_state(who: str, state: State) -> None:
    """Raise AssertionError unless a checkpoint can hold the state."""
    for name, value in state.items():
        plain = value is None or isinstance(value, Tensor | int | float | str)
        expect(plain, f"{who}.state() has a {type(value).__name__} under {name!r}, which no checkpoint can hold")


class Trial(ABC):
    """A component at work on a bench of its own.

    Attributes:
        component: The attack or the defence.
        name: What messages call it.
        bench: What it works on.
    """

    component: Component
    name: str
    bench: Bench

    @abstractmethod
    def restore(self, state: State) -> None:
        """Go on from a state of the component."""

    @abstractmethod
    def step(self, t: int) -> object:
        """Return what the component makes of batch ``t``, from which the model then learns."""

    @abstractmethod
    def play(self, first: int = 0) -> Sequence[object]:
        """Return what it makes of several batches from ``first`` on."""


def check_repeatable(new: Callable[[], Trial]) -> None:
    """Hold that a component gives the same in every process.

    Args:
        new: Returns a trial of a fresh component.

    Raises:
        AssertionError: It draws from global generators.
    """
    outputs = []
    for seed in (1, 2):  # of the global generators, which must not matter
        with global_seed(seed):
            trial = new()
            outputs.append(trial.play())
    expect(same(*outputs), f"{trial.name} gave two different outputs from one seed; draw from ctx.rng alone")


def check_going_on(new: Callable[..., Trial], done: int) -> None:
    """Hold the state after some batches to what a fresh component and a rewound one make of it.

    Args:
        new: Returns a trial of a fresh component, without set-up on ``setup=False``.
        done: Batches before.

    Raises:
        AssertionError: What ``state()`` returns is not enough to go on from.
    """
    trial = new()
    for t in range(done):
        trial.step(t)
    state, model = trial.component.state(), trial.bench.learner.state()
    check_state(trial.name, state)
    expected = trial.play(done)
    for other, how in ((new(setup=False), "a fresh one"), (trial, "the same one, gone on meanwhile,")):
        other.bench.learner.restore(model)
        other.restore(state)
        went = f"{trial.name} went on differently after state() was restored into {how} than without"
        expect(same(other.play(done), expected), went)
