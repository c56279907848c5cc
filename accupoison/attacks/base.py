"""What an attack is."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

from accupoison.attacks.budget import Budget
from accupoison.errors import InputError
from accupoison.registry import Component, Registry
from accupoison.types import Access, Batch, Context, ModelView, State

GOALS = ("unstated", "availability", "targeted", "backdoor", "privacy", "control")
"""What an attack can be after: it does not say; the accuracy on all samples; the answer on chosen ones; the answer
wherever a pattern is; who was a member; or nothing, as noise that others are compared with."""


DEFENCE, OPTIMISER = "the defence", "the optimiser"
"""What an attacker may know of the victim: what it then holds is ``Access.defense`` and ``Access.step``."""


@dataclass(kw_only=True)
class Attack(Component, ABC):
    """The base of all attacks: what the loop asks of them.

    A subclass is a dataclass; what its fields are is said at :class:`~accupoison.registry.Component`. Attacks that move
    pixels within a ball derive from :class:`~accupoison.attacks.pixel.PixelAttack`, which has the settings for that.

    Attributes:
        knows: What the attacker knows beyond the model's weights and its own images; of :data:`DEFENCE` and
            :data:`OPTIMISER` it is given a view.
        keeps_labels: Labels stay as they are.
        keeps_ids: No rows are added; False where samples of its own may come after those of the batch.
        offline: It can also poison the training set of a burn-in.
        threat: What it is after, of :data:`GOALS`, and then any ids of NIST, ATLAS or OWASP that apply to it beside
            those that follow from its settings.
        rung: Where it stands on the ladder of :mod:`accupoison.study.ladder`, in the order of the alphabet: "A-unaware"
            of the defence, then "A0" and on, the more an attacker knows or does; "" is not on it. Not inherited.
        access: What the attacker holds, from :meth:`setup` on.
    """

    knows: ClassVar[frozenset[str]] = frozenset()
    keeps_labels: ClassVar[bool] = True
    keeps_ids: ClassVar[bool] = True
    offline: ClassVar[bool] = False
    threat: ClassVar[tuple[str, ...]] = ("unstated",)
    rung: ClassVar[str] = ""

    access: Access = field(init=False, repr=False, compare=False)

    def __init_subclass__(cls, **kwargs: Any) -> None:  # noqa: ANN401
        """Refuse a ``perturb`` that nothing would call, and a goal that nobody knows."""
        super().__init_subclass__(**kwargs)
        if cls.threat[:1] not in [(goal,) for goal in GOALS]:
            raise TypeError(f"{cls.__name__}.threat is {cls.threat!r}; begin it with one of {', '.join(GOALS)}")
        if hasattr(cls, "perturb") and cls.poison is Attack.poison:
            raise TypeError(f"{cls.__name__} has a perturb, which only a PixelAttack calls; derive from that")

    @property
    def sees_model(self) -> bool:
        """The attack depends on the model's weights or answers."""
        return True

    @property
    def poisons_rows(self) -> bool:
        """It relabels rows or adds some of its own, so that poisoned rows can be counted."""
        return not (self.keeps_labels and self.keeps_ids)

    @property
    def spending(self) -> Budget:
        """What the attacker may spend before the trigger."""
        return Budget(ratio=1.0)

    @property
    def in_code(self) -> bool:
        """The attacker owns the training code: it poisons what the defence passed on, not what is sent."""
        return False

    def budget(self, *, trigger: bool) -> float | None:
        """Return the l_inf distance in pixels within which images stay, which the loop checks; None promises nothing.

        Args:
            trigger: Of the trigger batch rather than of the others.
        """
        return None

    def setup(self, view: ModelView, access: Access, ctx: Context) -> None:
        """Start a run; a resumed one does not come here again, it gets its state back by :meth:`restore`.

        Args:
            view: The model that the stream begins with.
            access: What the attacker holds.
            ctx: Of the set-up, at step 0.

        Raises:
            InputError: A crafted trigger is to be delivered, and this attack makes none.
        """
        self.access = access
        if access.crafted and type(self).trigger is Attack.trigger:
            self.trigger(view, access.trigger, ctx)  # refuses before the run rather than at its trigger

    @abstractmethod
    def poison(self, view: ModelView, batch: Batch, ctx: Context) -> Batch:
        """Return what is sent in place of a batch, or, where :attr:`in_code`, what is learnt in its place.

        Args:
            view: The model as it is now.
            batch: The clean batch, [B, ...].
            ctx: Of this step.
        """

    def trigger(self, view: ModelView, clean: Batch, ctx: Context) -> Batch:
        """Return the crafted trigger.

        Args:
            view: The model as it is now.
            clean: The clean trigger batch, [B, ...].
            ctx: Of this step.

        Raises:
            InputError: This attack makes none.
        """
        raise InputError(
            f"the attack {self.name or type(self).__name__} makes no trigger; give <trigger.types> none, coast or clean"
        )

    def restore(self, state: State, access: Access) -> None:
        """Put back what :meth:`state` returned."""
        self.access = access
        self.set_state(state)


ATTACKS: Registry[Attack] = Registry("attack", base=Attack)
