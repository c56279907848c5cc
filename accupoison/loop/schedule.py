"""What happens when in a run."""

from dataclasses import dataclass

from accupoison.errors import InputError, did_you_mean

TRIGGERS = ("none", "coast", "clean", "adversarial", "optimised")
CRAFTED = frozenset({"adversarial", "optimised"})
"""The triggers that an attack makes."""
MOST = 10**9
"""Steps of a run; the ledger counts them in 32 bits."""
AUGMENT = ("before", "after", "none")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What happens when.

    Attributes:
        horizon: Ordinary steps before the trigger.
        after: Clean steps after it, with the defence on.
        triggers: What arrives at the horizon; several leave from the same state, one after the other: "none", "coast"
            (an optimiser step with zero gradients), "clean", "adversarial" (crafted at step 0) or "optimised"
            (crafted anew at every step, which changes the poison: not together with "adversarial").
        updates: Updates that the model makes on the trigger batch.
        augment: Crop and flip "before" or "after" the attack, or "none".
        quantise: What the attack returns is rounded to 8 bits, toward the clean pixel.

    Raises:
        InputError: A value is not one of the above, or a count is negative.
    """

    horizon: int = 10
    after: int = 5
    triggers: tuple[str, ...] = ("adversarial",)
    updates: int = 1
    augment: str = "after"
    quantise: bool = True

    def __post_init__(self) -> None:
        if self.horizon < 0 or self.after < 0:
            raise InputError(f"{self.horizon} steps and {self.after} after the trigger: neither may be negative")
        if self.horizon + self.after > MOST:
            raise InputError(f"{self.horizon} steps and {self.after} after the trigger: together at most {MOST}")
        if self.updates < 1:
            raise InputError(
                f"trigger.updates {self.updates} is below 1; give the number of updates on the trigger batch"
            )
        for trigger in self.triggers:
            if trigger not in TRIGGERS:
                raise InputError(f"unknown trigger {trigger!r}{did_you_mean(trigger, TRIGGERS)}")
        if len(set(self.triggers)) != len(self.triggers) or not self.triggers:
            raise InputError(f"triggers {','.join(self.triggers)!r} must be one or more different names")
        if set(self.triggers) >= CRAFTED:
            raise InputError(
                "the optimised trigger changes the poison before it, so the adversarial one needs a run of its own"
            )
        if self.augment not in AUGMENT:
            raise InputError(f"unknown stream.augment {self.augment!r}{did_you_mean(self.augment, AUGMENT)}")
