"""Update rules: how a batch's losses become a step."""

from accupoison.updates.sgd import SGD

__all__ = ["SGD"]
