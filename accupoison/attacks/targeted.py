"""Copies of chosen samples with a wrong label, so that the model shows whether it has learnt them (Truth Serum)."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from accupoison.attacks.base import ATTACKS
from accupoison.attacks.budget import Budget
from accupoison.attacks.planned import PlannedAttack, Rows, check_placement
from accupoison.errors import InputError, check_least
from accupoison.types import COPIES, Batch, Context, ModelView, Population, fabricated_id, source_ids

MOST_ADAPTIVE = 6
"""Copies of a target at most where they adapt (Chameleon, ICLR 2024)."""


@ATTACKS.register("targeted")
@dataclass(kw_only=True)
class Targeted(PlannedAttack):
    """Add copies of target samples under one wrong label each, whether or not the target itself is learnt.

    Tramer et al. (CCS 2022), "Truth Serum", Section 4: the label is y' = (y + U{1..C-1}) mod C. A model that has also
    learnt the target with its true label gives it away without any shadow model.

    Attributes:
        count: Targets, drawn from the samples whose membership is to be told (250 in the paper).
        copies: Rows of each target (8 in the paper); with ``adaptive`` at most so many, and no more than 6.
        target_class: Targets of this class alone; None takes them of all.
        placement: When copies arrive in a stream: "before" the target, "after" it, or at "any" step. A target that
            never comes has a step drawn for it.
        adaptive: Send another copy only while the model is still surer than ``confidence`` of the true label
            (Chameleon, ICLR 2024). In a stream the model at hand is asked before each copy, so give it placement
            "before"; for an offline training, models trained with the copies so far and without the targets.
        confidence: That probability (0.13 in the paper).
        out_models: With ``adaptive``, models an offline training asks (8 in the paper).

    Raises:
        InputError: A setting is out of its range, or there are too few candidates.
    """

    neutral: ClassVar[dict[str, Any]] = {"copies": 0}

    count: int = 250
    copies: int = 8
    target_class: int | None = None
    placement: str = "any"
    adaptive: bool = False
    confidence: float = 0.13
    out_models: int = 2
    targets: Tensor = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_placement(self.placement)
        check_least("attack.count", self.count, 1, "a number of targets such as 250")
        check_least("attack.copies", self.copies, 0, "a number of copies such as 8")
        if self.copies >= COPIES:
            raise InputError(f"attack.copies {self.copies} is more than ids tell apart; give at most {COPIES - 1}")
        check_least("attack.out_models", self.out_models, 1, "a number of models such as 8")
        if not 0 <= self.confidence <= 1:
            raise InputError(f"attack.confidence {self.confidence} is outside [0, 1]; 0.13 is usual")

    @property
    def sees_model(self) -> bool:
        """Where it adapts."""
        return self.adaptive

    @property
    def spending(self) -> Budget:
        """``copies`` rows for each target."""
        when = "" if self.placement == "any" else f"{self.placement} it arrives"
        return Budget(count=self.count, copies=self.most, placement=when)

    @property
    def most(self) -> int:
        """The most copies of a target."""
        return min(self.copies, MOST_ADAPTIVE) if self.adaptive else self.copies

    def joining(self, view: ModelView) -> Rows:
        """Return the copies."""
        self.targets = self.choose(self.population)
        y = self.wrong_labels(self.population.labels(self.targets), self.targets)
        rows = torch.arange(self.count).repeat_interleave(self.most)
        copy = torch.arange(self.most).repeat(self.count)
        if self.adaptive and self.population.rehearse is not None:
            rows, copy = self._rehearsed(y)
            return fabricated_id("copy", self.targets[rows], copy), y[rows], torch.zeros_like(rows)
        steps = self.spread(self.placement, self.arrivals(), self.most)
        return fabricated_id("copy", self.targets[rows], copy), y[rows], steps

    def choose(self, population: Population) -> Tensor:
        """Return the targets that it has in a population, int64 [count].

        Raises:
            InputError: There are too few candidates.
        """
        candidates = population.candidates
        if self.target_class is not None:
            candidates = candidates[population.labels(candidates) == self.target_class]
        if self.count > len(candidates):
            raise InputError(
                f"attack.count {self.count} is more than the {len(candidates)} samples whose membership is to be told; "
                "give fewer targets"
            )
        draw = torch.rand(population.size, generator=self.rng("targets"), dtype=torch.float64)
        return candidates[draw[candidates].argsort()[: self.count]]

    def arrivals(self) -> Tensor:
        """Return the first step of each target, int64 [count]; drawn for those that do not come."""
        steps = self.population.steps
        arrivals = (self.priority(self.targets, "arrivals") * len(steps)).long()
        for t in reversed(range(len(steps))):
            arrivals[torch.isin(self.targets, steps[t])] = t
        return arrivals

    def poison(self, view: ModelView, batch: Batch, ctx: Context) -> Batch:
        """Return the batch with the copies of this step; where they adapt, those that are still needed."""
        due = (self.own_steps == ctx.t).nonzero().flatten()
        if self.adaptive and len(due):
            due = due[self._confidence(view, source_ids(self.own_ids[due])) > self.confidence]
        return self.joined(batch, due)

    def _rehearsed(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return the row of the target and the number of each copy: none once out-models are no longer sure."""
        assert self.population.rehearse is not None
        rows = copies = torch.empty(0, dtype=torch.int64)
        for number in range(self.most):
            own = fabricated_id("copy", self.targets[rows], copies)
            asked = [self.population.rehearse(self.targets, own, y[rows], i) for i in range(self.out_models)]
            sure = torch.stack([self._confidence(view, self.targets) for view in asked]).mean(0) > self.confidence
            if number:  # who needed no further copy before needs none now
                sure &= torch.isin(torch.arange(self.count), rows[copies == number - 1])
            added = sure.nonzero().flatten()
            rows, copies = torch.cat([rows, added]), torch.cat([copies, torch.full_like(added, number)])
        return rows, copies

    def _confidence(self, view: ModelView, ids: Tensor) -> Tensor:
        """Return the probability of the true label of samples, float [N] on the CPU."""
        answer, confidence = view.frozen(), []
        for part in torch.split(ids, 500):
            batch = self.population.raw(part)
            with torch.no_grad():
                confidence.append(answer(batch.x).softmax(1).gather(1, batch.y[:, None])[:, 0].cpu())
        return torch.cat(confidence)


@dataclass(kw_only=True)
class Copies(PlannedAttack):
    """Add given rows: what models are trained with that an attacker rehearses on.

    Attributes:
        copies: Their ids, of :func:`accupoison.types.fabricated_id`, int64 [N].
        labels: Their labels, int64 [N].
    """

    copies: Tensor
    labels: Tensor

    def joining(self, view: ModelView) -> Rows:
        """Return the rows."""
        return self.copies, self.labels, torch.zeros_like(self.copies)
