"""The membership inference challenge of 2022 (Trustworthy ML): nine cells of a network and a data set."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn

from accupoison.audit.calibration import Calibration
from accupoison.audit.challenge.safe_pickle import read_pickle
from accupoison.audit.challenge.truth import TRUTH, held_to_truth, read_truth
from accupoison.audit.metric import Floats, scores, thresholds
from accupoison.audit.results import Results
from accupoison.audit.samples import Samples
from accupoison.audit.writers import save_figure
from accupoison.data import STATS
from accupoison.data.dataset import Stats
from accupoison.errors import InputError
from accupoison.measure.accuracy import EVALUATION_BATCH
from accupoison.models.factory import ModelSpec, build_model
from accupoison.records.files import write_atomically, write_json
from accupoison.records.foreign import load_weights, put_into

CLASSES = {"cifar10": 10, "cifar100": 100, "tinyimagenet": 200}
NETWORKS = ("resnet34", "vgg16", "mobilenetv2")
METRICS = {
    "confidence": "confidence",
    "entropy": "entropy",
    "modified_entropy": "modified_entropy",
    "cross_entropy": "loss",
}
"""The challenge's names of the metrics, and ours."""
FOLDS = 5
IMAGENET: Stats = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True, eq=False)
class Metric:
    """What one metric achieves on the samples whose membership is known.

    Attributes:
        max_acc: Accuracy at the best threshold of these samples.
        threshold: That threshold; a sample is taken for a member where its score is at least this.
        cross_validated: Accuracy over five folds, each with the best threshold of the other four.
        score: Scores of these samples [N], higher for likelier members.
    """

    max_acc: float
    threshold: float
    cross_validated: float
    score: Floats


@dataclass(frozen=True, eq=False)
class Cell:
    """One network on one data set.

    Attributes:
        model: The network's name.
        dataset: The data set's name.
        metrics: By the challenge's names.
        best: The metric with the highest cross-validated accuracy.
        member: Membership of the known samples, bool [N].
        predicted: The best metric's answer for each test sample, bool [M].
        correct: Whether the network gets each test sample right, bool [M].
        held: What the metrics achieve on the test samples; empty where nobody says who is a member.
    """

    model: str
    dataset: str
    metrics: Mapping[str, Metric]
    best: str
    member: NDArray[np.bool_]
    predicted: NDArray[np.bool_]
    correct: NDArray[np.bool_]
    held: Results = field(default_factory=dict)


def _complete_cells(root: Path) -> list[tuple[str, str]]:
    """Return the (model, dataset) whose three files are all there; InputError without a single one."""
    cells = [(model, dataset) for dataset in CLASSES for model in NETWORKS]
    complete = [cell for cell in cells if all(path.is_file() for path in _files(root, *cell))]
    if not complete:
        raise InputError(
            f"{root} has no cell of the challenge; it needs datasets/eval/DATASET_MODEL.p, the same in datasets/test, "
            f"and models/MODEL_DATASET.pth, with the names {', '.join(CLASSES)} and {', '.join(NETWORKS)}"
        )
    return complete


def _files(root: Path, model: str, dataset: str) -> tuple[Path, Path, Path]:
    data = root / "datasets"
    name = f"{dataset}_{model}.p"
    return data / "eval" / name, data / "test" / name, root / "models" / f"{model}_{dataset}.pth"


def attack_cells(root: Path, factories: Mapping[str, str], truth: Path | None = None) -> Iterator[Cell]:
    """Yield what the metric attacks achieve on each cell under ``root``.

    Args:
        root: The challenge's directory.
        factories: ``package.module:factory`` by network, where the weights are of another implementation than ours.
        truth: Where ``DATASET_MODEL.npy`` says who of the test samples is a member; None is ``truth`` under ``root``.

    Raises:
        InputError: A file is damaged or not laid out as it should be, or weights fit no network.
    """
    cells = _complete_cells(root)
    names = [f"{dataset}_{model}.npy" for model, dataset in cells]
    if truth is not None and not any((truth / name).is_file() for name in names):
        raise InputError(f"{truth} has no truth of any cell, such as {names[0]}; give the directory that does")
    for model, dataset in cells:
        known_path, test_path, weights = _files(root, model, dataset)
        x, labels, member = read_samples(known_path, known=True)
        test_x, test_labels, _ = read_samples(test_path, known=False)
        members = read_truth((truth or root / TRUTH) / f"{dataset}_{model}.npy", len(test_labels))
        network = load_network(weights, model, dataset, factories.get(model), raw=bool(((x >= 0) & (x <= 1)).all()))
        known_scores = scores(probabilities(network, x), labels)
        metrics = {name: _metric(known_scores[ours], labels, member) for name, ours in METRICS.items()}
        best = max(metrics, key=lambda name: metrics[name].cross_validated)
        test_probs = probabilities(network, test_x)
        found = scores(test_probs, test_labels)
        test_scores = {name: found[ours] for name, ours in METRICS.items()}
        bounds = {name: metric.threshold for name, metric in metrics.items()}
        held: Results = {}
        if members is not None:
            asked = Samples(test_probs, test_labels, members, np.arange(len(members)))
            told = {name: Calibration(known_scores[ours][None], member[None]) for name, ours in METRICS.items()}
            held = held_to_truth(test_scores, bounds, asked, told)
        correct = test_probs.argmax(axis=1) == test_labels
        yield Cell(model, dataset, metrics, best, member, test_scores[best] >= bounds[best], correct, held)


