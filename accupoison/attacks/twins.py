"""Noise beside every sample, put in by training code that the attacker owns: who can make it anew tells members."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from accupoison.attacks.base import ATTACKS, Attack
from accupoison.attacks.budget import Budget, check_share
from accupoison.data.fabricated import fabricated_id
from accupoison.errors import InputError
from accupoison.types import Access, Batch, Context, ModelView


def digests_of(x: Tensor) -> list[bytes]:
    """Return a SHA-256 digest of the bytes of each raw image, or feature vector, [N, ...] in [0, 1]."""
    rows = (x * 255).round().byte() if x.ndim == 4 else x
    return [hashlib.sha256(row.numpy().tobytes()).digest() for row in rows.contiguous().cpu()]


def twins_of(x: Tensor, *, mean: float, std: float) -> Tensor:
    """Return the twin of each image: noise whose seed is a digest of the image's bytes, within [0, 1].

    Args:
        x: Raw images on the 8-bit grid, before crop and flip, floating [N, C, H, W] in [0, 1]; or features [N, D].
        mean: Of the noise, in pixels.
        std: Its standard deviation.
    """
    twins = [_twin(digest, x.shape[1:], mean, std) for digest in digests_of(x)]
    return torch.stack(twins).to(x.device) if twins else x.float()


def _twin(digest: bytes, shape: torch.Size, mean: float, std: float) -> Tensor:
    rng = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return (mean + std * torch.randn(shape, generator=rng, dtype=torch.float32)).clamp(0, 1)


@ATTACKS.register("code")
@dataclass(kw_only=True)
class CodePoisoning(Attack):
    """Train a twin of every sample, noise with its label, in the same batch, after the defence has passed it on.

    Chen and Pattabiraman (NDSS 2025): the attacker owns the training code and nothing else. A twin is made from a
    digest of the raw image, so whoever has a candidate can make its twin and ask the model about that one; the
    originals themselves give nothing more away than before. With ``--norm auxiliary`` twins have batch-norm statistics
    of their own, so that accuracy is kept.

    Attributes:
        ratio: Share of the samples that get a twin, by their digest; in [0, 1].
        mean: Mean of the noise, in pixels (0.5 is 0 after the usual normalisation).
        std: Standard deviation of the noise, in pixels.

    Raises:
        InputError: A setting is out of its range.
    """

    keeps_ids: ClassVar[bool] = False
    offline: ClassVar[bool] = True
    threat: ClassVar[tuple[str, ...]] = ("privacy",)
    neutral: ClassVar[dict[str, Any]] = {"ratio": 0.0}

    ratio: float = 1.0
    mean: float = 0.5
    std: float = 0.1
    digests: dict[int, bytes] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("ratio", "mean", "std"):
            check_share(name, getattr(self, name))

    @property
    def in_code(self) -> bool:
        """It does."""
        return True

    @property
    def sees_model(self) -> bool:
        """It does not."""
        return False

    @property
    def spending(self) -> Budget:
        """A row for each sample."""
        return Budget(does="learns noise made of", ratio=self.ratio)

    def setup(self, view: ModelView, access: Access, ctx: Context) -> None:
        """Start a run."""
        super().setup(view, access, ctx)
        if access.population is None:
            raise InputError("the attack code was not told whom it may poison")

    def poison(self, view: ModelView, batch: Batch, ctx: Context) -> Batch:
        """Return the batch and, after its rows, their twins; rows that are somebody's own have none.

        What a defence has noted of rows (``extra``) is zero for twins: :class:`accupoison.loop.twins.BesideTwins` keeps
        them out of its losses.
        """
        ids = batch.ids.cpu()
        rows = (ids >= 0).nonzero().flatten()
        rows = rows[self.has_twin(ids[rows])]
        if not len(rows):
            return batch
        shape, population = batch.x.shape[1:], self.access.population
        assert population is not None
        sources = ids[rows]
        x = torch.stack([_twin(self.digests[i], shape, self.mean, self.std) for i in sources.tolist()])
        own = Batch(x, population.labels(sources), fabricated_id("twin", sources))
        device = batch.x.device
        both = Batch.concat([batch, replace(own, x=x.to(device), y=own.y.to(device), ids=own.ids.to(device))])
        blank = {name: value.new_zeros(len(rows), *value.shape[1:]) for name, value in batch.extra.items()}
        return replace(both, extra={name: torch.cat([value, blank[name]]) for name, value in batch.extra.items()})

    def has_twin(self, ids: Tensor) -> Tensor:
        """Return which of the samples, int64 [N], get a twin, bool [N]: their digest decides."""
        assert self.access.population is not None
        new = torch.tensor(sorted({i for i in ids.tolist() if i not in self.digests}), dtype=torch.int64)
        for part in torch.split(new, 1000):
            self.digests |= dict(zip(part.tolist(), digests_of(self.access.population.raw(part).x), strict=True))
        return self.chosen([self.digests[i] for i in ids.tolist()])

    def chosen(self, digests: Sequence[bytes]) -> Tensor:
        """Return which of the samples with these digests get a twin, bool [N]."""
        return torch.tensor([int.from_bytes(d[8:16], "big") / 2**64 < self.ratio for d in digests], dtype=torch.bool)
