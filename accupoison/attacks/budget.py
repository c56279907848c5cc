"""What an attacker may spend."""

from dataclasses import dataclass

from accupoison.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What an attacker may spend before the trigger, of whatever kind the attack is.

    Attributes:
        does: What it does with samples, in a word or two: "perturbs", "relabels", "adds rows made of".
        eps: l_inf distance in pixels by which it may move an image; None has no bound.
        ratio: Share of the samples that arrive, in [0, 1]; 0 where ``count`` says it all.
        count: Samples that it is after; None where ``ratio`` says it all.
        copies: Rows of its own for each of these.
        rate: Rows of its own a batch, at most; None has no bound.
        placement: When these rows arrive, in words.
    """

    does: str = "perturbs"
    eps: float | None = None
    ratio: float = 0.0
    count: int | None = None
    copies: int = 0
    rate: int | None = None
    placement: str = ""

    def text(self, noun: str) -> str:
        """Return the budget in words.

        Args:
            noun: What a sample is, such as "image".
        """
        what = f"every {noun}" if self.ratio == 1 else f"{self.ratio:.2g} of the {noun}s"
        if self.count is not None:
            what = f"{self.copies} rows for each of {self.count} {noun}s"
        limits = [
            self.placement,
            f"at most {self.rate} a batch" if self.rate is not None else "",
            f"within l_inf {self.eps * 255:.3g}/255" if self.eps is not None else "",
        ]
        return f"{self.does} {', '.join(filter(None, [what, *limits]))}"


def check_share(name: str, value: float) -> None:
    """Raise InputError unless the setting ``attack.NAME`` is in [0, 1]."""
    if not 0 <= value <= 1:
        raise InputError(f"attack.{name} {value} is outside [0, 1]; give a share such as 0.02")
