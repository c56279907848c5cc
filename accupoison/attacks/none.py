"""No poison: the control of every comparison."""

from dataclasses import dataclass
from typing import ClassVar

from accupoison.attacks.base import ATTACKS
from accupoison.attacks.pixel import PixelAttack


@ATTACKS.register("none", "clean")
@dataclass(kw_only=True)
class Clean(PixelAttack):
    """Send every batch as it is; a trigger that must be adversarial is still crafted, with ``eps`` and ``steps``."""

    offline: ClassVar[bool] = True
