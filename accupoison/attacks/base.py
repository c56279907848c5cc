"""What an attack is."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from accupoison.attacks.stealth import hide, loss_on
from accupoison.attacks.trigger import craft_trigger
from accupoison.errors import InputError
from accupoison.registry import Registry, component_state, restore_component
from accupoison.types import Access, Batch, Context, ModelView, State

CRAFT_MODES = ("eval", "train")
STAGES = ("data", "code")


@dataclass(kw_only=True)
class Attack:
    """The base of all attacks: leaves the stream alone and crafts an adversarial trigger if one is to be delivered.

    A subclass is a dataclass whose init fields are its settings; ``field(init=False)`` fields that hold tensors,
    numbers or strings are its state, saved and restored with the run. It overrides :meth:`perturb`, or :meth:`poison`
    if it does more than move images.

    Attributes:
        knows: What the attacker knows beyond the model's weights and its own images.
        bounded: The images it returns stay within ``eps`` of the clean ones and in [0, 1].
        keeps_labels: Labels stay as they are.
        keeps_ids: Rows keep their place and id; False where it puts samples of its own among them.
        eps: l_inf radius in pixels of the [0, 1] range.
        steps: Signed gradient steps of size ``2 * eps / steps``.
        ratio: Share of the rows of a batch that are poisoned, drawn anew at each step; the trigger is poisoned whole.
        redraw: False poisons the same places of every batch, and of the trigger, as the released code does
            (``poison_scale``).
        val_size: Of the attacker's own images, so many are used, drawn anew at each step; None uses all.
        craft_mode: What batch norm does while the attacker crafts: "eval" or "train".
        round_sign: Leave a pixel where it is if the slope there is below 0.0005 (``roundsign`` of the released code).
        recentre: When the trigger is crafted anew, start from and centre the ball on the last crafted one, as the
            released code does: the distance from the clean images then grows at every step.
        stage: "data": images are poisoned on the wire, before the defence sees them. "code": the attacker owns the
            training code and moves the images that the defence passed on, within ``eps`` of those and unrounded; what
            the defence made beside them (``Batch.extra``, such as TRADES' adversarial images) stays.
        stealth: Keep the loss on the attacker's images, as it predicts it after the update, at most so many nats above
            that of the start (Pang et al. 2021, Eq. 7; see :func:`~accupoison.attacks.stealth.hide`); None is off.

    Raises:
        InputError: A setting is out of its range.
    """

    knows: ClassVar[frozenset[str]] = frozenset()
    bounded: ClassVar[bool] = True
    keeps_labels: ClassVar[bool] = True
    keeps_ids: ClassVar[bool] = True

    eps: float = 16 / 255
    steps: int = 4
    ratio: float = 1.0
    redraw: bool = True
    val_size: int | None = None
    craft_mode: str = "eval"
    round_sign: bool = False
    recentre: bool = False
    stage: str = "data"
    stealth: float | None = None
    access: Access = field(init=False, repr=False)
    target: Tensor | None = field(default=None, init=False, repr=False)
    places: Tensor | None = field(default=None, init=False, repr=False)
    start_loss: float | None = field(default=None, init=False, repr=False)

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
        if self.stage not in STAGES:
            raise InputError(f"unknown attack.stage {self.stage!r}; choose data or code")
        if self.stealth is not None and not self.stealth >= 0:
            raise InputError(
                f"attack.stealth {self.stealth} is not a loss of 0 or more; give nats such as 0.1, or none"
            )

    @property
    def aims(self) -> bool:
        """The attack needs the crafted trigger while it poisons."""
        return False

    def setup(self, view: ModelView, access: Access, ctx: Context) -> None:
        """Start a run: craft the trigger where it is needed.

        A resumed run does not come here again; it gets its state back by :meth:`restore`.
        """
        self.access = access
        if not self.redraw:
            self.places = torch.randperm(len(access.trigger), generator=ctx.rng("ratio"))
        if self.stealth is not None:
            self.start_loss = loss_on(view, access.val)
        if self.aims or access.crafted:
            self.aimed(view, ctx)

    def poison(self, view: ModelView, batch: Batch, ctx: Context) -> Batch:
        """Return what is sent in place of ``batch``: ``ratio`` of its rows perturbed."""
        rows = self.rows(len(batch), ctx)
        if not len(rows):
            return batch
        rows, x = rows.to(batch.x.device), batch.x.clone()
        x[rows] = self.perturb(view, batch if self.ratio == 1 else batch.rows(rows), ctx)
        if self.stealth is not None and self.start_loss is not None:
            x = hide(view, batch, x, self.access, self.start_loss + self.stealth, ctx)
        return batch.with_x(x)

    def rows(self, count: int, ctx: Context) -> Tensor:
        """Return which of the ``count`` rows of a batch are poisoned, int64 on the CPU."""
        if self.ratio == 1:
            return torch.arange(count)
        order = torch.randperm(count, generator=ctx.rng("ratio")) if self.places is None else self.places
        return order[order < count][: self._share(count)]

    def perturb(self, view: ModelView, batch: Batch, ctx: Context) -> Tensor:
        """Return poisoned images [B, ...] for the rows of ``batch``; the base leaves them as they are."""
        return batch.x

    def trigger(self, view: ModelView, clean: Batch, ctx: Context) -> Batch:
        """Return the crafted trigger batch; at stage "code" it is made of ``clean``, as the defence passed it on."""
        if self.stage == "code":
            return clean.with_x(self._on_places(self.craft(view, clean, ctx), clean.x))
        return clean.with_x(self.aimed(view, ctx).x)

    def aimed(self, view: ModelView, ctx: Context) -> Batch:
        """Return the crafted trigger, made at set-up or, if the run re-optimises it, now."""
        clean = self.access.trigger
        if self.target is None or self.access.reoptimise:
            centre = clean if self.target is None or not self.recentre else clean.with_x(self.target)
            self.target = self._on_places(self.craft(view, centre, ctx), clean.x)
        return clean.with_x(self.target)

    def craft(self, view: ModelView, clean: Batch, ctx: Context) -> Tensor:
        """Return adversarial images for the ``clean`` batch against the attacker's own."""
        return craft_trigger(
            view,
            clean,
            self.val(ctx),
            eps=self.eps,
            steps=self.steps,
            train=self.in_train_mode,
            round_sign=self.round_sign,
        )

    def val(self, ctx: Context) -> Batch:
        """Return the attacker's own images for this step."""
        val = self.access.val
        if self.val_size is None or self.val_size >= len(val):
            return val
        rows = torch.randperm(len(val), generator=ctx.rng("val"))[: self.val_size]
        return val.rows(rows.to(val.x.device))

    def _share(self, count: int) -> int:
        """Return how many of ``count`` rows are poisoned: at least one, unless the ratio is 0."""
        return max(round(self.ratio * count), int(self.ratio > 0))

    def _on_places(self, crafted: Tensor, clean: Tensor) -> Tensor:
        """Return the crafted trigger, with clean images in the places that are never poisoned."""
        if self.places is None or self.ratio == 1:
            return crafted
        places = self.places[self.places < len(clean)].to(clean.device)
        kept = places[self._share(len(clean)) :]
        mixed = crafted.clone()
        mixed[kept] = clean[kept]
        return mixed

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
