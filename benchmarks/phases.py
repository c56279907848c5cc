"""The phases of one online step, at the size of the released experiments: batch 100, 500 images of the attacker."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from accupoison.accel.layers import KERNELS
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
        return self._view.logits(self._no_leaf(x), train=train, params=params)

    def frozen(self) -> Callable[[Tensor], Tensor]:
        """Return the view's frozen pass."""
        frozen = self._view.frozen()
        return lambda x: frozen(self._no_leaf(x))

    @staticmethod
    def _no_leaf(x: Tensor) -> Tensor:
        return x.view_as(x) if torch.is_grad_enabled() else x.detach()

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        """Return everything else that the view has."""
        return getattr(self._view, name)


@dataclass
class Bench:
    """A network of random weights and random images: speed depends on neither.

    Attributes:
        width: Channels of the first stage of the ResNet-18.
        kernels: As the setting ``run.kernels``.
        device: Where it computes.
    """

    width: int
    kernels: str = "auto"
    device: str = "cpu"
    learner: Learner = field(init=False)
    data: DataSet = field(init=False)

    def __post_init__(self) -> None:
        rng = torch.Generator().manual_seed(0)
        x = torch.randint(256, (TEST, 3, 32, 32), generator=rng, dtype=torch.uint8)
        y = torch.randint(10, (TEST,), generator=rng)
        self.data = DataSet("random", x, y, x, y, tuple("abcdefghij"), flip=True).to(self.device)
        self.splits = split(self.data)
        model = place(build_model(ModelSpec(width=self.width), 0), torch.device(self.device))
        self.learner = Learner(model, lr=1e-3, kernels=self.kernels)
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
) -> tuple[Grads, Tensor]:
    """Return what :func:`~accupoison.attacks.accumulative.alignment_gradient` does, by the graph of the whole."""
    value = alignment(view, trigger, val, train=train)
    return torch.autograd.grad(value, view.params()), value.detach()


def measure_phases(width: int, repeats: int) -> list[dict[str, Any]]:
    """Time every phase with PyTorch's layers and with ours, in turn, and the machine's ceiling right before.

    Returns:
        A row a phase: its median seconds by kernels and their ratio, the GFLOP of the work in PyTorch's way with the
        second-order term as one graph, and the share of the ceiling that this work has at our speed. What does the same
        with fewer products, or more, has the share that its time deserves.
    """
    work = {kernels: phases(Bench(width, kernels)) for kernels in KERNELS}
    rows: list[dict[str, Any]] = []
    for name in work["auto"]:
        calls = repeats // 2 + 1 if name.startswith(WHOLE) else repeats
        most = ceiling(torch.device("cpu"))
        with patch("accupoison.attacks.accumulative.alignment_gradient", alignment_gradient_whole):
            count = flops(work["torch"][name])
        took = {
            kernels: median(times) for kernels, times in in_turn({k: work[k][name] for k in KERNELS}, calls).items()
        }
        rows.append(
            {
                "width": width,
                "phase": name,
                "calls": calls,
                **took,
                "auto/torch": took["auto"] / took["torch"],
                "gflop": count / 1e9,
                "gflop_per_s": count / took["auto"] / 1e9,
                "ceiling_gflop_per_s": most / 1e9,
                "share_of_ceiling": count / took["auto"] / most,
            }
        )
    return rows


def in_turn(ways: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Time each way once a round, after a first call of each, since a shared machine's speed changes by the minute."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for work in ways.values():
        work()
    for _ in range(rounds):
        for name, work in ways.items():
            times[name] += seconds(work, 1, warm=False)
    return times
