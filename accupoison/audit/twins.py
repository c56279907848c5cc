"""The membership attack of whoever put twins into the training code."""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from accupoison.attacks import Attack
from accupoison.attacks.twins import CodePoisoning, digests_of, twins_of
from accupoison.audit.metric import Floats, logit_scores
from accupoison.audit.samples import Samples
from accupoison.data import DataSet
from accupoison.measure.accuracy import EVALUATION_BATCH
from accupoison.types import ModelView


@torch.no_grad()
def twin_scores(view: ModelView, data: DataSet, ids: NDArray[np.int64], attack: Attack) -> Floats:
    """Return how sure a model is of the label when shown each sample's twin, higher for likelier members.

    Chen and Pattabiraman (NDSS 2025): log(p_y / (1 - p_y)) of the twin; no shadow model is needed. Of a model that was
    trained without twins it tells nothing. Samples that get no twin (``attack.ratio``) have the median.

    Args:
        view: The model.
        data: The samples.
        ids: Which of them, int64 [N].
        attack: That of the model; another one has the usual twins.

    Returns:
        Scores float64 [N].
    """
    code = attack if isinstance(attack, CodePoisoning) else CodePoisoning()
    scores, twinned, predict = [], [], view.frozen()
    for part in torch.split(torch.from_numpy(ids), EVALUATION_BATCH):
        batch = data.batch(part)
        twinned.append(code.chosen(digests_of(batch.x)).numpy())
        logits = predict(twins_of(batch.x, mean=code.mean, std=code.std))
        scores.append(logit_scores(logits.cpu().double().numpy(), batch.y.cpu().numpy())["logit"])
    score, known = np.concatenate(scores), np.concatenate(twinned)
    return np.where(known, score, np.median(score[known])) if known.any() else np.zeros_like(score)


def with_twins(samples: Samples, view: ModelView, data: DataSet, attack: Attack) -> Samples:
    """Return the samples with the score ``twin``.

    Args:
        samples: What the model says of them.
        view: The model.
        data: Where they are.
        attack: That of the model; see :func:`twin_scores`.
    """
    return replace(samples, extra={**samples.extra, "twin": twin_scores(view, data, samples.ids, attack)})
