"""What a burn-in learns from: images, with what an attacker made of them."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from accupoison.attacks import Attack
from accupoison.attacks.planned import PlannedAttack
from accupoison.data import DataSet, crop_flip
from accupoison.records.ledger import Ledger
from accupoison.types import Batch


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """The samples of a training, once its attack has been set up.

    Attributes:
        data: The clean samples.
        honest: Their ids, int64 [N].
        attack: Has its plan, where it makes one.
    """

    data: DataSet
    honest: Tensor
    attack: Attack

    @property
    def ids(self) -> Tensor:
        """All ids that an epoch goes through, int64 [M]: the honest ones, then the attacker's own."""
        attack = self.attack
        return torch.cat([self.honest, attack.own_ids]) if isinstance(attack, PlannedAttack) else self.honest

    def batch(self, rows: Tensor, rng: Generator) -> Batch:
        """Return a batch as it reaches the defence: poisoned, then cropped and flipped where it has images.

        Args:
            rows: Rows of :attr:`ids`, int64 [B].
            rng: Of crops and flips.
        """
        honest = rows < len(self.honest)
        if not isinstance(self.attack, PlannedAttack):
            ids = self.honest[rows]
            x, y = self.data.inputs(ids), self.data.labels(ids)
        else:
            batch = self.attack.relabelled(self.data.batch(self.honest[rows[honest]]))
            batch = self.attack.joined(batch, rows[~honest] - len(self.honest))
            x = batch.x if self.data.features else (batch.x * 255).round().byte()
            y, ids = batch.y, batch.ids
        if not self.data.features:
            x = crop_flip(x, rng=rng, flip=self.data.flip).float() / 255
        return Batch(x, y, ids)

    def ledger(self) -> Ledger:
        """Return who is trained on, with which label, and who is poisoned."""
        ids, labels = self.ids, self.data.labels(self.honest).cpu()
        changed = torch.zeros(len(ids), dtype=torch.bool)
        if isinstance(self.attack, PlannedAttack):
            place = torch.searchsorted(self.attack.changed_ids, self.honest).clamp(max=len(self.attack.changed_ids) - 1)
            if len(self.attack.changed_ids):
                changed[: len(labels)] = self.attack.changed_ids[place] == self.honest
                labels = torch.where(changed[: len(labels)], self.attack.changed_y[place], labels)
            labels = torch.cat([labels, self.attack.own_y])
            changed[len(self.honest) :] = True
        return Ledger.of_training(ids, labels, changed)
