"""Samples with a model's predictions, made here or read from a file."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from accupoison.audit.metric import all_scores, check_members, checked
from accupoison.errors import InputError
from accupoison.records.arrays import read_arrays
from accupoison.release import Release

KEYS = ("probs", "labels", "member")
"""Arrays that a file of predictions must have."""


@dataclass(frozen=True, eq=False)
class Samples:
    """Samples with a model's predictions.

    Attributes:
        probs: Probabilities in [0, 1], float64 [N, C].
        labels: The true classes, int64 [N].
        member: The model was trained with the sample, bool [N].
        ids: Names of the samples, int64 [N].
        extra: Further scores by name, each float64 [N] and higher for likelier members.

    Raises:
        InputError: All samples are members, or none is.
    """

    probs: NDArray[np.float64]
    labels: NDArray[np.int64]
    member: NDArray[np.bool_]
    ids: NDArray[np.int64]
    extra: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_members(self.member)

    @cached_property
    def metric_scores(self) -> dict[str, NDArray[np.float64]]:
        """The scores of the metric attacks, float64 [N] by name; see :func:`accupoison.audit.metric.all_scores`."""
        return all_scores(self.probs, self.labels)

    def rows(self, index: NDArray[Any]) -> "Samples":
        """Return the samples that ``index`` selects, a bool or an integer array.

        Raises:
            InputError: All of them are members, or none is.
        """
        extra = {name: score[index] for name, score in self.extra.items()}
        return Samples(self.probs[index], self.labels[index], self.member[index], self.ids[index], extra)


def read_predictions(path: Path) -> tuple[Samples, Samples | None]:
    """Read an .npz file of predictions.

    The file holds ``probs`` [N, C], ``labels`` [N], ``member`` [N] (0 or 1) and optionally ``ids`` [N]; and, where the
    attacker has a shadow model, the same four with ``shadow_`` before their names.

    Returns:
        The audited model's samples, and the shadow's, or None.

    Raises:
        InputError: The file is missing or damaged, or an array is not as above.
    """
    known = [f"{prefix}{name}" for prefix in ("", "shadow_") for name in (*KEYS, "ids")]
    arrays = read_arrays(path, KEYS, optional=known[len(KEYS) :])
    target = _samples(path, arrays, "")
    has_shadow = any(name.startswith("shadow_") for name in arrays)
    return target, _samples(path, arrays, "shadow_") if has_shadow else None


def _samples(path: Path, arrays: dict[str, NDArray[Any]], prefix: str) -> Samples:
    missing = [prefix + key for key in KEYS if prefix + key not in arrays]
    if missing:
        raise InputError(
            f"{path} lacks {', '.join(missing)} (it has {', '.join(sorted(arrays)) or 'nothing'}); add them"
        )
    probs, labels = checked(arrays[f"{prefix}probs"], arrays[f"{prefix}labels"])
    member, ids = arrays[f"{prefix}member"], arrays.get(f"{prefix}ids", np.arange(len(labels)))
    if member.dtype.kind not in "biuf" or member.shape != labels.shape or not np.isin(member, (0, 1)).all():
        raise InputError(f"{prefix}member in {path} is not 0 or 1 for each of the {len(labels)} samples; mend it")
    if ids.shape != labels.shape or ids.dtype.kind not in "iu":
        raise InputError(f"{prefix}ids in {path} is not a whole number for each of the {len(labels)} samples; mend it")
    return Samples(probs, labels, member.astype(bool), ids.astype(np.int64))


def released(samples: Samples, release: Release) -> Samples:
    """Return the samples with what is released in place of their probabilities.

    Args:
        samples: With the model's own probabilities.
        release: One that needs these alone.

    Raises:
        InputError: It needs the model itself.
    """
    if release.needs_model:
        raise InputError(
            f"the release {release.name} asks the model itself, or learns from members, and a file has probabilities "
            "alone; give one that rewrites those, such as round:2, top-k:3, label-only or temperature:2"
        )
    probs = samples.probs / samples.probs.sum(axis=1, keepdims=True)  # files may be in single precision
    return replace(samples, probs=release.rewrite(torch.from_numpy(probs)).numpy())


def change(released: Samples, undefended: Samples) -> dict[str, float]:
    """Return the mean l1 change of an answer to members and to others, in [0, 2], and the share of labels kept.

    Args:
        released: What is released.
        undefended: What the model itself says of the same samples.
    """
    moved = np.abs(released.probs - undefended.probs).sum(axis=1)
    kept = released.probs.argmax(axis=1) == undefended.probs.argmax(axis=1)
    return {
        "l1_members": float(moved[released.member].mean()),
        "l1_others": float(moved[~released.member].mean()),
        "labels_kept": float(kept.mean()),
    }
