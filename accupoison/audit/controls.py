"""Controls of an audit: what a reader asks before believing its numbers."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from accupoison.audit.metric import TINY, Floats
from accupoison.audit.roc import CONFIDENCE, auc_of
from accupoison.audit.samples import Samples
from accupoison.data import DataSet

BLIND_SAMPLES = 2000
"""The blind baseline takes at most so many members and as many others, as an audit should not wait for it."""
BLIND_MODELS = 2
"""In an audit of several models it is for the first ones alone, for all of which the coins fell alike."""
BLIND_MINIMUM = 50
"""It needs this many members and as many others."""
COMPONENTS, PIXELS = 30, 20
"""What it sees of an image: principal components, and the values that differ most between members and others."""
PERMUTATIONS = 20
RATIO_MINIMUM = 3
"""So many shadows are needed to say how much the loss ratio varies from model to model."""
Order = NDArray[np.int64]
Inputs = Callable[[Order], NDArray[Any]]
"""Returns the inputs of the samples in some rows [n, D]."""


def inputs_of(data: DataSet, ids: Tensor) -> Inputs:
    """Return what is known of samples without any model: their pixels or features, and their class.

    Args:
        data: Where they are.
        ids: Which of them, int64 [N].
    """

    def asked(rows: Order) -> NDArray[Any]:
        batch = data.batch(ids[torch.from_numpy(rows)])
        return np.hstack([batch.x.flatten(1).cpu().numpy(), np.eye(data.num_classes)[batch.y.cpu().numpy()]])

    return asked


def blind_baseline(inputs: Inputs, member: NDArray[np.bool_], *, seed: int = 0) -> dict[str, Any] | None:
    """Return how well members are told without asking the model at all.

    A classifier learns membership from the inputs alone, of one half of the samples, and tells it of the other: the
    folds of a cross-validation learn from one another's samples, and DeLong's interval would be too narrow. Where
    members and others come from one random division it can learn nothing, and an AUC above a half says that the two
    differ in themselves (Das et al. 2024, "Blind baselines beat membership inference attacks"); what the attacks
    achieve is then not all the model's doing. Halves of a fixed number of members can bring it a little below a half,
    so only what lies above is flagged.

    Args:
        inputs: Of :func:`inputs_of`.
        member: Membership, bool [N].
        seed: Of the samples that are drawn, and of the classifier.

    Returns:
        ``auc`` with its 95% ``interval``, the number of ``samples`` told, and whether it is ``flagged``; None where
        there are fewer than ``BLIND_MINIMUM`` of a kind.
    """
    rng = np.random.default_rng(seed)
    learnt, told = [], []
    for side in (member, ~member):
        drawn = rng.permutation(np.flatnonzero(side))[:BLIND_SAMPLES]
        if len(drawn) < BLIND_MINIMUM:
            return None
        learnt.append(drawn[: len(drawn) // 2])
        told.append(drawn[len(drawn) // 2 :])
    rows, asked = np.concatenate(learnt), np.concatenate(told)
    x = inputs(rows)
    with np.errstate(all="ignore"):  # of inputs that are the same in all samples
        classifier = _classifier(len(x), x.shape[1], seed % 2**32).fit(x, member[rows])
    score = classifier.predict_proba(inputs(asked))[:, 1]
    auc, interval = auc_of(score, member[asked])
    return {"auc": auc, "interval": interval, "samples": len(asked), "flagged": interval[0] > 0.5}


def blind_of(data: DataSet, groups: Mapping[str, Samples]) -> dict[str, dict[str, Any] | None]:
    """Return :func:`blind_baseline` of groups of members and others, by name.

    Args:
        data: Where the samples are.
        groups: The samples by group.
    """
    return {
        name: blind_baseline(inputs_of(data, torch.from_numpy(samples.ids)), samples.member)
        for name, samples in groups.items()
    }


def blind_of_classes(samples: Samples) -> dict[str, Any] | None:
    """Return :func:`blind_baseline` from the classes of samples, where nothing else is known of them."""
    return blind_baseline(lambda rows: np.eye(samples.probs.shape[1])[samples.labels[rows]], samples.member)


def _classifier(count: int, width: int, seed: int) -> Any:  # noqa: ANN401
    from sklearn.decomposition import PCA  # here, as they take seconds to load
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.feature_selection import SelectKBest
    from sklearn.pipeline import make_pipeline, make_union

    views = make_union(
        PCA(min(COMPONENTS, count, width), svd_solver="randomized", random_state=seed),
        SelectKBest(_apart, k=min(PIXELS, width)),
    )
    return make_pipeline(
        views, HistGradientBoostingClassifier(max_iter=30, max_leaf_nodes=8, early_stopping=False, random_state=seed)
    )


def _apart(x: NDArray[Any], y: NDArray[np.bool_]) -> Floats:
    """Return how far apart the means of members and others lie in standard deviations, for each column."""
    difference, spread = np.abs(x[y].mean(axis=0) - x[~y].mean(axis=0)), x.std(axis=0)
    return np.asarray(np.divide(difference, spread, out=np.zeros(len(spread)), where=spread > 0))


def permuted_null(
    aucs: Callable[[Order], Mapping[str, float]],
    count: int,
    *,
    shared: bool = False,
    repeats: int = PERMUTATIONS,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """Return what attacks achieve where membership is permuted among the samples, so that nothing can be told.

    Args:
        aucs: Returns the AUC of each attack, carried out anew, where sample i has the membership of sample order[i].
        count: Of the samples.
        shared: Several models are permuted alike. What the permutations then have in common, such as how many models
            have a sample, moves their mean by chance, so the interval is that in which one more permutation lies; else
            it is that of the mean.
        repeats: Permutations, at least 2.
        seed: Of them.

    Returns:
        By attack: the mean ``auc`` over permutations, its t-``interval``, of 95% for all attacks together (Bonferroni),
        and whether it is ``flagged`` because that does not cover a half: then the attack sees membership on a way that
        is not the model's.
    """
    from scipy.stats import t  # here, as it takes seconds to load

    rng = np.random.default_rng(seed)
    found = [aucs(rng.permutation(count)) for _ in range(repeats)]
    quantile = float(t.ppf(1 - (1 - CONFIDENCE) / 2 / len(found[0]), repeats - 1))
    null = {}
    for name in found[0]:
        values = np.array([one[name] for one in found])
        mean = float(values.mean())
        spread = float(values.std(ddof=1)) * (shared + 1 / repeats) ** 0.5
        half = max(quantile * spread, 1e-9)  # of rounding, where all are equal
        null[name] = {"auc": mean, "interval": (mean - half, mean + half), "flagged": abs(mean - 0.5) > half}
    return null


def loss_ratio(samples: Samples) -> float:
    """Return a model's mean loss on members over that on others: 1 where it has memorised nothing."""
    true = samples.probs[np.arange(len(samples.labels)), samples.labels]
    loss = -np.log(np.maximum(true, TINY))
    return float(loss[samples.member].mean() / max(loss[~samples.member].mean(), TINY))


