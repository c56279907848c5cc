"""Files of predictions: what other programs know of a model, to be audited."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accupoison.audit.metric import checked
from accupoison.audit.samples import Samples
from accupoison.errors import InputError
from accupoison.records.arrays import read_arrays

KEYS = ("probs", "labels", "member")


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
    flags = member.dtype.kind in "biuf" and member.shape == labels.shape and np.isin(member, (0, 1)).all()
    if not flags:
        raise InputError(f"{prefix}member in {path} is not 0 or 1 for each of the {len(labels)} samples; mend it")
    if ids.shape != labels.shape or ids.dtype.kind not in "iu":
        raise InputError(f"{prefix}ids in {path} is not a whole number for each of the {len(labels)} samples; mend it")
    return Samples(probs, labels, member.astype(bool), ids.astype(np.int64))
