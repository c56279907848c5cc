"""The base of the attacks that decide beforehand whose labels change and which samples of their own join, and when."""

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from accupoison.attacks.base import Attack
from accupoison.data.fabricated import source_ids
from accupoison.errors import InputError, check_least
from accupoison.rng import generator
from accupoison.types import Access, Batch, Context, ModelView, Population, State

NOBODY = torch.empty(0, dtype=torch.int64)


@dataclass(frozen=True, eq=False)
class Joining:
    """Samples of an attacker's own, int64 [N] each.

    Attributes:
        ids: Of :func:`accupoison.data.fabricated.fabricated_id`.
        y: Labels.
        steps: When each arrives.
        first: The first step at which it may.
        last: The last one.
    """

    ids: Tensor = NOBODY
    y: Tensor = NOBODY
    steps: Tensor = NOBODY
    first: Tensor = NOBODY
    last: Tensor = NOBODY


@dataclass(kw_only=True)
class PlannedAttack(Attack):
    """An attack whose poison is planned at set-up, for a stream or an offline training.

    The plan depends on :attr:`seed` and on who may arrive, not on the model, so that it is the same in every replay
    of a stream, whoever is in it. A subclass overrides :meth:`relabelling`, :meth:`joining`, or both.

    Attributes:
        target_class: The class that the attacker is after; None is all of them.
        rate: At most so many rows of its own a batch of a stream; None has no bound. Rows that do not fit come with the
            next batch that has room, or an earlier one.
        seed: Seed of the choice of samples and labels, 0 or more.

    Raises:
        InputError: A setting is out of its range.
    """

    keeps_labels: ClassVar[bool] = False
    keeps_ids: ClassVar[bool] = False
    offline: ClassVar[bool] = True
    neutral: ClassVar[dict[str, Any]]
    """The settings at which it leaves everything as it is, bit for bit."""

    target_class: int | None = 0
    rate: int | None = None
    seed: int = 0
    changed_ids: Tensor = field(init=False, repr=False, compare=False)
    changed_y: Tensor = field(init=False, repr=False, compare=False)
    own_ids: Tensor = field(init=False, repr=False, compare=False)
    own_y: Tensor = field(init=False, repr=False, compare=False)
    own_steps: Tensor = field(init=False, repr=False, compare=False)
    own_rows: Tensor = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_least("attack.target_class", self.target_class, 0, "a class by its number, or none for all")
        check_least("attack.rate", self.rate, 1, "a number of rows, or none")
        check_least("attack.seed", self.seed, 0, "0 or more")

    @property
    def sees_model(self) -> bool:
        """The plan does not depend on it."""
        return False

    @property
    def population(self) -> Population:
        """The samples that may be poisoned."""
        if self.access.population is None:
            raise InputError(f"the attack {self.name or type(self).__name__} was not told whom it may poison")
        return self.access.population

    def setup(self, view: ModelView, access: Access, ctx: Context) -> None:
        """Make the plan.

        Raises:
            InputError: There are too few samples or classes, or no room, for it.
        """
        super().setup(view, access, ctx)
        if not self.keeps_labels and self.population.num_classes < 2:
            raise InputError(f"the attack {self.name} gives other labels, and there is only one class; give more")
        if self.rate is not None and not self.population.ordered:
            raise InputError(
                f"attack.rate {self.rate} bounds batches of a stream, and a training draws its own; drop it"
            )
        changed = self.relabelling()
        order = changed[0].argsort()
        self.changed_ids, self.changed_y = (part[order] for part in changed)
        own = self.joining(view)
        steps = self._with_room(own)
        order = steps.argsort(stable=True)
        self.own_ids, self.own_y, self.own_steps, self.own_rows = own.ids[order], own.y[order], steps[order], order

    def restore(self, state: State, access: Access) -> None:
        """Put back what :meth:`state` returned; plans are on the CPU, wherever the run is."""
        plain = {name: value.cpu() if isinstance(value, Tensor) else value for name, value in state.items()}
        super().restore(plain, access)

    def relabelling(self) -> tuple[Tensor, Tensor]:
        """Return the ids of the stream's samples that get another label, and the labels, int64 [N] each."""
        return NOBODY, NOBODY

    def joining(self, view: ModelView) -> Joining:
        """Return the samples of the attacker's own.

        Args:
            view: The model that the stream, or the training, begins with.
        """
        return Joining()

    def own_x(self, index: Tensor) -> Tensor:
        """Return images of the attacker's own by their row in the plan, floating [N, ...]; the base copies sources."""
        return self.population.raw(source_ids(self.own_ids[index])).x

    def stamp(self, x: Tensor) -> Tensor:
        """Return the images [N, ...] whose label is changed as they are sent; the base leaves them as they are."""
        return x

    def poison(self, view: ModelView, batch: Batch, ctx: Context) -> Batch:
        """Return the batch with the labels of the plan, and after its rows the attacker's own of this step."""
        return self.joined(self.relabelled(batch), (self.own_steps == ctx.t).nonzero().flatten())

    def relabelled(self, batch: Batch) -> Batch:
        """Return the batch with changed labels, and stamped images, where the plan says so."""
        ids = batch.ids.cpu()
        rows = torch.isin(ids, self.changed_ids).nonzero().flatten()
        if not len(rows):
            return batch
        labels = self.changed_y[torch.searchsorted(self.changed_ids, ids[rows])]
        rows = rows.to(batch.y.device)
        x, y = batch.x.clone(), batch.y.clone()
        y[rows], x[rows] = labels.to(y.device), self.stamp(batch.x[rows])
        return replace(batch, x=x, y=y)

    def joined(self, batch: Batch, index: Tensor) -> Batch:
        """Return the batch with the attacker's own samples after its rows.

        Args:
            batch: B rows.
            index: Rows of the plan, int64 [N].
        """
        if not len(index):
            return batch
        device = batch.x.device
        own = Batch(self.own_x(index).to(device), self.own_y[index].to(device), self.own_ids[index].to(device))
        return Batch.concat([batch, own])

    def everybody(self) -> Tensor:
        """Return the ids of all samples that arrive, int64 [N], each once."""
        return torch.cat([NOBODY, *self.population.steps]).unique()  # type: ignore[no-untyped-call,no-any-return]

    def share(self, ratio: float) -> int:
        """Return how many samples a share in [0, 1] of all that arrive, or are trained on, comes to."""
        return round(ratio * self.population.total)

    def spread(self, ids: Tensor, y: Tensor, copies: int, first: Tensor, last: Tensor) -> Joining:
        """Return own samples that arrive evenly over the steps that are left to them.

        Args:
            ids: int64 [N * copies], those of one source together.
            y: Their labels, int64 [N * copies].
            copies: Of each source.
            first: The first step of each source's copies, int64 [N].
            last: The last one, int64 [N].
        """
        share = (torch.arange(copies) + 0.5) / max(1, copies)
        steps = first[:, None] + ((last - first + 1)[:, None] * share).long()
        return Joining(ids, y, steps.flatten(), *(end.repeat_interleave(copies) for end in (first, last)))

    def anywhere(self, ids: Tensor, y: Tensor) -> Joining:
        """Return own samples, int64 [N] and their labels, that arrive evenly over all steps."""
        ends = torch.tensor([0]), torch.tensor([len(self.population.steps) - 1])
        return self.spread(ids, y, len(ids), *ends)

    def priority(self, ids: Tensor, *purpose: str) -> Tensor:
        """Return a random number for each id that is the same whoever else is there, float64 [N] in [0, 1)."""
        draw = torch.rand(self.population.size, generator=self.rng(*purpose), dtype=torch.float64)
        return draw[ids]

    def rng(self, *purpose: str) -> torch.Generator:
        """Return a generator that depends on :attr:`seed` and the purpose alone."""
        return generator(self.seed, "attack-plan", *purpose)

    def wrong_labels(self, y: Tensor, draw: Tensor) -> Tensor:
        """Return a uniformly random other label for each sample, int64 [N].

        Args:
            y: The true labels, int64 [N].
            draw: Random numbers, [N] in [0, 1).
        """
        others = self.population.num_classes - 1
        return (y + 1 + (draw * others).long()) % self.population.num_classes

    def of_class(self, label: int | None, ids: Tensor) -> Tensor:
        """Return those of the samples, int64 [N], that have the label; None takes all.

        Raises:
            InputError: No class has this number.
        """
        if label is None:
            return ids
        if label >= self.population.num_classes:
            raise InputError(
                f"attack.target_class {label} is none of the {self.population.num_classes} classes; give 0 to "
                f"{self.population.num_classes - 1}"
            )
        return ids[self.population.labels(ids) == label]

    def _with_room(self, own: Joining) -> Tensor:
        """Return steps of arrival, int64 [N], at most ``rate`` rows each and within what is left to each row."""
        if self.rate is None:
            return own.steps
        room, placed = [self.rate] * len(self.population.steps), own.steps.clone()
        for row in (own.last - own.first).argsort(stable=True).tolist():  # those with the least choice first
            wanted, first, last = (int(part[row]) for part in (own.steps, own.first, own.last))
            free = next((t for t in (*range(wanted, last + 1), *range(wanted - 1, first - 1, -1)) if room[t]), None)
            if free is None:
                raise InputError(
                    f"attack.rate {self.rate} leaves no room for {len(placed)} rows of the attacker's own where they "
                    f"may arrive in {len(room)} steps; raise the rate or plan fewer"
                )
            room[free] -= 1
            placed[row] = free
        return placed
