"""What an attack is."""

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from accupoison.attacks.trigger import craft_trigger
from accupoison.errors import InputError
from accupoison.registry import Registry, component_state, restore_component
from accupoison.types import Access, Batch, Context, ModelView, State


@dataclass(kw_only=True)
class Attack:
    """The base of all attacks: leaves the stream alone and crafts an adversarial trigger if one is to be delivered.

    A subclass is a dataclass whose init fields are its settings; ``field(init=False)`` fields that hold tensors,
    numbers or strings are its state, saved and restored with the run.

    Attributes:
        knows: What the attacker knows beyond the model's weights and its own images.
        aims: The attack needs the crafted trigger while it poisons.
        bounded: The images it returns stay within ``eps`` of the clean ones and in [0, 1].
        keeps_labels: Labels stay as they are.
        keeps_ids: Rows keep their place and id; False where it puts samples of its own among them.
        eps: l_inf radius in pixels of the [0, 1] range.
        steps: Signed gradient steps of size ``2 * eps / steps``.
        recentre: When the trigger is crafted anew, start from and centre the ball on the last crafted one, as the
            released code does: the distance from the clean images then grows at every step.

    Raises:
        InputError: ``eps`` is negative or ``steps`` below 1.
    """

    knows: ClassVar[frozenset[str]] = frozenset()
    aims: ClassVar[bool] = False
    bounded: ClassVar[bool] = True
    keeps_labels: ClassVar[bool] = True
    keeps_ids: ClassVar[bool] = True

    eps: float = 16 / 255
    steps: int = 4
    recentre: bool = False
    access: Access = field(init=False, repr=False)
    target: Tensor | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.eps <= 1:
            raise InputError(f"attack.eps {self.eps} is outside [0, 1]; give a radius in pixels such as 16/255")
        if self.steps < 1:
            raise InputError(f"attack.steps {self.steps} is below 1; give the number of gradient steps")

    def setup(self, view: ModelView, access: Access, ctx: Context) -> None:
        """Start a run: craft the trigger where it is needed.

        A resumed run does not come here again; it gets its state back by :meth:`restore`.
        """
        self.access = access
        if self.aims or access.crafted:
            self.target = self.craft(view, access.trigger)

    def poison(self, view: ModelView, batch: Batch, ctx: Context) -> Batch:
        """Return what is sent in place of ``batch``; the base sends it as it is."""
        return batch

    def trigger(self, view: ModelView, clean: Batch, ctx: Context) -> Batch:
        """Return the crafted trigger batch, made at set-up or, if the run re-optimises it, now."""
        if self.target is None or self.access.reoptimise:
            centre = clean if self.target is None or not self.recentre else clean.with_x(self.target)
            self.target = self.craft(view, centre)
        return clean.with_x(self.target)

    def craft(self, view: ModelView, clean: Batch) -> Tensor:
        """Return adversarial images for the ``clean`` batch against the attacker's own."""
        return craft_trigger(view, clean, self.access.val, eps=self.eps, steps=self.steps)

    def state(self) -> State:
        """Return what must be saved to go on later."""
        return component_state(self)

    def restore(self, state: State, access: Access) -> None:
        """Put back what :meth:`state` returned."""
        self.access = access
        restore_component(self, state)


ATTACKS: Registry[Attack] = Registry("attack")
