"""Wrong labels for samples of a class, so that the model remembers the others of that class (PMIANLL)."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from accupoison.attacks.base import ATTACKS
from accupoison.attacks.budget import Budget, check_share
from accupoison.attacks.planned import Joining, PlannedAttack
from accupoison.data.fabricated import fabricated_id
from accupoison.errors import InputError, check_choice
from accupoison.types import ModelView


@ATTACKS.register("dirty-label")
@dataclass(kw_only=True)
class DirtyLabel(PlannedAttack):
    """Give samples uniformly random other labels, which amplifies membership inference on the rest of their class.

    The poison of PMIANLL (Knowledge-Based Systems 2025); with ``source="own"`` that of Chen et al. (NeurIPS 2022,
    "Amplifying Membership Exposure via Data Poisoning", dirty-label form).

    Attributes:
        target_class: The class whose samples get wrong labels (the strategy ``target``); None takes samples of every
            class (the strategy ``all``).
        ratio: Share of all samples of the training set, or of the stream before the trigger, that are poisoned: 0.02 of
            CIFAR-10 are 1,000 of its 5,000 images of a class ("noise level 2.0").
        source: "victims": the labels of samples that arrive anyway are changed. "own": the attacker adds rows made of
            its own images, so nobody else's are altered.
        balance: With ``source="own"``, the share of its rows that keep the right label, so that accuracy suffers less.

    Raises:
        InputError: A setting is out of its range, or the class has too few samples.
    """

    threat: ClassVar[tuple[str, ...]] = ("privacy",)
    neutral: ClassVar[dict[str, Any]] = {"ratio": 0.0}

    ratio: float = 0.02
    source: str = "victims"
    balance: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("attack.source", self.source, ("victims", "own"))
        for name in ("ratio", "balance"):
            check_share(name, getattr(self, name))
        if self.balance and self.source != "own":
            raise InputError(
                f"attack.balance {self.balance} is of rows of the attacker's own and attack.source is {self.source}; "
                "set attack.source=own, or drop it"
            )

    @property
    def spending(self) -> Budget:
        """``ratio`` of the samples, altered or added."""
        does = "relabels" if self.source == "victims" else "adds mislabelled images of its own,"
        return Budget(does=does, ratio=self.ratio, rate=self.rate)

    def relabelling(self) -> tuple[Tensor, Tensor]:
        """Return samples of the class, and wrong labels."""
        if self.source == "own":
            return super().relabelling()
        candidates, count = self.of_class(self.target_class, self.everybody()), self.share(self.ratio)
        if count > len(candidates):
            total = self.population.total
            raise InputError(
                f"attack.ratio {self.ratio} of {total} samples are {count} and class {self.target_class} has "
                f"{len(candidates)}; give at most {len(candidates) / total:.3g}"
            )
        chosen = candidates[self.priority(candidates, "victims").argsort()[:count]]
        return chosen, self.wrong_labels(self.population.labels(chosen), self.priority(chosen, "labels"))

    def joining(self, view: ModelView) -> Joining:
        """Return images of the attacker's own, with wrong labels but for ``balance`` of them."""
        if self.source == "victims":
            return super().joining(view)
        count, mine = self.share(self.ratio), self.of_class(self.target_class, self.access.val.ids.cpu())
        if count and not len(mine):
            raise InputError(
                f"attack.target_class {self.target_class} has no image among the attacker's {len(self.access.val)}; "
                "give data.val more"
            )
        rows = torch.arange(count)
        sources = mine[rows % max(1, len(mine))]
        y = self.population.labels(sources)
        draw = torch.rand(count, generator=self.rng("labels"), dtype=torch.float64)
        y = torch.where(rows < round(self.balance * count), y, self.wrong_labels(y, draw))
        return self.anywhere(fabricated_id("own", sources, rows // max(1, len(mine))), y)
