"""Whether a defence lets one row of a batch depend on another."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from accupoison.defenses import Defense
from accupoison.gradients import pgd_linf
from accupoison.rng import generator
from accupoison.testing.bench import CLASSES, IDS, ROWS, SEED, Bench, BenchContext, expect, same
from accupoison.types import Batch, Grads

LATER, LARGE = 1000, 120
"""A step at which every warm-up is over, and rows enough for every rule that waits for many."""
SHARPER = 16
"""Times the logits of the bench's model."""
FLIPPED, NEAR = 0.05, 0.01
"""Where rows come in another number or order, kernels round otherwise and signed steps make much of it: so large a
share of a row's values may differ, and by so much before they count."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Fates:
    """What became of a batch: what the update sees, each row's loss, and what fixed gradients turn into."""

    seen: Batch
    losses: Tensor
    grads: Grads

    def of(self, ids: Tensor) -> tuple[Batch, Tensor]:
        """Return the rows of ids [N] in that order, repeated ones, too, then those made up, with their losses [B]."""
        chosen = [torch.where(self.seen.ids == i)[0] for i in ids] + [torch.where(self.seen.ids < 0)[0]]
        return self.seen.rows(torch.cat(chosen)), self.losses[torch.cat(chosen)]


def check_coupling(make: Callable[[], Defense]) -> None:
    """Raise AssertionError if rows depend on each other and ``couples`` is not True.

    Rows of several batches stay while the others are replaced (by white, black, noisy, hard, easy, other and equal
    ones, under other labels), one or all of them: what becomes of those that stay must be the same bit for bit, at that
    step and at later ones. Leaving rows out, adding some and another order may change rounding alone; a defence that
    draws random numbers is not tried with these, as its draws may go by the number of rows.

    Args:
        make: Returns a new instance with the settings to be tried.
    """
    couples = type(make()).couples
    if couples:
        return
    name = f"defence {type(make()).__name__}"
    declared = "couples is False" if couples is False else "does not declare it: set `couples: ClassVar[bool] = True`"
    for how, alike in _trials(make):
        expect(alike, f"{name} lets one row's image or loss depend on another's, yet {declared} (seen with {how})")


def _trials(make: Callable[[], Defense]) -> Iterator[tuple[str, bool]]:
    """Yield what was tried, and whether the rows that stayed came out alike."""
    world = _World(make)
    for base, t in ((0, 0), (1, 3), (2, LATER)):
        batch = _bases()[base]
        fates = world.play([batch], t)
        yield from _replaced(world, batch, fates, t)
        yield from _resized(world, batch, fates, t)
        yield from _losses_alone(world, fates.seen)
    yield from _remembered(world)


class _World:
    """Plays batches to new instances of a defence; the model never learns, so only the defence can remember."""

    def __init__(self, make: Callable[[], Defense]) -> None:
        self.make = make
        self.defense = make()
        self.bench = _sharp()
        self.draws = False

    def play(self, batches: list[Batch], t: int) -> Fates:
        """Return what becomes of the last of ``batches``, which come from step ``t`` on."""
        try:
            return self._play(batches, t)
        except Exception as error:  # it is somebody's own and may raise anything
            sizes = ", then ".join(str(len(batch)) for batch in batches)
            raise AssertionError(
                f"defence {type(self.defense).__name__} failed on {sizes} rows ({type(error).__name__}: {error})"
            ) from error

    def _play(self, batches: list[Batch], t: int) -> Fates:
        defense = self.defense = self.make()
        learner = self.bench.learner
        trusted = self.bench.trusted if defense.needs_trusted else ()
        reference = self.bench.reference if "snapshot" in defense.requires else None
        defense.setup(learner.view(), reference, trusted, BenchContext("defense-setup", 0))
        given = tuple(torch.full_like(p, 0.01).detach() for p in learner.view().params())
        for step, batch in enumerate(batches, t):
            context = BenchContext("defense", step)
            seen = defense.intercept(learner.view(), batch, context)
            losses = self.losses(seen).detach()
            update = BenchContext("update", step)
            grads = defense.gradients(given, learner.momentum(), update)
            grads = defense.direct(grads, learner.view(), update)
            self.draws |= context.asked_rng
        return Fates(seen=seen, losses=losses, grads=grads)

    def losses(self, seen: Batch) -> Tensor:
        """Return the loss of each row by the last instance, with its graph."""
        if not len(seen):
            return torch.zeros(0)
        with self.bench.learner.forward() as forward:
            return self.defense.losses(forward, seen)


