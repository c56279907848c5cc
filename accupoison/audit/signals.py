"""What the models of an audit are asked about samples, and the files of what each one answered."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from accupoison.audit.metric import Floats, logit_scores
from accupoison.audit.samples import Samples
from accupoison.config.layers import Layer
from accupoison.config.renamed import with_new_names
from accupoison.config.schema import at_home
from accupoison.data import DataSet
from accupoison.errors import InputError, check_choice
from accupoison.learner import Learner
from accupoison.measure.accuracy import EVALUATION_BATCH
from accupoison.measure.hardware import ceiling, training_flops
from accupoison.records.arrays import read_arrays, write_arrays
from accupoison.records.run_directory import OLD_SIGNALS, SIGNALS, RunDirectory
from accupoison.runs.burnin import Progress
from accupoison.runs.engines import Engine, results
from accupoison.runs.workers import Task
from accupoison.types import ModelView

QUERIES = ("plain", "flip", "up", "down", "left", "right")
"""What is asked about a sample: its image, its mirror image, or the image moved by a pixel."""
SHIFTS = {"up": (-1, 2), "down": (1, 2), "left": (-1, 3), "right": (1, 3)}
"""Step and axis by which a query moves images [B, C, H, W]."""
ARRAYS = ("phi", "probs", "population", "keep")
NUMBERS = ("seconds", "images", "epsilon")
"""What a file of signals holds: of each sample, and of the model."""


def check_queries(queries: Sequence[str]) -> None:
    """Raise InputError unless ``queries`` are some of ``QUERIES``, the plain one first."""
    for query in queries:
        check_choice("query", query, QUERIES)
    if list(queries[:1]) != ["plain"]:
        raise InputError(f"queries {','.join(queries)!r} must begin with plain, the image itself")


@torch.no_grad()
def logits_of(
    view: ModelView, data: DataSet, ids: Tensor, queries: Sequence[str]
) -> Iterator[tuple[list[Tensor], NDArray[np.int64]]]:
    """Yield, for some samples after the other, the logits of each query, float64 [n, C] on the CPU, and the labels [n].

    Args:
        view: The model, asked in eval mode.
        data: The samples, clean.
        ids: Which of them, int64 [N].
        queries: Of ``QUERIES``.
    """
    predict = view.frozen()
    for part in torch.split(ids, EVALUATION_BATCH):
        batch = data.batch(part)
        yield [predict(_moved(batch.x, query)).cpu().double() for query in queries], batch.y.cpu().numpy()


def signals(view: ModelView, data: DataSet, ids: Tensor, queries: Sequence[str]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return what a model says of samples.

    Args:
        view: The model, asked in eval mode.
        data: The samples, clean.
        ids: Which of them, int64 [N].
        queries: Of ``QUERIES``, the plain one first.

    Returns:
        The logit of the true class for each query, log(p_y / (1 - p_y)) (Carlini et al., S&P 2022, Section IV), float32
        [N, Q], and the probabilities of the plain query, float32 [N, C].
    """
    phi = []
    probs = []
    for logits, labels in logits_of(view, data, ids, queries):
        phi.append(np.stack([logit_scores(z.numpy(), labels)["logit"] for z in logits], axis=1))
        probs.append(logits[0].softmax(dim=1).numpy())
    return np.concatenate(phi).astype(np.float32), np.concatenate(probs).astype(np.float32)


def _moved(x: Tensor, query: str) -> Tensor:
    if query == "plain":
        return x
    if query == "flip":
        return x.flip(-1)
    step, axis = SHIFTS[query]
    moved = x.roll(step, axis)
    moved.narrow(axis, 0 if step > 0 else x.shape[axis] - 1, 1).zero_()
    return moved


@dataclass(frozen=True, eq=False)
class Audited:
    """What all models of an audit are asked about.

    Attributes:
        data: The data set.
        ids: Samples whose membership is to be told, int64 [N].
        population: Samples that no model was trained with, int64 [Z], for the attacks that compare with a population.
    """

    data: DataSet
    ids: Tensor
    population: Tensor


def ask(view: ModelView, audited: Audited, queries: Sequence[str], member: Tensor) -> dict[str, NDArray[Any]]:
    """Return what a model says, as files of signals hold it: ``phi``, ``probs``, ``population`` and ``keep``.

    Args:
        view: The model.
        audited: What it is asked about.
        queries: Of ``QUERIES``, the plain one first.
        member: Which audited samples it was trained with, bool [N].
    """
    phi, probs = signals(view, audited.data, audited.ids, queries)
    _, population = signals(view, audited.data, audited.population, ["plain"])
    return {"phi": phi, "probs": probs, "population": population, "keep": member.numpy()}


