"""Detectors of poison that memorization discrepancy is held against: what features and losses tell of a row.

Each is fitted once, on the trusted images as the early snapshot sees them, and asks the same frozen network about every
row: the one that the discrepancy sets against the live model. The features of the live model move with its weights, and
all would have to be fitted anew at every step. The same images give the same fit, so nothing of it is saved with a run.
Scores are higher where a row looks less like clean ones.
"""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Generator, Tensor

from accupoison.attacks.noise import noisy
from accupoison.discrepancy import divergence
from accupoison.errors import InputError
from accupoison.loop.discrepancy_probe import auroc
from accupoison.types import Batch, ModelView, Scores

Floats = NDArray[np.float64]
NEIGHBOURS = 20
"""Of LID, as Ma et al. use."""
TINY = 1e-12


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows as the early snapshot sees them.

    Attributes:
        features: What its last linear layer reads, [N, D].
        labels: Those that the rows came with, int64 [N].
        predicted: Its own answers, int64 [N].
        drift: Loss under the live model minus its own, [N] in nats; nothing for trusted images.
    """

    features: Floats
    labels: NDArray[np.int64]
    predicted: NDArray[np.int64]
    drift: Floats

    def take(self, index: NDArray[np.int64]) -> "Rows":
        """Return the rows that ``index``, int64 [N], selects."""
        return Rows(**{f.name: getattr(self, f.name)[index] for f in fields(self)})


class Detector(ABC):
    """A score of how little a row looks like trusted ones.

    Args:
        trusted: At least two rows to fit to.
    """

    reads_features: ClassVar[bool] = True

    def __init__(self, trusted: Rows) -> None:
        self.fit(trusted)

    @abstractmethod
    def fit(self, trusted: Rows) -> None:
        """Learn what trusted rows look like."""

    @abstractmethod
    def score(self, rows: Rows) -> Floats:
        """Return scores [N], higher where a row is more suspicious."""


class KernelDensity(Detector):
    """Minus the log density of trusted rows of the class that a row is taken for (KD; Feinman et al. 2017).

    The kernel is Gaussian. Its bandwidth, which the paper tunes for each data set, is the median distance of a trusted
    row to the nearest other one. A class that no trusted image has is answered for by all of them.
    """

    def fit(self, trusted: Rows) -> None:
        """Choose the bandwidth, and keep the rows of each class."""
        from sklearn.neighbors import KernelDensity as Density  # here, because scikit-learn takes a second to load
        from sklearn.neighbors import NearestNeighbors

        features, labels = trusted.features, trusted.labels
        nearest = NearestNeighbors(n_neighbors=1).fit(features).kneighbors()[0]
        self.bandwidth = float(np.median(nearest)) or 1.0
        self._every = Density(bandwidth=self.bandwidth).fit(features)
        self._of = {c: Density(bandwidth=self.bandwidth).fit(features[labels == c]) for c in np.unique(labels).tolist()}

    def score(self, rows: Rows) -> Floats:
        """Return minus log densities [N], in nats."""
        scores = np.empty(len(rows.features))
        for c in np.unique(rows.predicted).tolist():
            here = rows.predicted == c
            scores[here] = -self._of.get(c, self._every).score_samples(rows.features[here])
        return scores


class IntrinsicDimension(Detector):
    """Local intrinsic dimensionality, by maximum likelihood from distances to trusted rows (LID; Ma et al. 2018).

    Neighbours are the :data:`NEIGHBOURS` nearest trusted images, not rows of the same batch, of which any may be
    poisoned, and the last layer's features stand for those of all layers, on which the paper trains a classifier.
    """

    def fit(self, trusted: Rows) -> None:
        """Keep the trusted rows."""
        from sklearn.neighbors import NearestNeighbors

        count = min(NEIGHBOURS, len(trusted.features))
        self._near = NearestNeighbors(n_neighbors=count).fit(trusted.features)

    def score(self, rows: Rows) -> Floats:
        """Return dimensionalities [N], above 0."""
        distances = np.maximum(self._near.kneighbors(rows.features)[0], TINY)
        closeness = np.log(distances[:, -1:] / distances).mean(axis=1)
        return np.asarray(1 / np.maximum(closeness, TINY), dtype=np.float64)


class GaussianDiscriminant(Detector):
    """Squared Mahalanobis distance to the nearest class mean (GDA; Lee et al. 2018, Eq. 2, without its input noise).

    The classes share one covariance, shrunk as Ledoit and Wolf do, for there may be more features than images.
    """

    def fit(self, trusted: Rows) -> None:
        """Estimate the means and the covariance around them."""
        from sklearn.covariance import LedoitWolf

        classes, which = np.unique(trusted.labels, return_inverse=True)
        self.means = np.stack([trusted.features[which == c].mean(axis=0) for c in range(len(classes))])
        self.covariance = LedoitWolf(assume_centered=True).fit(trusted.features - self.means[which])

    def score(self, rows: Rows) -> Floats:
        """Return squared distances [N]."""
        distances = [self.covariance.mahalanobis(rows.features - mean) for mean in self.means]
        return np.asarray(np.min(distances, axis=0), dtype=np.float64)


class GaussianMixture(Detector):
    """Minus the log density of a mixture of Gaussians, as many as there are classes, that is told no labels (GMM).

    Covariances are diagonal, with a thousandth of the mean variance added. It begins at rows drawn from a fixed seed:
    the default, k-means on several threads, does not add up the same way twice.
    """

    def fit(self, trusted: Rows) -> None:
        """Fit the mixture by expectation maximisation."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.mixture import GaussianMixture as Mixture

        features = trusted.features
        settings = {"covariance_type": "diag", "init_params": "k-means++", "max_iter": 200, "random_state": 0}
        least = max(1e-3 * float(features.var(axis=0).mean()), TINY)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            self._mixture = Mixture(len(np.unique(trusted.labels)), reg_covar=least, **settings).fit(features)

    def score(self, rows: Rows) -> Floats:
        """Return minus log densities [N], in nats."""
        return np.asarray(-self._mixture.score_samples(rows.features), dtype=np.float64)


