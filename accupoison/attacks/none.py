"""No poison: the control of every comparison."""

from dataclasses import dataclass

from accupoison.attacks.base import ATTACKS, Attack


@ATTACKS.register("none", "clean")
@dataclass(kw_only=True)
class Clean(Attack):
    """Send every batch as it is; a trigger that must be adversarial is still crafted, with ``eps`` and ``steps``."""
