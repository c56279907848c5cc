"""The controls of an audit pass where all is well, and are flagged where it is not."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from accupoison.audit.attack_suite import audit_samples, single_controls
from accupoison.audit.controls import (
    blind_baseline,
    blind_of_classes,
    compared_ratios,
    control_rows,
    flags,
    inputs_of,
    loss_ratio,
    permuted_null,
)
from accupoison.audit.roc import auc_of
from accupoison.audit.samples import Samples
from accupoison.audit.shadow_attacks import shadow_controls
from accupoison.audit.signals import ModelSignals
from accupoison.data import load

COUNT = 1200
MEMBER = np.random.default_rng(0).permutation(COUNT) < COUNT // 2


def planted(pixel: bool) -> NDArray[np.float64]:
    """Return digits as pixels, in which one pixel tells who is a member."""
    x, _ = digits(), None
    if pixel:
        x[:, 5] = np.where(MEMBER, 0.9, 0.1)
    return x


def digits() -> NDArray[np.float64]:
    return np.array(inputs_of(load("digits"), torch.arange(COUNT))(np.arange(COUNT)))


@pytest.mark.parametrize("leaks", [True, False])
def test_the_blind_baseline_sees_a_pixel_that_tells_members(leaks: bool) -> None:
    x = planted(leaks)
    found = blind_baseline(lambda rows: x[rows], MEMBER)
    assert found is not None
    assert found["flagged"] == leaks
    assert (found["auc"] > 0.95) == leaks
    assert found["samples"] == 600
    assert found == blind_baseline(lambda rows: x[rows], MEMBER)
    if not leaks:
        assert found["interval"][0] < 0.5 < found["interval"][1]
    assert bool(flags({"blind": [found]})) == leaks


def test_the_blind_baseline_of_classes_and_of_too_few() -> None:
    rng = np.random.default_rng(1)
    labels = np.where(MEMBER, rng.integers(0, 3, COUNT), rng.integers(1, 4, COUNT))
    skewed = Samples(np.full((COUNT, 4), 0.25), labels, MEMBER, np.arange(COUNT))
    found = blind_of_classes(skewed)
    assert found is not None
    assert found["flagged"]
    assert blind_of_classes(skewed.rows(np.arange(80))) is None
    assert control_rows({"blind": [None]})[0]["found"] == "too few samples"


def models(epochs: list[float], gap: float = 1.0) -> list[ModelSignals]:
    """Return signals of models, whose members are the surer the longer they were trained; half are in."""
    rng = np.random.default_rng(2)
    hard, labels, made = rng.normal(0, 2, COUNT), np.zeros(COUNT, dtype=np.int64), []
    for longer in epochs:
        member = rng.permutation(COUNT) < COUNT // 2
        logit = hard + gap * longer * member + rng.normal(size=COUNT)
        p = 1 / (1 + np.exp(-logit))
        samples = Samples(np.stack([p, 1 - p], axis=1), labels, member, np.arange(COUNT))
        made.append(ModelSignals(logit[:, None], samples, rng.random(50)))
    return made


def test_a_null_covers_a_half_and_a_broken_one_is_flagged() -> None:
    *shadows, target = models([1.0] * 13)
    found = shadow_controls(shadows, [target], "made here", lambda rows: np.zeros((len(rows), 2)))
    assert {"lira_online", "bavaria", "rmia"} <= set(found["null"])
    for name, one in found["null"].items():
        assert one["interval"][0] < 0.5 < one["interval"][1], name
        assert not one["flagged"]
    assert flags(found) == []
    assert found["shadows"]["count"] == 12
    assert found["shadows"]["variance"]["shrunken"] == ["bavaria", "bavaria_offline"]

    def peeking(order: NDArray[np.int64]) -> dict[str, float]:
        score = np.random.default_rng(3).normal(size=COUNT)
        return {
            "honest": auc_of(score, MEMBER[order])[0],
            "peeks": auc_of(score + 0.1 * MEMBER[order], MEMBER[order])[0],
        }

    broken = permuted_null(peeking, COUNT)
    assert [broken[name]["flagged"] for name in ("honest", "peeks")] == [False, True]
    assert "peeks" in flags({"null": broken})[0]
    alike = permuted_null(peeking, COUNT, shared=True)
    assert alike["peeks"]["auc"] == broken["peeks"]["auc"]
    widths = [one["peeks"]["interval"][1] - one["peeks"]["interval"][0] for one in (alike, broken)]
    assert widths[0] == pytest.approx(widths[1] * 21**0.5), "of one more permutation, not of the mean of twenty"
    assert [row["verdict"] for row in control_rows({"null": broken})] == ["FLAGGED"]


def test_models_that_attack_each_other_are_their_own_shadows() -> None:
    found = shadow_controls(models([1.0] * 8), [], "crossed", lambda rows: np.zeros((len(rows), 2)))
    assert len(found["blind"]) == 2
    assert all(one["auc"] == 0.5 for one in found["blind"])
    assert found["loss_ratio"]["targets"] == []
    assert len(found["loss_ratio"]["shadows"]) == 8
    assert (found["shadows"]["count"], found["shadows"]["with"] + found["shadows"]["without"]) == (7, 7)
    said = {row["control"]: row["found"] for row in control_rows(found)}
    assert said["shadows"].startswith("7 crossed")
    assert said["variance"].startswith("per sample: lira_online, lira_offline; fixed: ")


def test_real_signals_of_one_model_have_a_null_of_a_half() -> None:
    samples = models([3.0])[0].samples
    found = single_controls(audit_samples(samples, None))
    assert not any(one["flagged"] for one in found["null"].values())
    assert set(found["loss_ratio"]) >= {"targets", "shadows"}
    assert found["loss_ratio"]["flagged"] is None


def test_the_loss_ratio_by_hand() -> None:
    probs = np.array([[np.exp(-1.0), 1 - np.exp(-1.0)], [np.exp(-4.0), 1 - np.exp(-4.0)]])
    assert loss_ratio(Samples(probs, np.zeros(2, dtype=np.int64), np.array([True, False]), np.arange(2))) == 0.25


@pytest.mark.parametrize(("longer", "flagged"), [(1.0, False), (2.5, True)])
def test_a_target_that_was_trained_longer_than_its_shadows_is_flagged(longer: float, flagged: bool) -> None:
    *shadows, target = models([1.0] * 10 + [longer])
    found = compared_ratios([loss_ratio(target.samples)], [loss_ratio(one.samples) for one in shadows])
    assert found["flagged"] == flagged
    assert bool(flags({"loss_ratio": found})) == flagged
    low, high = found["range"]
    assert low < np.median(found["shadows"]) < high
    row = control_rows({"loss_ratio": found})[0]
    assert row["verdict"] == ("FLAGGED" if flagged else "passes")
    assert compared_ratios([0.5], [0.5, 0.5])["flagged"] is None