class LossDrift(Detector):
    """Loss under the live model, before the update, minus loss under the early snapshot, by the label that was sent."""

    reads_features: ClassVar[bool] = False

    def fit(self, trusted: Rows) -> None:
        """Learn nothing."""

    def score(self, rows: Rows) -> Floats:
        """Return differences [N], in nats; positive where the live model has become worse."""
        return rows.drift


DETECTORS: dict[str, type[Detector]] = {
    "kd": KernelDensity,
    "lid": IntrinsicDimension,
    "gda": GaussianDiscriminant,
    "gmm": GaussianMixture,
    "loss": LossDrift,
}
"""By the names that ``evaluate.detectors`` knows."""


class Detectors:
    """Several detectors, fitted to the same images.

    Args:
        names: Of :data:`DETECTORS`.
        early: The early snapshot; None where there is none.
        trusted: Clean batches.

    Raises:
        InputError: There is no early snapshot, too few images, or features are asked for that the network lacks.
    """

    def __init__(self, names: Sequence[str], early: ModelView | None, trusted: Sequence[Batch]) -> None:
        told = f"<evaluate.detectors> {','.join(names)}"
        if early is None:
            raise InputError(f"{told} look at rows by the early snapshot, and there is none; give <start.reference>")
        self._early = early
        self._by_features = any(DETECTORS[name].reads_features for name in names)
        try:
            parts = [self._look(early, batch)[0] for batch in trusted]
        except ValueError as error:
            raise InputError(f"{told}: {error}; give loss alone") from error
        if len(parts) == 0 or sum(len(part.labels) for part in parts) < 2:
            raise InputError(f"{told} are fitted to two trusted images or more; give data.trusted 20 or more")
        every = Rows(**{f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Rows)})
        if not np.isfinite(every.features).all():
            raise InputError(f"{told}: the early snapshot has features that are not finite; give another")
        once = np.unique(every.features, axis=0, return_index=True)[1]  # few images go round several times
        fitted = every.take(np.sort(once)) if len(once) > 1 else every
        self._detectors = {name: DETECTORS[name](fitted) for name in names}

    def examine(self, live: ModelView, clean: Batch, sent: Batch, rng: Generator, metrics: dict[str, float]) -> Scores:
        """Return the scores of all rows, and log how well each detector tells poisoned ones apart.

        Poisoned rows are held against the clean ones they were made of and, where pixels moved, against these with
        Rademacher noise of equal size; see :func:`accupoison.loop.discrepancy_probe.probe`. An AUC below a half says
        that the poison looks the cleaner. Rows of the attacker's own, which come last, have scores alone.

        Args:
            live: The model before the update.
            clean: The batch before the attack.
            sent: The batch that reached the defence.
            rng: For the noise.
            metrics: Gets the AUCs, in [0, 1] by tag; none where nothing is poisoned.
        """
        count = len(clean)
        moved = sent.x[:count] - clean.x
        poisoned = (moved.flatten(1).any(dim=1) | (sent.y[:count] != clean.y)).cpu()
        size = float(moved.abs().max()) if count else 0.0
        arrived = {"sent": sent}
        if bool(poisoned.any()):
            arrived["clean"] = clean
        if size > 0:
            arrived["noise"] = clean.with_x(noisy(clean.x, "rademacher", size, rng, bounded=clean.bounded))
        scores = {kind: self.scores(live, batch) for kind, batch in arrived.items()}
        for kind in list(arrived)[1:]:
            for name in self._detectors:
                ours, others = scores["sent"][name][:count][poisoned], scores[kind][name][poisoned]
                metrics[f"detectors/{name}_auc_{kind}"] = auroc(ours, others)
        own = torch.ones(len(sent) - count, dtype=torch.bool)
        altered = {kind: torch.cat([poisoned, own]) if kind == "sent" else poisoned for kind in arrived}
        return {
            kind: {"id": batch.ids.cpu(), "poisoned": altered[kind], **scores[kind]} for kind, batch in arrived.items()
        }

    def scores(self, live: ModelView, batch: Batch) -> Mapping[str, Tensor]:
        """Return the discrepancy and the score of each row, [B] by name; NaN where features are not finite.

        Args:
            live: The model before the update.
            batch: The rows.
        """
        rows, discrepancy = self._look(live, batch)
        sound = np.flatnonzero(np.isfinite(rows.features).all(axis=1))
        found = {"discrepancy": discrepancy}
        for name, detector in self._detectors.items():
            values = np.full(len(batch), np.nan)
            if len(sound):
                values[sound] = detector.score(rows.take(sound))
            found[name] = torch.from_numpy(values)
        return found

    @torch.no_grad()
    def _look(self, live: ModelView, batch: Batch) -> tuple[Rows, Tensor]:
        if self._by_features:
            features, early = self._early.features_and_logits(batch.x)
        else:
            early = self._early.logits(batch.x)
            features = early[:, :0]
        now = early if live is self._early else live.logits(batch.x)
        losses = [F.cross_entropy(logits, batch.y, reduction="none") for logits in (now, early)]
        drift = (losses[0] - losses[1]).cpu().double().numpy()
        labels, predicted = batch.y.cpu().numpy(), early.argmax(dim=1).cpu().numpy()
        rows = Rows(features.flatten(1).cpu().double().numpy(), labels, predicted, drift)
        return rows, divergence(early, now).cpu().double()
