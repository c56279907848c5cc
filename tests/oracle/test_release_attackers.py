"""Attackers of releases against closed forms, and against what was published for Location-30."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from accupoison.audit.metric import scores
from accupoison.audit.releases.attackers import Attackers, metric_scores
from accupoison.audit.releases.rows import answers, fit, rows_of
from accupoison.audit.releases.settings import NeuralSettings, StudySettings
from accupoison.audit.roc import auc_of
from accupoison.audit.samples import Samples, read_predictions
from accupoison.models.mlp import dense
from accupoison.models.view import view_of
from accupoison.types import Batch

LOCATION = Path(os.environ.get("ACCUPOISON_DATA", "data")) / "location_predictions.npz"
QUICK = NeuralSettings(hidden=(8,), epochs=30, lr=0.2, milestones=(20,))


def samples(seed: int, sure: float, count: int = 200) -> Samples:
    """Return answers for three classes; members' are surer by ``sure`` logits, and right more often."""
    rng = np.random.default_rng(seed)
    member = np.arange(count) < count // 2
    labels = rng.integers(0, 3, count)
    logits = rng.normal(size=(count, 3))
    logits[np.arange(count), labels] += 1 + sure * member
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return Samples(probs, labels, member, np.arange(count))


def test_adaptive_is_unaware_where_the_shadow_answers_undefended() -> None:
    target, shadow = samples(0, 2.0), samples(1, 2.0)
    found = Attackers(shadow, QUICK, 0).attack(target, shadow)
    for name, result in found["unaware"].items():
        assert np.array_equal(result.score, found["adaptive"][name].score)
        assert result.balanced_accuracy == found["adaptive"][name].balanced_accuracy
    assert found["unaware"]["max_confidence"].roc.auc > 0.6
    assert auc_of(found["unaware"]["neural"].score, target.member)[0] > 0.6


def test_an_attacker_who_knows_the_release_turns_scores_around() -> None:
    """Where the release makes members the less sure ones, the unaware AUC is one less the adaptive one."""
    target, shadow, defended = samples(0, -1.0), samples(1, 2.0), samples(2, -1.0)
    found = Attackers(shadow, QUICK, 0).attack(target, defended)
    for name in metric_scores(target):
        unaware, adaptive = (found[attacker][name].roc.auc for attacker in ("unaware", "adaptive"))
        assert unaware < 0.5 < adaptive
        assert unaware == pytest.approx(1 - adaptive)
        assert found["adaptive"][name].balanced_accuracy > 0.5


def test_the_label_alone_gives_away_the_gap_in_accuracy() -> None:
    target = samples(0, 2.0)
    hit = scores(target.probs, target.labels)["correctness"]
    (result,) = Attackers(samples(1, 2.0), QUICK, 0).attack(target, target)["label-only"].values()
    gap = hit[target.member].mean() - hit[~target.member].mean()
    assert result.roc.auc == pytest.approx(0.5 + gap / 2)


def test_budgets_share_a_search_and_answer_as_each_would_alone() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        view = view_of(dense(6, (12,), 4).eval())
        x = torch.rand(60, 6)
    parts = [Batch(x[i : i + 20], torch.zeros(20, dtype=torch.int64), torch.arange(i, i + 20)) for i in (0, 20, 40)]
    quick = "epochs=3,max_iterations=40"
    rows = rows_of(StudySettings(releases=(f"memguard:{quick}", f"defenmi:{quick}"), budgets=(2.0, 0.2, 0.0)))
    states = fit(rows, view, parts[0], parts[1], seed=3)
    found = {row.name: probs for row, probs, seconds in answers(rows, states, view, parts[2]) if seconds > 0}
    for row in rows:
        alone = row.release.fresh()
        alone.set_state(states[row.fitted_as])
        assert np.array_equal(alone(view, parts[2].x, parts[2].ids).numpy(), found[row.name])
    assert np.array_equal(found[f"memguard:{quick},budget=0"], found["identity"])
    moved = {name: np.abs(probs - found["identity"]).sum(axis=1) for name, probs in found.items()}
    assert moved[f"memguard:{quick},budget=2"].max() > 0
    assert (moved[f"memguard:{quick},budget=0.2"] <= moved[f"memguard:{quick},budget=2"]).all()


@pytest.mark.data
@pytest.mark.skipif(not LOCATION.exists(), reason="location_predictions.npz is not in the data directory")
def test_location30_as_published() -> None:
    """The undefended row of MemGuard: AUCs of 0.853 by confidence, 0.844 by entropy and 0.855 by the gap."""
    target, shadow = read_predictions(LOCATION)
    assert shadow is not None
    found = Attackers(shadow, NeuralSettings(epochs=50, milestones=(40,)), 0).attack(target, shadow)
    for name, auc in {"max_confidence": 0.853, "entropy": 0.844, "top_gap": 0.855}.items():
        assert found["unaware"][name].roc.auc == pytest.approx(auc, abs=5e-4)
        assert found["adaptive"][name].roc.auc == found["unaware"][name].roc.auc
    assert found["label-only"]["correctness"].roc.auc == pytest.approx(0.687, abs=5e-4)
    assert found["unaware"]["modified_entropy"].balanced_accuracy_per_class == pytest.approx(0.781, abs=5e-4)
