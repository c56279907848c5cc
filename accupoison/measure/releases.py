"""What the release of a run may learn from, and what its answers cost those who ask."""

import time

import torch
from torch import Tensor

from accupoison.data import DataSet, Splits
from accupoison.errors import InputError
from accupoison.loop.context import StepContext
from accupoison.measure.accuracy import EVALUATION_BATCH
from accupoison.measure.membership import LIMIT
from accupoison.release import Identity, Release
from accupoison.release.base import MEMBERS
from accupoison.rng import generator
from accupoison.types import ModelView

MINIMUM = 20
"""A release that learns from members gets at least so many, and as many others."""


def known_to_defender(release: Release, splits: Splits, burnin: Tensor | None, seed: int) -> tuple[Tensor, Tensor]:
    """Return what a release learns from: members of the burn-in, and as many of the trusted images that are none.

    The members are a random draw, of at most a half of them, so that the others can be audited; trusted images that
    neither burn-in nor stream has are never in an audit. Of each there are at most ``LIMIT``, as the defender of
    MemGuard has.

    Args:
        release: The release.
        splits: Whose samples are whose.
        burnin: Ids that the base model was trained on, int64 [N]; None if unknown.
        seed: Of the draw.

    Returns:
        Ids of members and of others, int64 [M] each; none where the release does not learn.

    Raises:
        InputError: There are too few, or nobody knows the members.
    """
    if MEMBERS not in release.requires:
        return splits.burnin[:0], splits.burnin[:0]
    if burnin is None:
        raise InputError(
            f"the release {release.name} learns from members, and the checkpoint does not say which images it was "
            "trained on; give one made by burnin, or a release that learns nothing, such as round"
        )
    learnt = torch.cat([burnin, splits.burnin, splits.stream, splits.trigger])
    held_out = splits.trusted[~torch.isin(splits.trusted, learnt)]
    count = min(len(burnin) // 2, len(held_out), LIMIT)
    if count < MINIMUM:
        raise InputError(
            f"the release {release.name} learns from half of the burn-in ({len(burnin) // 2} images) and from trusted "
            f"images that nobody learns from ({len(held_out)}), and needs {MINIMUM} of each; use data.splits=fresh and "
            "a burn-in with more data.burnin and data.trusted"
        )
    return _drawn(burnin, count, seed), _drawn(held_out, count, seed)


def _drawn(ids: Tensor, count: int, seed: int) -> Tensor:
    return ids[torch.randperm(len(ids), generator=generator(seed, "release", "known"))[:count]]


def fitted(release: Release, view: ModelView, data: DataSet, known: tuple[Tensor, Tensor], seed: int) -> Release:
    """Return a release that has learnt what it answers with.

    Args:
        release: Its settings; left as it is.
        view: The model that answers.
        data: The samples.
        known: Of :func:`known_to_defender`: ids of members and of others, int64 [M] each.
        seed: Of its randomness.
    """
    made = release.fresh()
    made.fit(view, data.batch(known[0]), data.batch(known[1]), StepContext(seed, "release", 0, {}))
    return made


@torch.no_grad()
def answers(release: Release, view: ModelView, data: DataSet, ids: Tensor) -> Tensor:
    """Return what is released of samples, float64 [N, C] on the CPU.

    Args:
        release: Fitted.
        view: The model.
        data: The samples, asked about clean and in eval mode.
        ids: Which of them, int64 [N].
    """
    batches = (data.batch(part) for part in torch.split(ids, EVALUATION_BATCH))
    return torch.cat([release(view, batch.x, batch.ids).cpu() for batch in batches])


def release_cost(release: Release, view: ModelView, data: DataSet, members: Tensor, others: Tensor) -> dict[str, float]:
    """Return what a release costs those who ask.

    Args:
        release: Fitted.
        view: The model.
        data: The samples.
        members: Ids of samples that it has learnt, int64 [M].
        others: Ids of samples that it has not [N].

    Returns:
        ``accuracy`` on the others, in [0, 1], and ``accuracy_undefended``; ``l1_members`` and ``l1_others``, the mean
        l1 change of an answer, in [0, 2]; ``labels_kept``, a share; ``time/query_s``, seconds, the model's included.
    """
    both = torch.cat([members, others])
    started = time.perf_counter()
    released = answers(release, view, data, both)
    seconds = time.perf_counter() - started
    own = answers(Identity(), view, data, both)
    change, labels = (released - own).abs().sum(dim=1), data.labels(others).cpu()
    right = [float((p[len(members) :].argmax(dim=1) == labels).double().mean()) for p in (released, own)]
    return {
        "accuracy": right[0],
        "accuracy_undefended": right[1],
        "l1_members": float(change[: len(members)].mean()),
        "l1_others": float(change[len(members) :].mean()),
        "labels_kept": float((released.argmax(dim=1) == own.argmax(dim=1)).double().mean()),
        "time/query_s": seconds / len(both),
    }
