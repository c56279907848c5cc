"""What a step's batches look like from the early model, measured before the update."""

import torch
from torch import Generator, Tensor

from accupoison.attacks.noise import noisy
from accupoison.discrepancy import memorization_discrepancy
from accupoison.types import Batch, ModelView


@torch.no_grad()
def probe(
    live: ModelView, reference: ModelView, clean: Batch, sent: Batch, seen: Batch, rng: Generator
) -> dict[str, float]:
    """Return the mean discrepancy of the three batches, and how well it tells poisoned rows apart.

    The second comparison is with Rademacher noise of the same size on the same images: a discrepancy that only noise
    raises as much says nothing about poison. The noise is put on the images as they reach the defence, so unlike poison
    that was sent before the crop, it covers the padding too and is not rounded.

    Args:
        live: The model before the update.
        reference: The early model.
        clean: The batch before the attack.
        sent: The batch that reached the defence.
        seen: What the defence passed on; possibly empty, and then without a value.
        rng: For the noise.
    """
    on_clean, on_sent = (memorization_discrepancy(live, reference, b.x) for b in (clean, sent))
    values = {
        "defense/discrepancy_clean": float(on_clean.mean()),
        "defense/discrepancy_sent": float(on_sent.mean()),
    }
    if len(seen):
        values["defense/discrepancy_seen"] = float(memorization_discrepancy(live, reference, seen.x).mean())
    moved = sent.x[: len(clean)] - clean.x
    size = float(moved.abs().max()) if len(moved) else 0.0
    if size > 0:
        poisoned = moved.flatten(1).any(dim=1)
        on_sent = on_sent[: len(clean)]
        noise = noisy(clean.x, "rademacher", size, rng, bounded=clean.bounded)
        on_noise = memorization_discrepancy(live, reference, noise)
        values["defense/discrepancy_auc_clean"] = auroc(on_sent[poisoned], on_clean[poisoned])
        values["defense/discrepancy_auc_noise"] = auroc(on_sent[poisoned], on_noise[poisoned])
    return values


def poison_found(clean: Batch, sent: Batch, passed: Batch, seen: Batch) -> dict[str, float]:
    """Return how many rows are poisoned by their labels or are the attacker's own, and how well the defence tells them.

    Args:
        clean: The batch before the attack.
        sent: The batch that reached the defence.
        passed: What the defence passed on; ``extra["noise"]`` is how sure it is of each row that the label is wrong.
        seen: What the update saw.
    """
    changed = torch.ones(len(sent), dtype=torch.bool)
    rows = len(clean)
    changed[:rows] = (sent.y[:rows] != clean.y).cpu()
    values = {"attack/poisoned_rows": float(changed.sum()) + len(seen) - len(passed)}
    noise, poisoned = passed.extra.get("noise"), sent.ids.cpu()[changed]
    if noise is not None:
        found = torch.isin(passed.ids.cpu(), poisoned)
        if bool(found.any()) and not bool(found.all()):
            values["defense/noisy_auc"] = auroc(noise.cpu()[found], noise.cpu()[~found])
    return values


def auroc(high: Tensor, low: Tensor) -> float:
    """Return the area under the ROC curve of telling ``high`` [N] from ``low`` [M] by value, in [0, 1].

    It is 1 if every value of ``high`` is larger than every one of ``low``, and NaN if a value is not finite.
    """
    from sklearn.metrics import roc_auc_score  # here, because scikit-learn takes a second to load

    scores = torch.cat([high, low]).cpu().double()  # MPS has no float64
    if not bool(scores.isfinite().all()):
        return float("nan")
    labels = torch.cat([torch.ones(len(high)), torch.zeros(len(low))])
    return float(roc_auc_score(labels.numpy(), scores.numpy()))
