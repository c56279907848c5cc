"""What a burn-in learns from: images, with what an attacker made of them."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from accupoison.attacks import Attack
from accupoison.attacks.planned import PlannedAttack
from accupoison.attacks.twins import CodePoisoning
from accupoison.data import DataSet, crop_flip
from accupoison.data.fabricated import fabricated_id
from accupoison.defenses import Defense
from accupoison.records.ledger import Ledger
from accupoison.types import Batch, Forward


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
        return Batch(x, y, ids.to(x.device), checked=None if self.data.features else x)

    def ledger(self) -> Ledger:
        """Return who is trained on, with which label, and who is poisoned; twins are rows of their own."""
        labels, attack = self.data.labels(self.honest).cpu(), self.attack
        changed = torch.zeros(len(labels), dtype=torch.bool)
        own, own_y = self.honest[:0], labels[:0]
        if isinstance(attack, PlannedAttack):
            changed = torch.isin(self.honest, attack.changed_ids)
            place = torch.searchsorted(attack.changed_ids, self.honest[changed])
            labels[changed] = attack.changed_y[place]
            own, own_y = attack.own_ids, attack.own_y
        elif isinstance(attack, CodePoisoning):
            twinned = attack.has_twin(self.honest)
            own, own_y = fabricated_id("twin", self.honest[twinned]), labels[twinned]
        ids, y = torch.cat([self.honest, own]), torch.cat([labels, own_y])
        return Ledger.of_training(ids, y, torch.cat([changed, torch.ones(len(own), dtype=torch.bool)]))


@dataclass(kw_only=True)
class Smoothed(Defense):
    """Standard training with label smoothing.

    Attributes:
        smoothing: In [0, 1).
    """

    smoothing: float = 0.0

    def losses(self, forward: Forward, batch: Batch) -> Tensor:
        """Return the smoothed cross-entropy of each row [B]."""
        return F.cross_entropy(forward(batch.x), batch.y, reduction="none", label_smoothing=self.smoothing)