def compared_ratios(targets: Sequence[float], shadows: Sequence[float]) -> dict[str, Any]:
    """Return the loss ratios of target models and shadows, and whether they may be those of one way of training.

    A target that has been trained longer than its shadows, or otherwise, is not what they show.

    Args:
        targets: Of :func:`loss_ratio`.
        shadows: Of each shadow.

    Returns:
        Both; the ``range`` of one more shadow, by Student's t on the logarithms, at 95% for all targets together; and
        ``flagged``: some target lies outside. Without ``RATIO_MINIMUM`` shadows range and flag are None.
    """
    from scipy.stats import t  # here, as it takes seconds to load

    report: dict[str, Any] = {"targets": list(targets), "shadows": list(shadows), "range": None, "flagged": None}
    if len(shadows) < RATIO_MINIMUM or not targets:
        return report
    logs = np.log(np.maximum(shadows, TINY))
    quantile = t.ppf(1 - (1 - CONFIDENCE) / 2 / len(targets), len(logs) - 1)
    half = quantile * logs.std(ddof=1) * (1 + 1 / len(logs)) ** 0.5
    low, high = (float(np.exp(logs.mean() + sign * half)) for sign in (-1, 1))
    return report | {"range": (low, high), "flagged": any(not low <= ratio <= high for ratio in targets)}


def control_rows(controls: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the controls of an audit as rows for people.

    Args:
        controls: ``blind``, ``null``, ``loss_ratio`` and ``shadows``, those that the audit has.
    """
    rows = []
    for number, blind in enumerate(controls.get("blind", ())):
        name = "blind baseline, AUC" + (f" (model {number})" if len(controls["blind"]) > 1 else "")
        rows.append(_row(name, "too few samples" if blind is None else _auc_text(blind), blind and blind["flagged"]))
    null = controls.get("null", {})
    for name, one in null.items():
        worst = max(null.values(), key=lambda other: abs(other["auc"] - 0.5))
        if one["flagged"] or (one is worst and not any(other["flagged"] for other in null.values())):
            rows.append(_row(f"permuted membership, AUC of {name}", _auc_text(one, 4), one["flagged"]))
    if ratio := controls.get("loss_ratio"):
        text = f"target {_spread(ratio['targets'])}" if ratio["targets"] else ""
        text += f"{', ' if text else ''}shadows {_spread(ratio['shadows'])}" if ratio["shadows"] else ""
        if ratio["range"]:
            text += f", one more lies in [{ratio['range'][0]:.3f}, {ratio['range'][1]:.3f}]"
        rows.append(_row("loss on members / on others", text, ratio["flagged"]))
    if shadows := controls.get("shadows"):
        variance = "; ".join(f"{mode}: {', '.join(names)}" for mode, names in shadows["variance"].items())
        having = f", {shadows['with']:g} with a sample and {shadows['without']:g} without (median)"
        rows.append(_row("shadows", f"{shadows['count']} {shadows['kind']}{having}", None))
        rows.append(_row("variance", variance, None))
    return rows


def flags(controls: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each control that fails."""
    said = []
    if any(blind and blind["flagged"] for blind in controls.get("blind", ())):
        said.append(
            "the blind baseline tells members without asking the model, so the attacks need not be the model's doing; "
            "divide members and others at random"
        )
    if bad := [name for name, one in controls.get("null", {}).items() if one["flagged"]]:
        said.append(f"with permuted membership the AUC of {', '.join(bad)} is not 0.5: read it as biased by so much")
    if (controls.get("loss_ratio") or {}).get("flagged"):
        said.append("the target's loss ratio is not that of its shadows: they were trained otherwise and do not fit it")
    return said


def _row(control: str, found: str, flagged: bool | None) -> dict[str, str]:
    return {
        "control": control,
        "found": found,
        "verdict": "" if flagged is None else "FLAGGED" if flagged else "passes",
    }


def _auc_text(one: Mapping[str, Any], digits: int = 3) -> str:
    return f"{one['auc']:.{digits}f} [{one['interval'][0]:.{digits}f}, {one['interval'][1]:.{digits}f}]"


def _spread(values: ArrayLike) -> str:
    many = np.asarray(values, dtype=np.float64)
    return f"{many.mean():.3f}" + (f" ± {many.std(ddof=1):.3f}" if len(many) > 1 else "")
