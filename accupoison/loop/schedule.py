"""What happens when in a run."""

from dataclasses import dataclass

from accupoison.errors import InputError, check_choice, check_least

TRIGGERS: dict[str, str] = {
    "none": "nothing: the stream goes on",
    "coast": "an optimiser step with zero gradients, so momentum and weight decay alone: the control of the others",
    "clean": "the trigger's images as they are",
    "adversarial": "these images perturbed by the attack at step 0, before it poisons",
    "optimised": "these images perturbed anew at every step, with the poison that prepares for them",
}
"""What can arrive when the accumulation ends."""
CRAFTED = frozenset({"adversarial", "optimised"})
"""The triggers that an attack makes."""
MOST_STEPS = 10**9
"""Of a run; the ledger counts them in 32 bits."""
AUGMENT = ("before", "after", "none")


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The order of events on a stream.

    Attributes:
        steps: Ordinary steps, of a batch each, before the trigger; 0 or more.
        recovery_steps: Clean steps after it, with the defence on; 0 or more.
        augment: Crop and flip "before" or "after" the attack, or "none".
        quantise: Round what the attacker sends to 8 bits, toward the clean pixel.

    Raises:
        InputError: A value is not one of the above, or a count is negative.
    """

    steps: int = 10
    recovery_steps: int = 5
    augment: str = "after"
    quantise: bool = True

    def __post_init__(self) -> None:
        for name in ("steps", "recovery_steps"):
            check_least(f"stream.{name}", getattr(self, name), 0, "0 or more")
        if self.steps + self.recovery_steps > MOST_STEPS:
            raise InputError(
                f"stream.steps {self.steps} and stream.recovery_steps {self.recovery_steps} are more than {MOST_STEPS} "
                "together; give fewer"
            )
        check_choice("stream.augment", self.augment, AUGMENT)


@dataclass(frozen=True, kw_only=True)
class Triggers:
    """What arrives when the accumulation ends.

    Attributes:
        types: What arrives: "none", "coast", "clean", and either "adversarial" or "optimised", as the second changes
            the poison (``list`` says what each is). Several leave from the same state, one after the other.
        updates: Updates that the model makes on the trigger batch, one after the other (``niter`` of the released
            code), once the defence has intercepted it; 1 or more.

    Raises:
        InputError: A value is not one of the above, or there are no updates.
    """

    types: tuple[str, ...] = ("adversarial",)
    updates: int = 1

    def __post_init__(self) -> None:
        check_least("trigger.updates", self.updates, 1, "the number of updates on the trigger batch")
        for trigger in self.types:
            check_choice("trigger", trigger, TRIGGERS)
        if len(set(self.types)) != len(self.types) or not self.types:
            raise InputError(f"trigger.types {','.join(self.types)!r} is not a list of different names; give some")
        if set(self.types) >= CRAFTED:
            raise InputError(
                "the optimised trigger changes the poison before it, so the adversarial one needs a run of its own"
            )

    @property
    def crafted(self) -> frozenset[str]:
        """Those that an attack makes."""
        return CRAFTED.intersection(self.types)
