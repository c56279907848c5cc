"""SGD of this package beside torch's, bit for bit."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from accupoison.optimizer import MomentumSGD
from accupoison.records import checkpoint
from tests.messages import refuses

STEPS = 4


def weights() -> list[nn.Parameter]:
    rng = torch.Generator().manual_seed(1)
    return [nn.Parameter(torch.randn(shape, generator=rng)) for shape in ((7, 3), (5,), (2, 3, 3, 3))]


def gradients(step: int, zero: bool) -> tuple[Tensor, ...]:
    rng = torch.Generator().manual_seed(step)
    return tuple(torch.zeros_like(p) if zero else torch.randn(p.shape, generator=rng) for p in weights())


def torch_step(optimizer: torch.optim.SGD, parameters: list[nn.Parameter], grads: tuple[Tensor, ...]) -> None:
    for parameter, grad in zip(parameters, grads, strict=True):
        parameter.grad = grad
    optimizer.step()


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("weight_decay", [0.0, 5e-4])
@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
def test_steps_and_state_are_those_of_torch(
    momentum: float, nesterov: bool, weight_decay: float, zero: bool, tmp_path: Path
) -> None:
    mine, theirs = weights(), weights()
    settings = {"lr": 0.3, "momentum": momentum, "weight_decay": weight_decay}
    ours = MomentumSGD(mine, nesterov=nesterov, **settings)
    reference = torch.optim.SGD(theirs, nesterov=nesterov, **settings)  # type: ignore[arg-type]
    for step in range(STEPS):
        if step == STEPS // 2:  # go on with each other's state
            mine_again, theirs_again = (checkpointed(one.state_dict(), tmp_path) for one in (ours, reference))
            ours.load_state_dict(theirs_again)
            reference.load_state_dict(mine_again)
        ours.param_groups[0]["lr"] = reference.param_groups[0]["lr"] = 0.3 / (step + 1)
        ours.step(gradients(step, zero and step > 0))
        torch_step(reference, theirs, gradients(step, zero and step > 0))
        assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))
        assert same(ours.state_dict(), reference.state_dict(), tmp_path)


def checkpointed(state: dict[str, object], folder: Path) -> dict[str, object]:
    checkpoint.save(folder / "state.pt", "optimizer", state)
    return checkpoint.load(folder / "state.pt", "optimizer")


def same(state: dict[str, object], other: dict[str, object], folder: Path) -> bool:
    """Return whether two states make the same file, byte for byte: names, order and values."""
    files = []
    for one in (state, other):
        checkpointed(one, folder)
        files.append((folder / "state.pt").read_bytes())
    return files[0] == files[1]


def test_the_state_of_other_parameters_is_refused() -> None:
    settings = {"lr": 0.3, "momentum": 0.9, "weight_decay": 0.0}
    few = MomentumSGD(weights()[:2], nesterov=False, **settings)
    all_of_them = MomentumSGD(weights(), nesterov=False, **settings)
    with refuses("state 2 parameters not 3", ValueError):
        all_of_them.load_state_dict(few.state_dict())
    with refuses("state 3 parameters", ValueError):
        all_of_them.load_state_dict({**all_of_them.state_dict(), "state": {3: {"momentum_buffer": torch.ones(1)}}})


def test_buffers_are_laid_out_as_their_parameters() -> None:
    parameters = [
        nn.Parameter(torch.randn(2, 3, 3, 3).to(memory_format=torch.channels_last)),
        nn.Parameter(torch.ones(5)),
    ]
    held = [torch.randn(2, 3, 3, 3), torch.randn(5)]
    optimizer = MomentumSGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.0, nesterov=False)
    state = {number: {"momentum_buffer": buffer} for number, buffer in enumerate(held)}
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    for parameter, buffer, given in zip(parameters, optimizer.buffers(), held, strict=True):
        assert buffer.stride() == parameter.stride()
        assert torch.equal(buffer, given)
