"""What every model promises."""

from collections.abc import Callable

import torch
from torch import nn

from accupoison.gradients import gradient, inner, normalize_each
from accupoison.models.view import view_of
from accupoison.rng import global_seed
from accupoison.runs.model_check import check_network
from accupoison.testing.bench import expect
from accupoison.types import Batch

ROWS, CLASSES = 4, 5


def check_model(make: Callable[..., nn.Module], shape: tuple[int, ...] = (3, 32, 32)) -> None:
    """Try a model as burn-in, loop and attacks use it.

    It must do what every run asks of it (:func:`~accupoison.runs.model_check.check_network`): logits in both modes, no
    random number and no other row in an answer in eval mode, a gradient for every parameter. And that gradient must be
    differentiable again down to the pixels, where it is not zero, as accumulative poisoning needs it.

    Args:
        make: The factory; called with ``num_classes``.
        shape: Of one input: channels, height and width, or the number of features.

    Raises:
        AssertionError: A promise was broken; the message says which.
    """
    with global_seed(0):
        model = make(num_classes=CLASSES)
    expect(isinstance(model, nn.Module), f"the factory returned a {type(model).__name__}, not a torch.nn.Module")
    x, y = torch.rand(ROWS, *shape, generator=torch.Generator().manual_seed(0)), torch.arange(ROWS) % CLASSES
    try:
        check_network(model.eval(), Batch(x, y, y), CLASSES, rows=ROWS, kind="inputs")
    except ValueError as error:
        raise AssertionError(f"the model {error}") from error
    view = view_of(model)
    leaf, goal = x.clone().requires_grad_(), normalize_each(gradient(view, x, y.roll(1)))
    agreement = inner(normalize_each(gradient(view, leaf, y, graph=True)), goal)
    (slope,) = torch.autograd.grad(agreement, leaf)
    moves = bool(slope.isfinite().all()) and float(slope.abs().max()) > 0
    expect(moves, "the gradient of the gradient with respect to the inputs is zero or not finite; attacks need it")
