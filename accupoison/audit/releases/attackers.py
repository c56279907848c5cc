"""Attackers of what leaves a model: unaware of the release, adaptive to it, and one who sees labels alone."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from accupoison.audit.attack_suite import calibrated
from accupoison.audit.metric import scores
from accupoison.audit.releases.settings import NeuralSettings
from accupoison.audit.results import Results
from accupoison.audit.samples import Samples
from accupoison.release.classifier import falling, train_classifier
from accupoison.rng import generator

ATTACKERS = ("unaware", "adaptive", "label-only")
"""Of every release. Where one is fitted there is also "informed", who has the defender's fitted release itself."""
METRICS = ("max_confidence", "confidence", "entropy", "modified_entropy")
Floats = NDArray[np.float64]


def metric_scores(samples: Samples) -> dict[str, Floats]:
    """Return the scores of the metric attacks, higher for likelier members of an undefended model, [N] by name.

    ``top_gap`` is what DefenMI and MemGuard call the gap: the largest probability less the second largest.
    """
    found = scores(samples.probs, samples.labels)
    top = np.sort(samples.probs, axis=1)
    return {**{name: found[name] for name in METRICS}, "top_gap": top[:, -1] - top[:, -2]}


@dataclass(eq=False)
class Attackers:
    """The attackers of one replicate.

    Attributes:
        shadow: What the attacker's own undefended model says of the attacker's samples.
        settings: Of the attack network.
        seed: Of its weights and batches.
    """

    shadow: Samples
    settings: NeuralSettings
    seed: int
    _networks: dict[bytes, nn.Module] = field(default_factory=dict, init=False)

    def attack(self, target: Samples, shadow: Samples, informed: Samples | None = None) -> dict[str, Results]:
        """Return what each attacker achieves, by attacker and attack.

        Args:
            target: The answers that were released.
            shadow: Answers of the attacker's model, released in the same way, fitted by the attacker.
            informed: The same, released as the defender has fitted it; metric attacks alone. None: nothing is fitted.
        """
        known = {"unaware": self.shadow, "adaptive": shadow}
        found = {name: self._calibrated(target, samples) for name, samples in known.items()}
        if informed is not None:
            scored = metric_scores(target)
            found["informed"] = calibrated(informed, metric_scores(informed), [(target, scored)], turn=True)[0]
        return {
            **found,
            "label-only": calibrated(shadow, _correctness(shadow), [(target, _correctness(target))])[0],
        }

    def _calibrated(self, target: Samples, known: Samples) -> Results:
        network = self._network(known)
        found, reference = (
            {**metric_scores(samples), "neural": _logits(network, samples)} for samples in (target, known)
        )
        return calibrated(known, reference, [(target, found)], turn=True)[0]

    def _network(self, known: Samples) -> nn.Module:
        """Return the network that has learnt from these answers; equal answers, such as those at budget 0, share it."""
        key = known.probs.tobytes()
        if key not in self._networks:
            probs = torch.from_numpy(known.probs)
            s = self.settings
            self._networks[key] = train_classifier(
                probs[torch.from_numpy(known.member)],
                probs[torch.from_numpy(~known.member)],
                hidden=s.hidden,
                lr=s.lr,
                epochs=s.epochs,
                batch_size=s.batch_size,
                milestones=s.milestones,
                rng=generator(self.seed, "neural"),
            )
        return self._networks[key]


def _correctness(samples: Samples) -> dict[str, Floats]:
    return {"correctness": scores(samples.probs, samples.labels)["correctness"]}


def _logits(network: nn.Module, samples: Samples) -> Floats:
    with torch.no_grad():
        found = network(falling(torch.from_numpy(samples.probs)).float())[:, 0]
    return np.asarray(found.double().numpy(), dtype=np.float64)


def figures(results: Mapping[str, Results]) -> dict[str, dict[str, dict[str, float | None]]]:
    """Return the numbers of each attack that the tables show, by attacker, attack and name."""
    return {
        attacker: {
            name: {
                "auc": result.roc.auc,
                "balanced_accuracy": result.balanced_accuracy,
                "balanced_accuracy_per_class": result.balanced_accuracy_per_class,
                **{f"tpr@{level:g}": rate for level, rate in result.roc.tpr_at_fpr.items()},
            }
            for name, result in attacks.items()
        }
        for attacker, attacks in results.items()
    }
