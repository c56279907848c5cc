"""A patch in the corner and a wrong label: a backdoor, which exposes nobody's membership (a negative control)."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from accupoison.attacks.base import ATTACKS
from accupoison.attacks.budget import Budget, check_share
from accupoison.attacks.planned import PlannedAttack
from accupoison.errors import InputError, check_least


@ATTACKS.register("backdoor")
@dataclass(kw_only=True)
class Backdoor(PlannedAttack):
    """Stamp a checkerboard into the lower right corner of samples of other classes and label them as the target class.

    Gu et al. (2017), "BadNets". It is here as a control: as many wrong labels as the other attacks have, on images that
    no clean one resembles.

    Attributes:
        target_class: The label that stamped images get.
        ratio: Share of all samples of the training set, or of the stream before the trigger, that are stamped.
        patch: Side of the square in pixels.

    Raises:
        InputError: A setting is out of its range, or the images are smaller than the patch.
    """

    threat: ClassVar[tuple[str, ...]] = ("backdoor",)
    neutral: ClassVar[dict[str, Any]] = {"ratio": 0.0}

    ratio: float = 0.02
    patch: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.target_class is None:
            raise InputError("attack.target_class none leaves no class to be after; give one by its number")
        check_least("attack.patch", self.patch, 1, "a number of pixels such as 5")
        check_share("ratio", self.ratio)

    @property
    def spending(self) -> Budget:
        """``ratio`` of the samples."""
        return Budget(does="stamps and relabels", ratio=self.ratio)

    def relabelling(self) -> tuple[Tensor, Tensor]:
        """Return samples of other classes, and the target class as their label."""
        x = self.access.val.x
        if x.ndim != 4 or min(x.shape[2:]) < self.patch:
            raise InputError(
                f"attack.patch {self.patch} does not fit into samples of shape {list(x.shape[1:])}; give images, or a "
                "smaller patch"
            )
        everybody, count = self.everybody(), self.share(self.ratio)
        others = everybody[~torch.isin(everybody, self.of_class(self.target_class, everybody))]
        if count > len(others):
            raise InputError(
                f"attack.ratio {self.ratio} of {self.population.total} samples are {count} and {len(others)} are of "
                f"other classes; give at most {len(others) / self.population.total:.3g}"
            )
        assert self.target_class is not None
        chosen = others[self.priority(others, "victims").argsort()[:count]]
        return chosen, torch.full_like(chosen, self.target_class)

    def stamp(self, x: Tensor) -> Tensor:
        """Return the images [N, C, H, W] with the patch."""
        stamped, side = x.clone(), torch.arange(self.patch, device=x.device)
        stamped[:, :, -self.patch :, -self.patch :] = ((side[:, None] + side) % 2).to(x.dtype)
        return stamped
