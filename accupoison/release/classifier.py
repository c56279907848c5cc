"""The defence classifier: the defender's own membership attack, which what is released is to leave undecided."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from accupoison.models.mlp import dense
from accupoison.rng import global_seed


def falling(probs: Tensor) -> Tensor:
    """Return the confidences of each row, [B, C], from the largest to the smallest."""
    return probs.sort(dim=1, descending=True).values


def make_classifier(classes: int, hidden: Sequence[int], seed: int = 0) -> nn.Sequential:
    """Return a multilayer perceptron from sorted confidences [B, classes] to the logit of membership [B, 1].

    Weights are drawn as Glorot and Bengio (AISTATS 2010) do, biases are 0, as in the released codes.

    Args:
        classes: Of the model.
        hidden: Units of the hidden layers, each followed by a ReLU.
        seed: Of the weights.
    """
    with global_seed(seed, "classifier"):
        return dense(classes, hidden, 1)


def train_classifier(
    members: Tensor,
    others: Tensor,
    *,
    hidden: Sequence[int] = (256, 128, 64),
    lr: float = 0.001,
    epochs: int = 400,
    batch_size: int = 64,
    milestones: Sequence[int] = (),
    rng: Generator,
) -> nn.Sequential:
    """Return a classifier that has learnt to tell members' confidences from others', by SGD on cross-entropy.

    The defaults are those of MemGuard and DefenMI (Jia et al., CCS 2019; IP&M 2025).

    Args:
        members: Confidences of samples that the model was trained on, [M, C].
        others: Of samples that it was not trained on, [N, C].
        hidden: Units of the hidden layers.
        lr: Learning rate, above 0.
        epochs: Passes over all of them.
        batch_size: Samples a step.
        milestones: Epochs after which the rate is a tenth of what it was.
        rng: Of weights and batches.
    """
    x = torch.cat([falling(members), falling(others)]).float()
    y = (torch.arange(len(x)) < len(members)).float()
    model = make_classifier(x.shape[1], hidden, int(torch.randint(2**62, (), generator=rng)))
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    with torch.enable_grad():
        for epoch in range(epochs):
            optimizer.param_groups[0]["lr"] = lr * 0.1 ** sum(epoch >= milestone for milestone in milestones)
            for rows in torch.split(torch.randperm(len(x), generator=rng), batch_size):
                optimizer.zero_grad()
                F.binary_cross_entropy_with_logits(model(x[rows])[:, 0], y[rows]).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
    return model.requires_grad_(False)