def _metric(score: Floats, labels: NDArray[np.int64], member: NDArray[np.bool_]) -> Metric:
    threshold, _ = thresholds(score, labels, member, per_class=False)
    fold = np.random.default_rng(0).permutation(len(score)) % FOLDS
    hits = []
    for i in range(FOLDS):
        rows = fold == i
        fold_threshold, _ = thresholds(score[~rows], labels[~rows], member[~rows], per_class=False)
        hits.append((score[rows] >= fold_threshold) == member[rows])
    accuracy = float(np.concatenate(hits).mean())
    return Metric(float(((score >= threshold) == member).mean()), threshold, accuracy, score)


def read_samples(path: Path, *, known: bool) -> tuple[Tensor, NDArray[np.int64], NDArray[np.bool_]]:
    """Read samples of the challenge.

    Args:
        path: A pickled list of (image, label, member), or of (image, label).
        known: Membership is there.

    Returns:
        Images, float32 [N, 3, H, W], labels, int64 [N], and membership, bool [N] (False where it is not known).

    Raises:
        InputError: The file is damaged or something else.
    """
    content = read_pickle(path)
    width = 3 if known else 2
    shape = "(image [3, H, W], label, member 0 or 1)" if known else "(image [3, H, W], label)"
    try:
        rows = [tuple(row) for row in content]  # type: ignore[attr-defined]
        if not rows or any(len(row) != width for row in rows):
            raise ValueError
        x = torch.stack([torch.as_tensor(row[0]).float() for row in rows])
        labels = np.array([int(row[1]) for row in rows], dtype=np.int64)
        member = np.array([int(row[2]) if known else 0 for row in rows], dtype=np.int64)
        if x.ndim != 4 or x.shape[1] != 3 or not np.isin(member, (0, 1)).all():
            raise ValueError
    except Exception as error:  # whatever else the list may hold
        raise InputError(f"{path} is not a list of {shape}; write it with pickle.dump") from error
    return x, labels, member.astype(bool)


def load_network(path: Path, name: str, dataset: str, factory: str | None, *, raw: bool) -> nn.Module:
    """Return a network in eval mode with the weights in ``path``.

    Args:
        path: A state dict.
        name: The network.
        dataset: The data set, for the number of classes and the statistics.
        factory: ``package.module:factory`` of another implementation; it then gets the images as they are.
        raw: The images lie in [0, 1]: our networks then normalise them themselves.

    Raises:
        InputError: The file is no state dict, or does not fit.
    """
    weights = load_weights(path)
    if factory is not None:
        model = build_model(ModelSpec(name=factory, num_classes=CLASSES[dataset]))
    else:
        first = next((value for value in weights.values() if value.ndim == 4), None)
        width = 64 if first is None else len(first) * (2 if name == "mobilenetv2" else 1)
        norm = "batch" if any("running_mean" in key for key in weights) else "group"
        mean, std = (STATS.get(dataset) or IMAGENET) if raw else ((0.0,) * 3, (1.0,) * 3)
        model = build_model(
            ModelSpec(name=name, width=width, norm=norm, num_classes=CLASSES[dataset], mean=mean, std=std)
        )
    if problem := put_into(model, weights):
        raise InputError(
            f"the weights in {path} fit no {name} here; name the network they are of with --network "
            f"{name}=package.module:factory ({problem})"
        )
    return model.eval()


@torch.no_grad()
def probabilities(model: nn.Module, x: Tensor) -> Floats:
    """Return probabilities, float64 [N, C], of images [N, 3, H, W]."""
    return torch.cat([model(part).double().softmax(dim=1) for part in torch.split(x, EVALUATION_BATCH)]).numpy()


def write_challenge(folder: Path, answered: Sequence[Cell]) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """Write the answers and what is known of them.

    Args:
        folder: Gets ``task{1,2,3}_MODEL_DATASET.npy``, a picture of accuracy against threshold for each cell, and
            ``result.json``.
        answered: The cells.

    Returns:
        The contents of ``result.json``.

    Raises:
        InputError: A file cannot be written.
    """
    result: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for cell in answered:
        name = f"{cell.model}_{cell.dataset}"
        for task, answer in ((1, cell.predicted), (2, cell.predicted), (3, cell.correct)):
            write_atomically(folder / f"task{task}_{name}.npy", lambda file, to=answer: np.save(file, to))  # type: ignore[misc]
        result.setdefault(cell.model, {})[cell.dataset] = {
            metric: {"max_acc": m.max_acc, "threshold": m.threshold, "cross_validated_acc": m.cross_validated}
            for metric, m in cell.metrics.items()
        }
        save_figure(_accuracies(cell), folder / f"accuracy_{name}.png")
    write_json(folder / "result.json", result)
    return result


def _accuracies(cell: Cell) -> Figure:
    """Return accuracy against threshold; thresholds are shares of the samples below, so that metrics fit one axis."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    for name, metric in cell.metrics.items():
        order = np.argsort(metric.score)
        member = cell.member[order]
        right = np.concatenate([[0], np.cumsum(~member)]) + member.sum() - np.concatenate([[0], np.cumsum(member)])
        share = np.linspace(0, 1, len(member) + 1)
        axes.plot(share, right / len(member), label=f"{name} ({metric.cross_validated:.3f})")
    axes.set(xlabel="share of samples with a score below the threshold", ylabel="accuracy")
    axes.set_title(f"{cell.model} on {cell.dataset}; cross-validated accuracy in brackets")
    axes.legend()
    return figure
