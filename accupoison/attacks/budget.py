"""What an attacker may spend."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What an attacker may spend before the trigger, of whatever kind the attack is.

    Attributes:
        eps: l_inf distance in pixels by which it may move an image; None has no bound.
        ratio: Share of the samples that arrive which it may alter, in [0, 1].
        count: Samples that it is after: targets, or samples of its own; None where ``ratio`` says it all.
        copies: Rows of its own for each of these; 0 adds none.
        placement: When these rows arrive, in words.
    """

    eps: float | None = None
    ratio: float = 0.0
    count: int | None = None
    copies: int = 0
    placement: str = ""

    def text(self, noun: str) -> str:
        """Return the budget in words.

        Args:
            noun: What a sample is, such as "image".
        """
        parts = []
        if self.ratio:
            parts.append(f"every {noun}" if self.ratio == 1 else f"{self.ratio:.2g} of the {noun}s")
        if self.copies and self.count is not None:
            times = f"{self.copies} rows for each of {self.count} {noun}s"
            parts.append(f"{times}{f', {self.placement}' if self.placement else ''}")
        return " and ".join(parts) or "nothing"
