"""Attacks that each break one promise, and the words that the check must find for it."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from accupoison.attacks import Attack, PixelAttack
from accupoison.types import Access, Batch, Context, ModelView, State

Poison = Callable[[ModelView, Batch, Context], Batch]


def attack(poison: Poison) -> type[Attack]:
    """Return an attack whose ``poison`` is the function."""

    @dataclass(kw_only=True)
    class Broken(PixelAttack):
        def poison(self, view: ModelView, batch: Batch, ctx: Context) -> Batch:
            return poison(view, batch, ctx)

    return Broken


def jitter(batch: Batch, rng: torch.Generator | None) -> Batch:
    """Return the batch with tiny noise, well within any budget."""
    noise = torch.rand(batch.x.shape, generator=rng) * 0.01
    return batch.with_x((batch.x - noise).clamp(0, 1))


def mutates_input(view: ModelView, batch: Batch, ctx: Context) -> Batch:
    batch.x.mul_(0.999)
    return batch


def mutates_labels(view: ModelView, batch: Batch, ctx: Context) -> Batch:
    clean = batch.y.clone()
    batch.y.zero_()
    return replace(batch, y=clean)


def global_torch(view: ModelView, batch: Batch, ctx: Context) -> Batch:
    return jitter(batch, None)


def global_numpy(view: ModelView, batch: Batch, ctx: Context) -> Batch:
    return batch.with_x(batch.x * (1 - 0.01 * np.random.rand()))


def global_python(view: ModelView, batch: Batch, ctx: Context) -> Batch:
    return batch.with_x(batch.x * (1 - 0.01 * random.random()))


def seeds_globally(view: ModelView, batch: Batch, ctx: Context) -> Batch:
    torch.manual_seed(0)
    return batch


def borrows_global_seed(view: ModelView, batch: Batch, ctx: Context) -> Batch:
    with torch.random.fork_rng(devices=[]):
        return jitter(batch, None)


def unseeded(view: ModelView, batch: Batch, ctx: Context) -> Batch:
    rng = torch.Generator()
    rng.seed()
    return jitter(batch, rng)


def frozen_noise(view: ModelView, batch: Batch, ctx: Context) -> Batch:
    return jitter(batch, ctx.rng("noise").manual_seed(0))


def peeks_at_the_step(view: ModelView, batch: Batch, ctx: Context) -> Batch:
    return batch.with_x(batch.x * (1 - 0.01 * ctx._t))  # type: ignore[attr-defined]


def leaves_the_ball(view: ModelView, batch: Batch, ctx: Context) -> Batch:
    return batch.with_x((batch.x + 17 / 255).clamp(0, 1))


def leaves_the_range(view: ModelView, batch: Batch, ctx: Context) -> Batch:
    return batch.with_x(batch.x + 1 / 255)


def not_finite(view: ModelView, batch: Batch, ctx: Context) -> Batch:
    return batch.with_x(torch.where(batch.x == batch.x.max(), torch.nan, batch.x))


def ignores_its_eps(view: ModelView, batch: Batch, ctx: Context) -> Batch:
    return batch.with_x(batch.x * (1 - 5e-7))  # within the slack of the ball, yet not the input


def flips_labels(view: ModelView, batch: Batch, ctx: Context) -> Batch:
    return replace(batch, y=batch.y.flip(0))


def renames(view: ModelView, batch: Batch, ctx: Context) -> Batch:
    return replace(batch, ids=batch.ids.flip(0))


def drops_a_row(view: ModelView, batch: Batch, ctx: Context) -> Batch:
    return batch.rows(slice(1, None))


def widens(view: ModelView, batch: Batch, ctx: Context) -> Batch:
    return batch.with_x(batch.x.double())


def keeps_a_graph(view: ModelView, batch: Batch, ctx: Context) -> Batch:
    return batch.with_x(batch.x + 0 * view.logits(batch.x).sum())


def changes_weights(view: ModelView, batch: Batch, ctx: Context) -> Batch:
    view.params()[0].data.mul_(1.001)
    return batch


def changes_buffers(view: ModelView, batch: Batch, ctx: Context) -> Batch:
    next(b for name, b in view.state().items() if name.endswith("running_mean")).add_(0.001)
    return batch


def freezes_the_view(view: ModelView, batch: Batch, ctx: Context) -> Batch:
    view.params()[-1].requires_grad_(False)
    return batch


def turns_gradients_off(view: ModelView, batch: Batch, ctx: Context) -> Batch:
    torch.set_grad_enabled(False)
    return batch


def logs_what_it_likes(view: ModelView, batch: Batch, ctx: Context) -> Batch:
    ctx.log("attack/mood", 1.0)
    return batch


def returns_a_tensor(view: ModelView, batch: Batch, ctx: Context) -> Batch:
    return batch.x  # type: ignore[return-value]


@dataclass(kw_only=True)
class SpoilsValAtSetup(PixelAttack):
    def setup(self, view: ModelView, access: Access, ctx: Context) -> None:
        super().setup(view, access, ctx)
        access.val.x.mul_(0.5)


@dataclass(kw_only=True)
class TriggerLeavesTheBall(PixelAttack):
    def trigger(self, view: ModelView, clean: Batch, ctx: Context) -> Batch:
        return clean.with_x(1 - clean.x)


@dataclass(kw_only=True)
class Forgets(PixelAttack):
    """Keeps what it has found at set-up in an attribute that is not a field."""

    def setup(self, view: ModelView, access: Access, ctx: Context) -> None:
        super().setup(view, access, ctx)
        self.scale = 0.99

    def poison(self, view: ModelView, batch: Batch, ctx: Context) -> Batch:
        return batch.with_x(batch.x * getattr(self, "scale", 1.0))


@dataclass(kw_only=True)
class Remembers(PixelAttack):
    """Forgets to save None, so that a state from before the first batch does not bring the attack back there."""

    last: Tensor | None = field(default=None, init=False)

    def poison(self, view: ModelView, batch: Batch, ctx: Context) -> Batch:
        first, self.last = self.last is None, batch.x
        return batch if first else batch.with_x(batch.x * 0.99)

    def state(self) -> State:
        return {name: value for name, value in super().state().items() if value is not None}


@dataclass(kw_only=True)
class SharesItsState(PixelAttack):
    """Hands out the tensor that it goes on changing."""

    total: Tensor = field(default_factory=lambda: torch.zeros(()), init=False)

    def poison(self, view: ModelView, batch: Batch, ctx: Context) -> Batch:
        self.total += 0.01
        return batch.with_x(batch.x * (1 - self.total.clamp(max=0.05)))

    def state(self) -> State:
        return {**super().state(), "total": self.total}


@dataclass(kw_only=True)
class SavesAList(PixelAttack):
    def state(self) -> State:
        return {**super().state(), "window": [1, 2]}  # type: ignore[dict-item]


@dataclass(kw_only=True)
class Unbounded(PixelAttack):
    """Breaks no promise: it makes none about distance or labels."""

    bounded: ClassVar[bool] = False
    keeps_labels: ClassVar[bool] = False

    def poison(self, view: ModelView, batch: Batch, ctx: Context) -> Batch:
        return replace(batch, x=1 - batch.x, y=batch.y.flip(0))


BROKEN: list[tuple[type[Attack], str]] = [
    (attack(mutates_input), r"poison changed what it was given to read"),
    (attack(mutates_labels), r"poison changed what it was given to read"),
    (attack(global_torch), r"poison changed the global random state"),
    (attack(global_numpy), r"poison changed the global random state"),
    (attack(global_python), r"poison changed the global random state"),
    (attack(seeds_globally), r"poison changed the global random state"),
    (attack(borrows_global_seed), r"two different outputs from one seed"),
    (attack(unseeded), r"two different outputs from one seed"),
    (attack(frozen_noise), r"asks for ctx\.rng, yet returns the same at every step"),
    (attack(peeks_at_the_step), r"differs from step to step, yet asks for neither"),
    (attack(leaves_the_ball), r"poison moved a pixel by 0\.06\d+, over its budget of 0\.06"),
    (attack(leaves_the_range), r"poison returned images outside \[0, 1\]"),
    (attack(not_finite), r"poison returned images that are not finite"),
    (attack(ignores_its_eps), r"changed an image with eps 0"),
    (attack(flips_labels), r"changed a label, yet keeps_labels is True"),
    (attack(renames), r"changed the id or the place of a row"),
    (attack(drops_a_row), r"made images \[5, 3, 8, 8\] of \[6, 3, 8, 8\]"),
    (attack(widens), r"made torch\.float64 images of torch\.float32 ones"),
    (attack(keeps_a_graph), r"returned images that carry a graph"),
    (attack(changes_weights), r"poison changed the weights"),
    (attack(changes_buffers), r"poison changed the buffers"),
    (attack(freezes_the_view), r"poison changed the requires_grad of a parameter"),
    (attack(turns_gradients_off), r"poison changed torch's gradient mode"),
    (attack(logs_what_it_likes), r"poison logged an unknown tag 'attack/mood'"),
    (attack(returns_a_tensor), r"returned a Tensor, not a Batch"),
    (SpoilsValAtSetup, r"setup changed what it was given to read"),
    (TriggerLeavesTheBall, r"trigger moved a pixel"),
    (Forgets, r"went on differently after state\(\) was restored into a fresh one"),
    (Remembers, r"went on differently after state\(\) was restored into the same one, gone on meanwhile"),
    (SharesItsState, r"went on differently after state\(\) was restored"),
    (SavesAList, r"has a list under 'window', which no checkpoint can hold"),
]
