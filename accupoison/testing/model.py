"""What every model promises."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from accupoison.gradients import gradient, inner, unit
from accupoison.learner import view_of
from accupoison.rng import global_seed
from accupoison.testing.bench import expect, same

ROWS, CLASSES = 4, 5


def check_model(make: Callable[..., nn.Module], shape: tuple[int, ...] = (3, 32, 32)) -> None:
    """Try a model as burn-in, loop and attacks use it.

    It must map inputs to logits [B, num_classes], draw no random number (dropout would make crafting chase noise),
    leave its running statistics alone in eval mode, give every parameter a gradient, and let that gradient be
    differentiated again down to the pixels, as accumulative poisoning does.

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
    _check_forward(model.eval(), x)
    _check_gradients(model, x, y)


def _check_forward(model: nn.Module, x: Tensor) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        logits = model(x)
    found = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    expect(found == [len(x), CLASSES], f"{len(x)} inputs became {found}, not logits {[len(x), CLASSES]}")
    expect(same(before, dict(model.state_dict())), "a forward pass in eval mode changed the state dict")
    view, outputs = view_of(model), []
    for seed in (1, 2):
        with global_seed(seed), torch.no_grad():
            outputs.append(view.logits(x, train=True))
    expect(same(*outputs), "the training forward pass draws random numbers; leave dropout out")


def _check_gradients(model: nn.Module, x: Tensor, y: Tensor) -> None:
    view = view_of(model)
    names = [name for name, _ in model.named_parameters()]
    try:
        grads = gradient(view, x, y, graph=True)
    except RuntimeError as error:
        raise AssertionError(f"a parameter gets no gradient from the loss ({str(error).splitlines()[0]})") from error
    for name, grad in zip(names, grads, strict=True):
        expect(bool(grad.isfinite().all()), f"the gradient of {name} is not finite")
    leaf, goal = x.clone().requires_grad_(), unit(gradient(view, x, y.roll(1)))
    agreement = inner(unit(gradient(view, leaf, y, graph=True)), goal)
    (slope,) = torch.autograd.grad(agreement, leaf, allow_unused=True)
    moves = slope is not None and bool(slope.isfinite().all()) and float(slope.abs().max()) > 0
    expect(moves, "the gradient of the gradient with respect to the inputs is zero or not finite; attacks need it")
