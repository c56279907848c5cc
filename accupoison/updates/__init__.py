"""How a batch's losses become a step, by name in :data:`UPDATES`; every module of this folder is loaded."""

from accupoison.updates.dpsgd import DPSGD, check_private, private_gradients
from accupoison.updates.sgd import SGD, UPDATES

__all__ = ["DPSGD", "SGD", "UPDATES", "check_private", "private_gradients"]
