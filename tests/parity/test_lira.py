"""LiRA's released form agrees with the released code of Carlini et al. (S&P 2022)."""

from pathlib import Path

import numpy as np
import pytest

from accupoison.audit.lira import VARIANTS, lira_scores
from accupoison.audit.roc import roc_summary

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("number", [0, 1])
def test_scores_and_metrics(number: int, variant: str) -> None:
    with np.load(GOLDEN / f"lira_{number}.npz") as stored:
        phi, keep = stored["phi"], stored["keep"]
        score, metrics = stored[f"score_{variant}"], stored[f"metrics_{variant}"]
    found = lira_scores(phi[:-1], keep[:-1], phi[-1], variant=variant, form="released")
    np.testing.assert_allclose(found, score, rtol=0, atol=1e-9)
    summary = roc_summary(found, keep[-1], withhold=False)
    measured = [summary.auc, summary.oracle_balanced_accuracy, summary.tpr_at_fpr[0.01]]
    np.testing.assert_allclose(np.array(measured, dtype=float), metrics, rtol=0, atol=1e-9)
