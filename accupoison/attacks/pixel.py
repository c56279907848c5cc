"""The base of the attacks that move pixels within a ball, with what they have in common."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from accupoison.attacks.base import Attack
from accupoison.attacks.budget import Budget
from accupoison.attacks.stealth import hide, loss_on
from accupoison.attacks.trigger import craft_trigger
from accupoison.errors import InputError, check_choice, check_least
from accupoison.types import Access, Batch, Context, ModelView, State

FORMER = {"places": "fixed_rows", "target": "crafted"}
"""State by the names that it had before."""


@dataclass(kw_only=True)
class PixelAttack(Attack):
    """Leaves the stream alone and crafts an adversarial trigger if one is to be delivered.

    A subclass overrides :meth:`perturb`, or :meth:`poison` if it does more than move images.

    Attributes:
        bounded: The images it returns stay within ``eps`` of the clean ones and in [0, 1].
        eps: l_inf radius in pixels of the [0, 1] range.
        steps: Signed gradient steps of size ``2 * eps / steps`` that craft a batch.
        round_sign: Leave a pixel where it is if the slope there is below 0.0005 (``roundsign`` of the released code).
        ratio: Share of the rows of a batch that are poisoned, in [0, 1]; the trigger is poisoned whole.
        resample_rows: Draw these rows anew at each step. False poisons the same places of every batch, and of the
            trigger, as the released code does (``poison_scale``).
        val_size: Of the attacker's own images, so many are used, drawn anew at each step; None uses all.
        bn_mode: What batch norm does while the attacker crafts: "eval" (running statistics) or "train" (those of the
            batch).
        warm_start_ball: When the trigger is crafted anew, start from and centre the ball on the last crafted one, as
            the released code does: the distance from the clean images then grows at every step.
        channel: "wire": images are poisoned before the defence sees them. "code": the attacker owns the training code
            and moves the images that the defence passed on, within ``eps`` of those and unrounded; what the defence
            made beside them (``Batch.extra``, such as TRADES' adversarial images) stays.
        max_loss_increase: Keep the loss on the attacker's images, as it predicts it after the update, at most so many
            nats above that of the start (Pang et al. 2021, Eq. 7; see :func:`~accupoison.attacks.stealth.hide`); None
            is off.

    Raises:
        InputError: A setting is out of its range.
    """

    bounded: ClassVar[bool] = True

    eps: float = 16 / 255
    steps: int = 4
    round_sign: bool = False
    ratio: float = 1.0
    resample_rows: bool = True
    val_size: int | None = None
    bn_mode: str = "eval"
    warm_start_ball: bool = False
    channel: str = "wire"
    max_loss_increase: float | None = None
    crafted: Tensor | None = field(default=None, init=False, repr=False)
    fixed_rows: Tensor | None = field(default=None, init=False, repr=False)
    start_loss: float | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.eps <= 1:
            raise InputError(f"attack.eps {self.eps} is outside [0, 1]; give a radius in pixels such as 16/255")
        check_least("attack.steps", self.steps, 1, "the number of gradient steps")
        if not 0 <= self.ratio <= 1:
            raise InputError(f"attack.ratio {self.ratio} is outside [0, 1]; give a share of the rows such as 0.5")
        check_least("attack.val_size", self.val_size, 1, "a number of images, or none for all")
        check_choice("attack.bn_mode", self.bn_mode, ("eval", "train"))
        check_choice("attack.channel", self.channel, ("wire", "code"))
        if self.max_loss_increase is not None and not self.max_loss_increase >= 0:
            raise InputError(
                f"attack.max_loss_increase {self.max_loss_increase} is not a loss of 0 or more; give nats such as 0.1, "
                "or none"
            )

    @property
    def spending(self) -> Budget:
        """``ratio`` of the rows, each within ``eps`` where it is ``bounded``."""
        return Budget(eps=self.eps, ratio=self.ratio)

    @property
    def in_code(self) -> bool:
        """As ``channel`` says."""
        return self.channel == "code"

    @property
    def trigger_steps(self) -> int:
        """Steps that craft the trigger."""
        return self.steps

    @property
    def needs_trigger(self) -> bool:
        """The attack needs the crafted trigger while it poisons."""
        return False

    def budget(self, *, trigger: bool) -> float | None:
        """Return ``eps`` where the attack is ``bounded``; a ball that moves with the trigger has no fixed bound."""
        moves = trigger and self.warm_start_ball and self.access.reoptimise
        return self.eps if self.bounded and not moves else None

    def setup(self, view: ModelView, access: Access, ctx: Context) -> None:
        """Start a run: craft the trigger where it is needed."""
        super().setup(view, access, ctx)
        if not self.resample_rows:
            self.fixed_rows = torch.randperm(len(access.trigger), generator=ctx.rng("ratio"))
        if self.max_loss_increase is not None:
            self.start_loss = loss_on(view, access.val)
        if self.needs_trigger or access.crafted:
            self.crafted_trigger(view, ctx)

    def restore(self, state: State, access: Access) -> None:
        """Put back what :meth:`state` returned, also in runs that were started under the names of before."""
        super().restore({FORMER.get(name, name): value for name, value in state.items()}, access)

    def poison(self, view: ModelView, batch: Batch, ctx: Context) -> Batch:
        """Return what is sent in place of ``batch``: ``ratio`` of its rows perturbed."""
        rows = self.rows(len(batch), ctx)
        if not len(rows):
            return batch
        x = self.moved(view, batch, rows.to(batch.x.device), ctx)
        if self.max_loss_increase is not None and self.start_loss is not None:
            x = hide(view, batch, x, self.access, self.start_loss + self.max_loss_increase, ctx)
        return batch.with_x(x)

    def moved(self, view: ModelView, batch: Batch, rows: Tensor, ctx: Context) -> Tensor:
        """Return the images of a batch [B, ...] with some of them perturbed.

        Args:
            view: The model as it is now.
            batch: The whole batch.
            rows: Which rows are poisoned, int64 [N].
            ctx: Of this step.
        """
        x = batch.x.clone()
        x[rows] = self.perturb(view, batch if self.ratio == 1 else batch.rows(rows), ctx)
        return x

    def rows(self, count: int, ctx: Context) -> Tensor:
        """Return which of the ``count`` rows of a batch are poisoned, int64 [N] on the CPU."""
        if self.ratio == 1:
            return torch.arange(count)
        order = self.fixed_rows
        if order is None:
            order = torch.randperm(count, generator=ctx.rng("ratio"))
        return order[order < count][: self._share(count)]

    def perturb(self, view: ModelView, batch: Batch, ctx: Context) -> Tensor:
        """Return poisoned images [B, ...]; the base leaves them as they are.

        Args:
            view: The model as it is now.
            batch: The rows to poison, B of them.
            ctx: Of this step.
        """
        return batch.x

    def trigger(self, view: ModelView, clean: Batch, ctx: Context) -> Batch:
        """Return the crafted trigger batch; :attr:`in_code` it is made of ``clean``, as the defence passed it on."""
        if self.in_code:
            return clean.with_x(self._on_fixed_rows(self.craft(view, clean, ctx), clean.x))
        return clean.with_x(self.crafted_trigger(view, ctx).x)

    def crafted_trigger(self, view: ModelView, ctx: Context) -> Batch:
        """Return the crafted trigger, made at set-up or, if the run re-optimises it, now."""
        clean = self.access.trigger
        if self.crafted is None or self.access.reoptimise:
            centre = clean if self.crafted is None or not self.warm_start_ball else clean.with_x(self.crafted)
            self.crafted = self._on_fixed_rows(self.craft(view, centre, ctx), clean.x)
        return clean.with_x(self.crafted)

    def craft(self, view: ModelView, clean: Batch, ctx: Context) -> Tensor:
        """Return adversarial images [B, ...] against the attacker's own (Pang et al. 2021, Eq. 5).

        Args:
            view: The model as it is now.
            clean: The batch they are made of, centre of the l_inf ball.
            ctx: Of this step.
        """
        return craft_trigger(
            view,
            clean,
            self.val(ctx),
            eps=self.eps,
            steps=self.trigger_steps,
            train=self.bn_mode == "train",
            round_sign=self.round_sign,
        )

    def val(self, ctx: Context) -> Batch:
        """Return the attacker's own images for this step, as the world has them then."""
        val = self.access.val
        if self.val_size is not None and self.val_size < len(val):
            rows = torch.randperm(len(val), generator=ctx.rng("val"))[: self.val_size]
            val = val.rows(rows.to(val.x.device))
        now = ctx.present(val.x, val.ids)
        return val if now is val.x else val.with_x(now)

    def _share(self, count: int) -> int:
        """Return how many of ``count`` rows are poisoned: at least one, unless the ratio is 0."""
        return max(round(self.ratio * count), int(self.ratio > 0))

    def _on_fixed_rows(self, crafted: Tensor, clean: Tensor) -> Tensor:
        """Return the crafted trigger, with clean images in the rows that are never poisoned."""
        if self.fixed_rows is None or self.ratio == 1:
            return crafted
        rows = self.fixed_rows[self.fixed_rows < len(clean)].to(clean.device)
        untouched = rows[self._share(len(clean)) :]
        mixed = crafted.clone()
        mixed[untouched] = clean[untouched]
        return mixed
