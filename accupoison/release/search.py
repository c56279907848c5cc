"""Confidences that leave a defence classifier undecided: the search, and the choice, of MemGuard and DefenMI."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from accupoison.release.classifier import falling
from accupoison.rng import generator

Classifier = Callable[[Tensor], Tensor]
"""Sorted confidences [B, C], the largest first, to the logit of membership [B, 1]."""
UNDECIDED = 1e-5
"""A classifier whose answer is so close to a half has nothing left to lose."""
TINY = 1e-150
"""Gradients are this small and still point somewhere where the model is certain."""
LABEL_WEIGHT, FIRST_C3, GROWTH = 10.0, 0.1, 10.0
ROUNDING = 1e-12
"""A change of a confidence below this is none: its sign, which the gradient of the l1 term is, would be chance."""


def find_noise(
    g: Classifier,
    u0: Tensor,
    target: Tensor,
    *,
    step: float = 0.1,
    max_iterations: int = 300,
    cap: float = 1e5,
) -> tuple[Tensor, Tensor]:
    """Search, for every row by itself, confidences of which g says the opposite, barely (Jia et al. 2019, Phase I).

    Of ``|h(u)| + 10 relu(max_{c != l} u_c - u_l) + c3 |softmax(u) - target|_1``, h the logit of g and l the label,
    normalised gradient steps are taken until h has changed its sign and the label is the largest; then again from u0
    with c3 ten times as large, as long as that succeeds and c3 is at most ``cap``. The last success counts. Both
    arguments are in one order, in which the label comes first; where g is asked, confidences are sorted anew, as an
    attacker would.

    What is promised of rows being apart: none enters the arithmetic of another, but the matrix products of g round
    differently by how many rows there are, in the sixteenth digit, which the steps may carry to about the tenth.

    Args:
        g: The defence classifier.
        u0: Logits to start from, float64 [B, C], each row falling; the first is the label's.
        target: Confidences to stay close to [B, C], in the order of ``u0``.
        step: Length of a step, above 0.
        max_iterations: Steps for each c3.
        cap: The largest c3.

    Returns:
        Confidences [B, C] in the order of ``u0``, and which of them are successes, bool [B]. Where g is undecided from
        the start they are those of u0; where the first search fails they are the target.
    """
    with torch.no_grad():
        h0 = g(falling(u0.softmax(dim=1)))[:, 0]
    rows = ((h0.sigmoid() - 0.5).abs() > UNDECIDED).nonzero()[:, 0]
    found, success = u0.softmax(dim=1), torch.zeros(len(u0), dtype=torch.bool)
    found[rows] = target[rows]
    c3 = FIRST_C3
    while c3 <= cap and len(rows):
        u, reached = _descend(g, u0[rows], target[rows], h0[rows], c3, step, max_iterations)
        rows = rows[reached]
        found[rows], success[rows] = u[reached].softmax(dim=1), True
        c3 *= GROWTH
    return found, success


def _descend(
    g: Classifier, u0: Tensor, target: Tensor, h0: Tensor, c3: float, step: float, steps: int
) -> tuple[Tensor, Tensor]:
    """Return where the rows end, [B, C], and which of them reached what they look for; a row that has does not move."""
    u, reached = u0.clone(), torch.zeros(len(u0), dtype=torch.bool)
    rows = torch.arange(len(u0))
    for number in range(steps + 1):
        v = u[rows].requires_grad_()
        with torch.enable_grad():
            p = v.softmax(dim=1)
            h = g(falling(p))[:, 0]
            excess = v[:, 1:].amax(dim=1) - v[:, 0]
            distance = F.hardshrink(p - target[rows], ROUNDING).abs().sum(dim=1)
            loss = (h.abs() + LABEL_WEIGHT * excess.relu() + c3 * distance).sum()
        there = ((excess < 0) & (h * h0[rows] <= 0)).detach()
        reached[rows[there]] = True
        if number == steps or bool(there.all()):
            break
        (slope,) = torch.autograd.grad(loss, v)
        rows = rows[~there]
        u[rows] -= step * F.normalize(slope[~there], dim=1, eps=TINY)
    return u, reached


def choose(g: Classifier, probs: Tensor, noisy: Tensor, coins: Tensor, budget: float) -> Tensor:
    """Return, for every row, either of two answers, so that the expected change is at most a budget (Phase II).

    The noisy one comes with probability ``min(budget / |probs - noisy|_1, 1)``; never where the classifier is not left
    closer to a half by it, or where the label is another.

    Args:
        g: The defence classifier.
        probs: The model's probabilities [B, C], float64.
        noisy: What may come in their place [B, C].
        coins: Uniform numbers in [0, 1), one a row [B].
        budget: Of the change in l1, in [0, 2]; 0 changes nothing.

    Returns:
        Probabilities [B, C].
    """
    with torch.no_grad():
        before, after = ((g(falling(p))[:, 0].sigmoid() - 0.5).abs() for p in (probs, noisy))
    label = probs.argmax(dim=1, keepdim=True)
    others = noisy.scatter(1, label, -torch.inf).amax(dim=1)
    kept = noisy.gather(1, label)[:, 0] > others
    chance = coins * (probs - noisy).abs().sum(dim=1) < budget
    return torch.where((kept & chance & (after < before))[:, None], noisy, probs)


def coins(key: int, ids: Tensor) -> Tensor:
    """Return a number in [0, 1) for each id, float64 [B]: a function of the key and the id."""
    draws = [torch.rand((), generator=generator(key, "coin", i), dtype=torch.float64) for i in ids.tolist()]
    return torch.stack(draws) if draws else torch.zeros(0, dtype=torch.float64)
