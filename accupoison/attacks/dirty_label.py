"""Wrong labels for samples of a class, so that the model remembers the others of that class (PMIANLL)."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from accupoison.attacks.base import ATTACKS
from accupoison.attacks.budget import Budget
from accupoison.attacks.planned import PlannedAttack, Rows
from accupoison.errors import InputError, check_choice
from accupoison.types import ModelView, fabricated_id


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

    neutral: ClassVar[dict[str, Any]] = {"ratio": 0.0}

    ratio: float = 0.02
    source: str = "victims"
    balance: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("attack.source", self.source, ("victims", "own"))
        for name in ("ratio", "balance"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"attack.{name} {getattr(self, name)} is outside [0, 1]; give a share such as 0.02")
        if self.balance and self.source != "own":
            raise InputError(
                f"attack.balance {self.balance} is of rows of the attacker's own and attack.source is {self.source}; "
                "set attack.source=own, or drop it"
            )

    @property
    def spending(self) -> Budget:
        """``ratio`` of the samples, altered or added."""
        return Budget(ratio=self.ratio)

    def relabelling(self) -> tuple[Tensor, Tensor]:
        """Return samples of the class, and wrong labels."""
        if self.source == "own":
            return super().relabelling()
        everybody = self.everybody()
        candidates = self.of_class(self.target_class, everybody)
        count = round(self.ratio * len(everybody))
        if count > len(candidates):
            raise InputError(
                f"attack.ratio {self.ratio} of {len(everybody)} samples are {count} and class {self.target_class} has "
                f"{len(candidates)}; give at most {len(candidates) / len(everybody):.3g}"
            )
        chosen = candidates[self.priority(candidates, "victims").argsort()[:count]]
        return chosen, self.wrong_labels(self.population.labels(chosen), chosen)

    def joining(self, view: ModelView) -> Rows:
        """Return images of the attacker's own, with wrong labels but for ``balance`` of them."""
        if self.source == "victims":
            return super().joining(view)
        count = round(self.ratio * sum(len(step) for step in self.population.steps))
        val, label = self.access.val, self.target_class
        ids = val.ids.cpu()[(val.y == label).cpu()] if label is not None else val.ids.cpu()
        if count and not len(ids):
            raise InputError(
                f"attack.target_class {label} has no image among the attacker's {len(val)}; give data.val more"
            )
        rows = torch.arange(count)
        sources = ids[rows % max(1, len(ids))]
        own = fabricated_id("own", sources, rows // max(1, len(ids)))
        y = self.population.labels(sources)
        kept = round(self.balance * count)
        y[kept:] = (y[kept:] + torch.randint(1, self.population.num_classes, (count - kept,), generator=self.rng())) % (
            self.population.num_classes
        )
        return own, y, self.spread("any", torch.zeros(1, dtype=torch.int64), count)
