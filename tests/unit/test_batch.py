"""What a batch refuses, what it lets pass, and what feature data of another range become."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from accupoison import types
from accupoison.attacks import Attack, PixelAttack
from accupoison.attacks.accumulative import craft_accumulative
from accupoison.attacks.noise import noisy
from accupoison.attacks.trigger import craft_trigger
from accupoison.defenses import Defense
from accupoison.defenses.at import perturb
from accupoison.defenses.dsc import correct
from accupoison.errors import ComponentError, RangeError
from accupoison.models.view import view_of
from accupoison.types import Access, Batch, Context, ModelView
from tests.messages import refuses, says
from tests.nets import random_batch, random_net
from tests.simulations import simulation

CIFAR = (torch.tensor([0.4914, 0.4822, 0.4465]), torch.tensor([0.247, 0.2435, 0.2616]))


def normalised(batch: Batch) -> Tensor:
    mean, std = (value.view(1, 3, 1, 1) for value in CIFAR)
    return (batch.x - mean) / std


def test_normalised_images_are_refused_with_the_fix() -> None:
    batch = random_batch(1)
    for make in (batch.with_x, lambda x: replace(batch, x=x), lambda x: Batch(x, batch.y, batch.ids)):
        with pytest.raises(RangeError, match=r"^images outside \[0, 1\]: from -\d.* to 2\.\d+; give pixels") as caught:
            make(normalised(batch))
        says(caught.value, "model (accupoison.models.layers.Normalize)")
        says(caught.value, "Batch(..., bounded=False)")
    with refuses("torch.uint8 divide 255", RangeError):
        batch.with_x((batch.x * 255).byte())


@pytest.mark.parametrize("value", [-1e-7, 1 + 1e-6, 255.0, float("inf"), -float("inf")])
def test_one_value_outside_is_enough(value: float) -> None:
    x = random_batch(1, dtype=torch.float32).x.clone()
    x[2, 1, 3, 4] = value
    with pytest.raises(RangeError):
        random_batch(1).with_x(x)


def test_what_passes() -> None:
    batch = random_batch(1)
    batch.with_x(torch.full_like(batch.x, torch.nan))  # divergence is a result, and the loop tells it apart
    batch.with_x(batch.x.clone().requires_grad_())
    batch.with_x(batch.x.round())
    assert len(batch.rows(slice(0, 0))) == 0


def test_images_are_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[Tensor] = []
    monkeypatch.setattr(types, "check_range", lambda x: looked.append(x))
    batch = random_batch(1)
    rows = replace(batch.rows(torch.arange(3)), y=batch.y[:3].flip(0))
    assert len(looked) == 1
    rows.with_x(rows.x / 2)
    assert len(looked) == 2


def test_features_of_another_range() -> None:
    images, view = random_batch(1), view_of(random_net(0))
    batch, other = (replace(random_batch(n), x=5 * random_batch(n).x - 9, bounded=False) for n in (1, 2))
    for kept in (batch.rows(slice(0, 2)), batch.with_x(batch.x - 1), replace(batch, y=batch.y), Batch.concat([batch])):
        assert not kept.bounded
    assert not Batch.concat([images, batch]).bounded
    crafted: dict[str, Callable[[Batch], Tensor]] = {
        "trigger": lambda b: craft_trigger(view, b, other, eps=0.1, steps=2),
        "accumulative": lambda b: craft_accumulative(view, other, b, other, eps=0.1, steps=2),
        "AT": lambda b: perturb(view, b, eps=0.1, step_size=0.1, steps=2),
        "DSC": lambda b: correct(view, view_of(random_net(1)), b, -1.0, eps=0.1, step_size=0.1, steps=2)[0],
        "noise": lambda b: noisy(b.x, "rademacher", 0.1, torch.Generator().manual_seed(0), bounded=b.bounded),
    }
    for name, craft in crafted.items():
        moved = (craft(batch) - batch.x).abs()
        assert float(moved.max()) == pytest.approx(0.1), name
        assert float(moved.mean()) > 0.01, name
        assert 0 <= float(craft(images).min()) <= float(craft(images).max()) <= 1, name


@dataclass(kw_only=True)
class Normalises(PixelAttack):
    where: str = "poison"

    def setup(self, view: ModelView, access: Access, ctx: Context) -> None:
        super().setup(view, access, ctx)
        if self.where == "setup":
            access.val.with_x(access.val.x * 4)

    def perturb(self, view: ModelView, batch: Batch, ctx: Context) -> Tensor:
        return batch.x * 4 if self.where == "poison" else batch.x


@dataclass(kw_only=True)
class Buggy(Defense):
    def intercept(self, view: ModelView, batch: Batch, ctx: Context) -> Batch:
        raise ValueError("too many values to unpack")


@dataclass(kw_only=True)
class InPlace(Defense):
    def intercept(self, view: ModelView, batch: Batch, ctx: Context) -> Batch:
        seen = batch.with_x(batch.x.clone())
        seen.x.add_(1)
        return seen


@pytest.mark.parametrize(
    ("attack", "defense", "words"),
    [
        (Normalises(), "ST", "Normalises [0, 1] 0 4"),
        (Normalises(where="setup"), "ST", "Normalises [0, 1] 0 4"),
        ("none", InPlace(), "InPlace [0, 1] NaN 1 2"),
    ],
)
def test_the_loop_names_who_made_it(attack: Attack | str, defense: Defense | str, words: str) -> None:
    with refuses(words, ComponentError):
        next(simulation(attack, defense).run())


def test_a_bug_of_a_component_passes_as_it_is() -> None:
    with refuses("many values unpack", ValueError):
        next(simulation("none", Buggy()).run())


def test_a_setup_that_fails_can_be_abandoned() -> None:
    """The run of a model that had diverged before ends; it does not set up again and again."""
    simulated = simulation(Normalises(where="setup"))
    with refuses("Normalises", ComponentError):
        next(simulated.run())
    simulated.abandon()
    assert list(simulated.run()) == []
