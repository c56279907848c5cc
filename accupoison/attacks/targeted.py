"""Copies of chosen samples with a wrong label, so that the model shows whether it has learnt them (Truth Serum)."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from accupoison.attacks.base import ATTACKS
from accupoison.attacks.budget import Budget, check_share
from accupoison.attacks.planned import NOBODY, Joining, PlannedAttack
from accupoison.data.fabricated import COPIES, fabricated_id, source_ids
from accupoison.errors import InputError, check_choice, check_least
from accupoison.types import Batch, Context, ModelView

PLACEMENTS = ("any", "before", "after")
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
        confidence: The probability of the true label above which another copy is sent (0.13 in the paper).
        out_models: With ``adaptive``, models an offline training asks (8 in the paper).

    Raises:
        InputError: A setting is out of its range, or there are too few candidates.
    """

    threat: ClassVar[tuple[str, ...]] = ("privacy",)
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
        check_choice("attack.placement", self.placement, PLACEMENTS)
        check_least("attack.count", self.count, 1, "a number of targets such as 250")
        check_least("attack.copies", self.copies, 0, "a number of copies such as 8")
        if self.copies >= COPIES:
            raise InputError(f"attack.copies {self.copies} is more than ids tell apart; give at most {COPIES - 1}")
        check_least("attack.out_models", self.out_models, 1, "a number of models such as 8")
        check_share("confidence", self.confidence)

    @property
    def sees_model(self) -> bool:
        """Where it adapts."""
        return self.adaptive

    @property
    def spending(self) -> Budget:
        """``copies`` rows for each target."""
        when = "" if self.placement == "any" else f"{self.placement} it arrives"
        return Budget(does="adds", count=self.count, copies=self.most, rate=self.rate, placement=when)

    @property
    def most(self) -> int:
        """The most copies of a target."""
        return min(self.copies, MOST_ADAPTIVE) if self.adaptive else self.copies

    def joining(self, view: ModelView) -> Joining:
        """Return the copies."""
        self.targets = self.choose()
        y = self.wrong_labels(self.population.labels(self.targets), self.priority(self.targets, "labels"))
        if self.adaptive and self.population.rehearse is not None:
            rows, copies = self._rehearsed(y)
            return self.anywhere(fabricated_id("copy", self.targets[rows], copies), y[rows])
        rows = torch.arange(self.count).repeat_interleave(self.most)
        own = fabricated_id("copy", self.targets[rows], torch.arange(self.most).repeat(self.count))
        return self.spread(own, y[rows], self.most, *self.window())

    def choose(self) -> Tensor:
        """Return the targets, int64 [count]: where copies are placed, those that leave them a step.

        Raises:
            InputError: There are too few candidates.
        """
        candidates, steps = self.of_class(self.target_class, self.population.candidates), self.population.steps
        edge = {"before": steps[:1], "after": steps[-1:]}.get(self.placement, ())
        candidates = candidates[~torch.isin(candidates, torch.cat([NOBODY, *edge]))]
        if self.count > len(candidates):
            raise InputError(
                f"attack.count {self.count} is more than the {len(candidates)} samples whose membership is to be told; "
                "give fewer targets"
            )
        return candidates[self.priority(candidates, "targets").argsort()[: self.count]]

    def window(self) -> tuple[Tensor, Tensor]:
        """Return the first and the last step at which copies of each target may arrive, int64 [count] each.

        A target that does not come has its step drawn.

        Raises:
            InputError: There is no order of arrival, or a single step.
        """
        steps = self.population.steps
        last = len(steps) - 1
        if self.placement != "any" and not (self.population.ordered and last > 0):
            raise InputError(
                f"attack.placement {self.placement} is of the steps of a stream and there are none to place copies in; "
                "give any"
            )
        drawn = self.priority(self.targets, "arrivals")
        arrivals = (drawn * (last + 1)).long() if self.placement == "any" else (drawn * last).long()
        arrivals += self.placement == "before"
        for t in reversed(range(len(steps))):
            arrivals[torch.isin(self.targets, steps[t])] = t
        first, end = torch.zeros_like(arrivals), torch.full_like(arrivals, last)
        return (arrivals + 1 if self.placement == "after" else first), (
            arrivals - 1 if self.placement == "before" else end
        )

    def poison(self, view: ModelView, batch: Batch, ctx: Context) -> Batch:
        """Return the batch with the copies of this step; where they adapt, those that are still needed."""
        due = (self.own_steps == ctx.t).nonzero().flatten()
        if self.adaptive and len(due):
            due = due[self._confidence(view, source_ids(self.own_ids[due])) > self.confidence]
        return self.joined(batch, due)

    def _rehearsed(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return the row of the target and the number of each copy: none once out-models are no longer sure."""
        assert self.population.rehearse is not None
        rows = copies = NOBODY
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
        copies: Their ids, of :func:`accupoison.data.fabricated.fabricated_id`, int64 [N].
        labels: Their labels, int64 [N].
    """

    copies: Tensor
    labels: Tensor

    def joining(self, view: ModelView) -> Joining:
        """Return the rows."""
        return self.anywhere(self.copies, self.labels)
