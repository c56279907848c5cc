"""The phases of one online step, at the size of the released experiments: batch 100, 500 images of the attacker."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from accupoison.attacks.accumulative import alignment, craft_accumulative
from accupoison.attacks.trigger import craft_trigger
from accupoison.data import DataSet, split
from accupoison.defenses import Defense
from accupoison.defenses.dsc import correct
from accupoison.learner import Learner
from accupoison.loop.context import StepContext
from accupoison.measure.accuracy import evaluate
from accupoison.measure.hardware import ceiling, flops, seconds
from accupoison.models.factory import ModelSpec, build_model
from accupoison.runs.base_model import place
from accupoison.types import Batch, Grads, ModelView
from accupoison.updates import SGD

BATCH, VAL, PGD_STEPS, TEST, MONITOR, EPS = 100, 500, 2, 10_000, 2_000, 16 / 255
WHOLE = "online step"
"""How the names of phases begin that are made of the others: half as many calls are timed."""
ALWAYS = -1.0
"""A threshold at which DSC takes all of its ten steps."""


class Counted:
    """A view whose images are no leaves of the graph, which torch's FLOP counter cannot count the backward pass to.

    Args:
        view: The view.
    """

    def __init__(self, view: ModelView) -> None:
        self._view = view

    def logits(self, x: Tensor, *, train: bool = False, params: tuple[Tensor, ...] | None = None) -> Tensor:
        """Return the view's logits."""
        return self._view.logits(x.view_as(x) if torch.is_grad_enabled() else x.detach(), train=train, params=params)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        """Return everything else that the view has."""
        return getattr(self._view, name)


@dataclass
class Bench:
    """A network of random weights and random images: speed depends on neither.

    Attributes:
        width: Channels of the first stage of the ResNet-18.
    """

    width: int
    learner: Learner = field(init=False)
    data: DataSet = field(init=False)

    def __post_init__(self) -> None:
        rng = torch.Generator().manual_seed(0)
        x = torch.randint(256, (TEST, 3, 32, 32), generator=rng, dtype=torch.uint8)
        y = torch.randint(10, (TEST,), generator=rng)
        self.data = DataSet("random", x, y, x, y, tuple("abcdefghij"), flip=True)
        self.splits = split(self.data)
        self.learner = Learner(place(build_model(ModelSpec(width=self.width), 0), torch.device("cpu")), lr=1e-3)
        self.view = Counted(self.learner.view())
        self.reference = Counted(self.learner.snapshot())
        self.batch, self.trigger = self._rows(0, BATCH), self._rows(BATCH, BATCH)
        self.val = self._rows(2 * BATCH, VAL)

    def _rows(self, start: int, count: int) -> Batch:
        return self.data.batch(torch.arange(start, start + count))

    def evaluate(self) -> None:
        """Accuracy on the whole test set."""
        evaluate(self.view, self.data, self.splits.test)

    def monitor(self) -> None:
        """Accuracy on as many images as the monitor has."""
        evaluate(self.view, self.data, self.splits.test[:MONITOR])

    def update(self, batch: Batch | None = None) -> None:
        """One SGD step in train mode."""
        SGD().step(self.learner, Defense(), self.batch if batch is None else batch, StepContext(0, "bench", 0, {}))

    def craft_trigger(self) -> None:
        """The adversarial trigger."""
        craft_trigger(self.view, self.trigger, self.val, eps=EPS, steps=PGD_STEPS)

    def craft_accumulative(self) -> Batch:
        """The accumulative poison of one batch."""
        x = craft_accumulative(self.view, self.trigger, self.batch, self.val, eps=EPS, steps=PGD_STEPS)
        return self.batch.with_x(x)

    def dsc(self, batch: Batch | None = None) -> None:
        """Ten inner steps of DSC, and the update."""
        batch = self.batch if batch is None else batch
        x, taken = correct(self.view, self.reference, batch, ALWAYS)
        if taken != 10:
            raise RuntimeError(f"DSC took {taken} steps, not ten")
        self.update(batch.with_x(x))

    def step(self, *, whole: bool) -> None:
        """Poison, DSC, update, and the evaluation of the whole test set or of the monitor images."""
        self.dsc(self.craft_accumulative())
        (self.evaluate if whole else self.monitor)()


def phases(bench: Bench) -> dict[str, Callable[[], object]]:
    """Return what is timed, by name."""
    return {
        "evaluate 10,000": bench.evaluate,
        "update": bench.update,
        "craft trigger": bench.craft_trigger,
        "craft accumulative": bench.craft_accumulative,
        "DSC, ten steps, with update": bench.dsc,
        f"{WHOLE}, test set": partial(bench.step, whole=True),
        f"{WHOLE}, monitor": partial(bench.step, whole=False),
    }


def alignment_gradient_whole(
    view: ModelView, trigger: Batch, val: Batch, *, train: bool = False
) -> tuple[Grads, float]:
    """Return what :func:`~accupoison.attacks.accumulative.alignment_gradient` does, by the graph of the whole."""
    value = alignment(view, trigger, val, train=train)
    return torch.autograd.grad(value, view.params()), float(value.detach())


@contextmanager
def pytorchs_kernels() -> Iterator[None]:
    """The same work without kernels of our own."""
    with ExitStack() as patches:
        for module in ("learner", "measure.accuracy"):
            patches.enter_context(patch(f"accupoison.{module}.Kernels", lambda **_: nullcontext()))
        yield


@contextmanager
def unprepared() -> Iterator[None]:
    """The same work with nothing kept of the weights, and no batch norm folded into them."""
    with patch("accupoison.gradients.keeping", nullcontext):
        yield


@contextmanager
def plain() -> Iterator[None]:
    """The same work in PyTorch's way, and the second-order term as one graph."""
    with (
        pytorchs_kernels(),
        unprepared(),
        patch("accupoison.attacks.accumulative.alignment_gradient", alignment_gradient_whole),
    ):
        yield


def measure_phases(width: int, repeats: int) -> list[dict[str, Any]]:
    """Time every phase and the machine's ceiling right before it.

    Returns:
        A row a phase: its median seconds, the GFLOP of its work as :func:`plain` has it, their ratio, and that ratio's
        share of the ceiling. What does the same with fewer products, or more, has the share that its time deserves.
    """
    bench = Bench(width)
    rows: list[dict[str, Any]] = []
    for name, work in phases(bench).items():
        calls = repeats // 2 + 1 if name.startswith(WHOLE) else repeats
        most, took = ceiling(torch.device("cpu")), sorted(seconds(work, calls))
        with plain():
            middle, count = median(took), flops(work)
        rows.append(
            {
                "width": width,
                "phase": name,
                "calls": calls,
                "seconds": middle,
                "fastest": took[0],
                "slowest": took[-1],
                "gflop": count / 1e9,
                "gflop_per_s": count / middle / 1e9,
                "ceiling_gflop_per_s": most / 1e9,
                "share_of_ceiling": count / middle / most,
            }
        )
    return rows