@dataclass(frozen=True, eq=False)
class ModelSignals:
    """What one model, shadow or target, says of the audited samples.

    Attributes:
        phi: Logit of the true class for each query, float64 [N, Q].
        samples: The samples with the probabilities of the plain query.
        population: Probability of the true class of the population's samples, float64 [Z].
        seconds: What training and asking took.
        images: Training images seen.
        share: What their matrix products came to, as a share of what the machine reaches; NaN if unknown.
        epsilon: Of its DP-SGD; infinity without.
        group: Models of one group are complementary and never attack each other: with one of them among the shadows, a
            member would have one IN shadow fewer than a non-member, which the ratio of two fits would give away.
    """

    phi: Floats
    samples: Samples
    population: Floats
    seconds: float = 0.0
    images: float = 0.0
    share: float = float("nan")
    epsilon: float = float("inf")
    group: int = -1

    @classmethod
    def of(cls, arrays: dict[str, NDArray[Any]], audited: Audited, group: int = -1) -> "ModelSignals":
        """Return what the arrays of :func:`ask` say.

        Args:
            arrays: These, in a file with the numbers of the model beside them.
            audited: What it was asked about.
            group: See above.

        Raises:
            InputError: All audited samples are members, or none is.
        """
        labels, others = (audited.data.labels(ids).cpu().numpy() for ids in (audited.ids, audited.population))
        phi, probs, population = (arrays[name].astype(np.float64) for name in ("phi", "probs", "population"))
        probs /= probs.sum(axis=1, keepdims=True)  # files are in single precision
        true = np.clip(population[np.arange(len(others)), others], 0, 1)
        numbers = {name: float(arrays[name]) for name in (*NUMBERS, "share") if name in arrays}
        samples = Samples(probs, labels, arrays["keep"], audited.ids.cpu().numpy())
        return cls(phi, samples, true, group=group, **numbers)

    def rows(self, index: NDArray[Any]) -> "ModelSignals":
        """Return what the model says of the audited samples that ``index``, a bool or an integer array, selects.

        Raises:
            InputError: All of them are members, or none is.
        """
        return replace(self, phi=self.phi[index], samples=self.samples.rows(index))

    def apart(self, others: Sequence["ModelSignals"]) -> list["ModelSignals"]:
        """Return those of ``others`` that may attack this one."""
        return [o for o in others if o is not self and (self.group < 0 or o.group != self.group)]


def signals_path(out: Path, name: str) -> Path:
    """Return the file with the signals of a model; audits of older versions have it under another name."""
    old = out / OLD_SIGNALS / f"{name.replace('target_models', 'victims')}.npz"
    return old if old.exists() else out / SIGNALS / f"{name}.npz"


def write_signals(
    path: Path,
    arrays: dict[str, NDArray[Any]],
    learner: Learner,
    data: DataSet,
    *,
    started: float,
    images: int,
    epsilon: float = float("inf"),
) -> None:
    """Write what a model said, and what it cost.

    Args:
        path: The file.
        arrays: Of :func:`ask`.
        learner: The model, to count its matrix products.
        data: Its samples.
        started: When its training began, by :func:`time.perf_counter`.
        images: Training images seen.
        epsilon: Of its DP-SGD; infinity without.

    Raises:
        InputError: The file cannot be written.
    """
    seconds = time.perf_counter() - started
    share = _share_of_ceiling(learner, data, images / seconds)
    numbers = {"seconds": seconds, "images": images, "share": share, "epsilon": epsilon}
    scalars = {name: np.float64(value) for name, value in numbers.items()}
    write_arrays(path, {**arrays, **scalars})


def _share_of_ceiling(learner: Learner, data: DataSet, images_per_second: float) -> float:
    """Return the matrix products of so many forward and backward passes as a share of what the machine reaches.

    NaN for a network that torch's counter cannot count: a speed is not worth an audit.
    """
    x = data.batch(torch.arange(min(8, data.size))).x
    try:
        return images_per_second * training_flops(learner.model, x) / ceiling(learner.device)
    except Exception:  # networks of others can raise anything under the counter's hooks
        return float("nan")


def make_models(
    out: Path, settings: Layer, env: Mapping[str, Any], tasks: Mapping[str, Task], engine: Engine, report: Progress
) -> None:
    """Carry out the tasks of the models that an audit does not have yet, while its directory is locked.

    Args:
        out: The directory, new or of the same audit.
        settings: The configuration that it has or gets.
        env: What a new one says of the machine; see :func:`accupoison.records.run_directory.environment`.
        tasks: What writes the signals of each model, by name.
        engine: What carries them out.
        report: Told (models done, models in all, the last one).

    Raises:
        InputError: The directory belongs to other settings, or a task says that it cannot go on.
    """
    with RunDirectory.resume_or_create(out, at_home(settings, out), env, with_new_names):
        left = [task for name, task in tasks.items() if not signals_path(out, name).exists()]
        for done, name in enumerate(results(engine, left), start=1):
            report(done, len(left), name)


def read_signals(out: Path, name: str, audited: Audited, group: int = -1) -> ModelSignals:
    """Read what a model said of the audited samples and of the population.

    Args:
        out: The directory of the audit.
        name: Of the model.
        audited: What it was asked about.
        group: See :class:`ModelSignals`.

    Raises:
        InputError: The file is missing or damaged, or the model was asked something else.
    """
    path = signals_path(out, name)
    if not path.exists():
        raise InputError(f"there is no {path}; the same command goes on with what is missing")
    fix = "delete it, and the same command makes it anew"
    # files from before the share was measured have none
    arrays = read_arrays(path, (*ARRAYS, *NUMBERS), optional=("share",), kind="file of signals", fix=fix)
    if not _fits(arrays, audited):
        raise InputError(f"{path} does not hold signals of these samples; {fix}")
    return ModelSignals.of(arrays, audited, group)


def _fits(arrays: dict[str, NDArray[Any]], audited: Audited) -> bool:
    """Return whether the arrays of a file are numbers of the shapes that they are written with."""
    phi, probs, population, keep = (arrays[name] for name in ARRAYS)
    samples = len(audited.ids)
    classes = probs.shape[1] if probs.ndim == 2 else 0
    return bool(
        phi.ndim == 2
        and phi.shape[1]
        and probs.shape == (samples, classes)
        and population.shape == (len(audited.population), classes)
        and (audited.data.labels(audited.population).cpu().numpy() < classes).all()
        and keep.shape == phi.shape[:1] == (samples,)
        and keep.dtype == np.bool_
        and all(x.dtype.kind == "f" and np.isfinite(x).all() for x in (phi, probs, population))
        and (probs.sum(axis=1) > 0).all()
        and all(
            number.shape == () and number.dtype.kind == "f" for name, number in arrays.items() if name not in ARRAYS
        )
    )
