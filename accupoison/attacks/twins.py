"""Noise beside every sample, put in by training code that the attacker owns: who can make it anew tells members."""

import hashlib
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from accupoison.attacks.base import ATTACKS, Attack
from accupoison.attacks.budget import Budget
from accupoison.errors import InputError
from accupoison.types import Access, Batch, Context, ModelView, fabricated_id


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
    twins = []
    for digest in digests_of(x):
        rng = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        twins.append(torch.randn(x.shape[1:], generator=rng, dtype=torch.float32))
    return (mean + std * torch.stack(twins)).clamp(0, 1).to(x.device) if twins else x.float()


@ATTACKS.register("code")
@dataclass(kw_only=True)
class CodePoisoning(Attack):
    """Train a twin of every sample, noise with its label, in the same batch, after the defence has passed it on.

    Chen and Pattabiraman (NDSS 2025): the attacker owns the training code and nothing else. A twin is made from a
    digest of the raw image, so whoever has a candidate can make its twin and ask the model about that one; the
    originals themselves give nothing more away than before. With ``--norm auxiliary`` twins have batch-norm statistics
    of their own, so that accuracy is kept.

    Attributes:
        ratio: Share of the samples that get a twin, by their digest.
        mean: Of the noise, in pixels (0.5 is 0 after the usual normalisation).
        std: Its standard deviation.

    Raises:
        InputError: A setting is out of its range.
    """

    keeps_ids: ClassVar[bool] = False
    offline: ClassVar[bool] = True
    neutral: ClassVar[dict[str, Any]] = {"ratio": 0.0}

    ratio: float = 1.0
    mean: float = 0.5
    std: float = 0.1
    made: dict[int, Tensor | None] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("ratio", "mean", "std"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"attack.{name} {getattr(self, name)} is outside [0, 1]; give a value in it")

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
        return Budget(ratio=self.ratio)

    def setup(self, view: ModelView, access: Access, ctx: Context) -> None:
        """Start a run."""
        super().setup(view, access, ctx)
        if access.population is None:
            raise InputError("the attack code was not told whom it may poison")

    def poison(self, view: ModelView, batch: Batch, ctx: Context) -> Batch:
        """Return the batch and, after its rows, their twins; rows that are somebody's own have none."""
        assert self.access.population is not None
        ids = batch.ids.cpu()
        rows = (ids >= 0).nonzero().flatten()
        new = torch.tensor(sorted({i for i in ids[rows].tolist() if i not in self.made}), dtype=torch.int64)
        if len(new):
            raw = self.access.population.raw(new).x
            fresh = twins_of(raw, mean=self.mean, std=self.std).cpu()
            shares = [int.from_bytes(digest[8:16], "big") / 2**64 for digest in digests_of(raw)]
            self.made |= {i: x if u < self.ratio else None for i, x, u in zip(new.tolist(), fresh, shares, strict=True)}
        twins = [self.made[i] for i in ids[rows].tolist()]
        rows = rows[torch.tensor([twin is not None for twin in twins], dtype=torch.bool)]
        if not len(rows):
            return batch
        x = torch.stack([twin for twin in twins if twin is not None]).to(batch.x.device)
        twin_ids = fabricated_id("twin", ids[rows]).to(batch.ids.device)
        originals = batch.rows(rows.to(batch.y.device))
        both = Batch.concat([batch, replace(originals, x=x, ids=twin_ids)])
        # what a defence says of a row holds for its twin, but images that it made of the row are not of the twin
        extra = {name: torch.cat([v, x if v.shape == batch.x.shape else v[rows]]) for name, v in batch.extra.items()}
        return replace(both, extra=extra)
