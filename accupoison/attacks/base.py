"""What an attack is."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from accupoison.attacks.trigger import craft_trigger
from accupoison.errors import InputError
from accupoison.registry import Registry, component_state, restore_component
from accupoison.types import Access, Batch, Context, ModelView, State

CRAFT_MODES = ("eval", "train")


@dataclass(kw_only=True)
class Attack:
    """The base of all attacks: leaves the stream alone and crafts an adversarial trigger if one is to be delivered.

    A subclass is a dataclass whose init fields are its settings; ``field(init=False)`` fields that hold tensors,
    numbers or strings are its state, saved and restored with the run. It overrides :meth:`perturb`, or :meth:`poison`
    if it does more than move images.

    Attributes:
        knows: What the attacker knows beyond the model's weights and its own images.
        aims: The attack needs the crafted trigger while it poisons.
        bounded: The images it returns stay within ``eps`` of the clean ones and in [0, 1].
        keeps_labels: Labels stay as they are.
        keeps_ids: Rows keep their place and id; False where it puts samples of its own among them.
        eps: l_inf radius in pixels of the [0, 1] range.
        steps: Signed gradient steps of size ``2 * eps / steps``.
        ratio: Share of the rows of a batch that are poisoned, drawn anew at each step; the trigger is poisoned whole.
        val_size: Of the attacker's own images, so many are used, drawn anew at each step; None uses all.
        craft_mode: What batch norm does while the attacker crafts: "eval" or "train".
        recentre: When the trigger is crafted anew, start from and centre the ball on the last crafted one, as the
            released code does: the distance from the clean images then grows at every step.

    Raises:
        InputError: A setting is out of its range.
    """

    knows: ClassVar[frozenset[str]] = frozenset()
    aims: ClassVar[bool] = False
    bounded: ClassVar[bool] = True
    keeps_labels: ClassVar[bool] = True
    keeps_ids: ClassVar[bool] = True

    eps: float = 16 / 255
    steps: int = 4
    ratio: float = 1.0
    val_size: int | None = None
    craft_mode: str = "eval"
    recentre: bool = False
    access: Access = field(init=False, repr=False)
    target: Tensor | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.eps <= 1:
            raise InputError(f"attack.eps {self.eps} is outside [0, 1]; give a radius in pixels such as 16/255")
        if self.steps < 1:
            raise InputError(f"attack.steps {self.steps} is below 1; give the number of gradient steps")
        if not 0 <= self.ratio <= 1:
            raise InputError(f"attack.ratio {self.ratio} is outside [0, 1]; give a share of the rows such as 0.5")
        if self.val_size is not None and self.val_size < 1:
            raise InputError(f"attack.val_size {self.val_size} is below 1; give a number of images, or none for all")
        if self.craft_mode not in CRAFT_MODES:
            raise InputError(f"unknown attack.craft_mode {self.craft_mode!r}; choose eval or train")

    def setup(self, view: ModelView, access: Access, ctx: Context) -> None:
        """Start a run: craft the trigger where it is needed.

        A resumed run does not come here again; it gets its state back by :meth:`restore`.
        """
        self.access = access
        if self.aims or access.crafted:
            self.target = self.craft(view, access.trigger, ctx)

    def poison(self, view: ModelView, batch: Batch, ctx: Context) -> Batch:
        """Return what is sent in place of ``batch``: ``ratio`` of its rows perturbed."""
        if self.ratio == 1:
            return batch.with_x(self.perturb(view, batch, ctx))
        rows = torch.randperm(len(batch), generator=ctx.rng("ratio"))[: round(self.ratio * len(batch))]
        if not len(rows):
            return batch
        rows, x = rows.to(batch.x.device), batch.x.clone()
        x[rows] = self.perturb(view, batch.rows(rows), ctx)
        return batch.with_x(x)

    def perturb(self, view: ModelView, batch: Batch, ctx: Context) -> Tensor:
        """Return poisoned images [B, ...] for the rows of ``batch``; the base leaves them as they are."""
        return batch.x

    def trigger(self, view: ModelView, clean: Batch, ctx: Context) -> Batch:
        """Return the crafted trigger batch, made at set-up or, if the run re-optimises it, now."""
        if self.target is None or self.access.reoptimise:
            centre = clean if self.target is None or not self.recentre else clean.with_x(self.target)
            self.target = self.craft(view, centre, ctx)
        return clean.with_x(self.target)

    def craft(self, view: ModelView, clean: Batch, ctx: Context) -> Tensor:
        """Return adversarial images for the ``clean`` batch against the attacker's own."""
        return craft_trigger(view, clean, self.val(ctx), eps=self.eps, steps=self.steps, train=self.in_train_mode)

    def val(self, ctx: Context) -> Batch:
        """Return the attacker's own images for this step."""
        val = self.access.val
        if self.val_size is None or self.val_size >= len(val):
            return val
        rows = torch.randperm(len(val), generator=ctx.rng("val"))[: self.val_size]
        return val.rows(rows.to(val.x.device))

    @property
    def in_train_mode(self) -> bool:
        """The attacker crafts with batch statistics."""
        return self.craft_mode == "train"

    def state(self) -> State:
        """Return what must be saved to go on later."""
        return component_state(self)

    def restore(self, state: State, access: Access) -> None:
        """Put back what :meth:`state` returned."""
        self.access = access
        restore_component(self, state)


ATTACKS: Registry[Attack] = Registry("attack")