def _replaced(world: _World, batch: Batch, fates: Fates, t: int) -> Iterator[tuple[str, bool]]:
    """Replace all rows but the first, the middle or the last, or this one alone; of a large batch, but one of them."""
    count = len(batch)
    for (number, (kind, fill)), place in product(enumerate(_FILLS.items()), range(3)):
        if count > ROWS and place != number % 3:
            continue
        row = (0, count // 2, count - 1)[place]
        for others in (torch.arange(count) != row, torch.arange(count) == row):
            ids = batch.ids[~others]
            now = world.play([_filled(batch, others, fill(batch, row))], t)
            before, after = fates.of(ids), now.of(ids)
            alike = same(before[0], after[0]) and same(fates.grads, now.grads)
            # where other rows are dropped, kernels round otherwise
            equal = same if same(fates.seen.ids, now.seen.ids) else _close
            yield f"{int(others.sum())} of {count} rows {kind}", alike and equal(before[1], after[1])


def _filled(batch: Batch, where: Tensor, rows: Batch) -> Batch:
    """Return ``batch`` with images and labels of ``rows`` in the places ``where``; ids stay."""
    x, y = batch.x.clone(), batch.y.clone()
    x[where], y[where] = rows.x[where], rows.y[where]
    return replace(batch, x=x, y=y)


def _resized(world: _World, batch: Batch, fates: Fates, t: int) -> Iterator[tuple[str, bool]]:
    """Leave rows out, add some, and put them into another order."""
    count, more = len(batch), _bases()[3]
    if world.draws:
        return
    for how, rows in _selections(count):
        yield how, _alike(world.play([batch.rows(rows)], t), fates, batch.ids[rows])
    yield "rows added", _alike(world.play([Batch.concat([batch, more])], t), fates, batch.ids)


def _alike(now: Fates, before: Fates, ids: Tensor) -> bool:
    """Return whether the rows ``ids`` came out alike up to rounding; losses are compared elsewhere, on equal images."""
    (a, _), (b, _) = now.of(ids), before.of(ids)
    if not (same([a.y, a.ids], [b.y, b.ids]) and same(now.grads, before.grads) and a.extra.keys() == b.extra.keys()):
        return False
    return _mostly(a.x, b.x) and all(_mostly(value, b.extra[name]) for name, value in a.extra.items())


def _mostly(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape:
        return False
    off = (a.double() - b.double()).abs() > NEAR * (0.1 + b.double().abs())
    return not len(a) or bool((off.view(len(a), -1).double().mean(1) <= FLIPPED).all())


def _close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-4, atol=1e-5)


def _selections(count: int) -> list[tuple[str, Tensor]]:
    every = torch.arange(count)
    return [
        ("the last row left out", every[:-1]),
        ("the first row left out", every[1:]),
        ("every second row left out", every[1::2]),
        ("one row alone", every[count // 2 : count // 2 + 1]),
        ("the rows in reverse", every.flip(0)),
        ("the rows shuffled", torch.randperm(count, generator=generator(SEED, "coupling"))),
    ]


def _losses_alone(world: _World, seen: Batch) -> Iterator[tuple[str, bool]]:
    """Ask for the losses of some of the rows, or in another order, and for the slope of one by the images of others."""
    if len(seen) < 2:
        return
    whole = world.losses(seen).detach()
    for how, rows in _selections(len(seen)):
        yield f"{how} in losses", _close(world.losses(seen.rows(rows)).detach(), whole[rows])
    x = seen.x.clone().requires_grad_()
    extra = {key: value.clone().requires_grad_(value.is_floating_point()) for key, value in seen.extra.items()}
    losses = world.losses(replace(seen, x=x, extra=extra))
    leaves = [x, *(value for value in extra.values() if value.requires_grad)]
    for row in (0, len(seen) // 2, len(seen) - 1):
        slopes = torch.autograd.grad(losses[row], leaves, retain_graph=True, allow_unused=True)
        other = torch.arange(len(seen)) != row
        yield "the slope of a loss", all(not bool(slope[other].any()) for slope in slopes if slope is not None)


def _remembered(world: _World) -> Iterator[tuple[str, bool]]:
    """Change earlier batches: state must not carry what was in them on to the rows of a later one."""
    *first, last = (_bases()[base] for base in (0, 1, 3, 2))
    plain = {t: world.play([*first, last], t) for t in (0, LATER)}
    for number, (kind, fill) in enumerate(_FILLS.items()):
        t = (0, LATER)[number % 2]
        earlier = [_filled(batch, torch.arange(len(batch)) >= 0, fill(batch, 0)) for batch in first]
        yield f"earlier rows {kind}", _unmoved(world.play([*earlier, last], t), plain[t])
    fewer = [batch.rows(slice(0, 1)) for batch in first]
    yield "fewer rows earlier", _unmoved(world.play([*fewer, last], 0), plain[0])


def _unmoved(now: Fates, before: Fates) -> bool:
    return all(same(getattr(now, part), getattr(before, part)) for part in ("seen", "losses", "grads"))


def _sharp() -> Bench:
    """Return a world whose model is sure of itself, so that losses reach from almost 0 to many times the median."""
    return Bench.make("eval", SHARPER)


@cache
def _bases() -> list[Batch]:
    """Return batches that no defence changes: a plain one, one of pale images, a large one, and one more."""
    plain, pale, more, *_ = (replace(batch, x=batch.x.clone()) for batch in Bench.make().batches)
    rng = generator(SEED, "large")
    x, y = torch.rand(LARGE, *plain.x.shape[1:], generator=rng), torch.randint(CLASSES, (LARGE,), generator=rng)
    large = Batch(x * torch.rand(LARGE, 1, 1, 1, generator=rng), y, IDS + torch.arange(LARGE))
    return [plain, pale.with_x(0.3 + 0.4 * pale.x), large, more]


@cache
def _extremes() -> dict[str, Batch]:
    """Return rows that the model finds hard and rows that it finds easy."""
    batch, view = Batch.concat(Bench.make().batches), _sharp().learner.view()

    def ascent(sign: int) -> Batch:
        extreme = pgd_linf(
            batch.x, lambda x: sign * F.cross_entropy(view.logits(x), batch.y, reduction="sum"), eps=1.0, steps=20
        )
        return batch.with_x(extreme)

    return {"hard": ascent(1), "easy": ascent(-1)}


def _tone(value: float) -> Callable[[Batch, int], Batch]:
    return lambda batch, _: batch.with_x(torch.full_like(batch.x, value))


def _noise(batch: Batch, row: int) -> Batch:
    return batch.with_x(torch.rand(batch.x.shape, generator=generator(SEED, "noise")))


def _extreme(kind: str) -> Callable[[Batch, int], Batch]:
    def fill(batch: Batch, row: int) -> Batch:
        rows = _extremes()[kind].rows(torch.arange(len(batch)) % len(_extremes()[kind]))
        return replace(batch, x=rows.x, y=rows.y)

    return fill


def _copies(shift: int, blur: float = 0.0) -> Callable[[Batch, int], Batch]:
    """Return what makes all rows like one, or almost, under its label or another."""

    def fill(batch: Batch, row: int) -> Batch:
        x, y = batch.x[row].expand_as(batch.x), batch.y[row].expand_as(batch.y)
        return replace(batch, x=x + blur * (0.5 - x), y=(y + shift) % CLASSES)

    return fill


def _relabelled(shift: int | None) -> Callable[[Batch, int], Batch]:
    """Return what gives all rows the label of one, or one beside it; None moves each label on."""

    def fill(batch: Batch, row: int) -> Batch:
        y = batch.y + 1 if shift is None else batch.y[row].expand_as(batch.y) + shift
        return replace(batch, y=y % CLASSES)

    return fill


_FILLS: dict[str, Callable[[Batch, int], Batch]] = {
    "white": _tone(1.0),
    "black": _tone(0.0),
    "grey": _tone(0.5),
    "noisy": _noise,
    "hard": _extreme("hard"),
    "easy": _extreme("easy"),
    "equal": _copies(0),
    "equal under another label": _copies(1),
    "almost equal": _copies(0, 0.02),
    "under one label": _relabelled(0),
    "under another label": _relabelled(1),
    "under other labels": _relabelled(None),
    "from another batch": lambda batch, row: batch.rows(torch.arange(len(batch)).roll(1)),
}
"""What rows are replaced by, given the batch and the row of it that matters."""
