"""Every component on a device that is not the CPU: on one that is not there, and with ``-m cuda`` on a GPU."""

import logging
import math
import warnings
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from accupoison.accel import recording
from accupoison.attacks import ATTACKS
from accupoison.attacks.accumulative import craft_accumulative
from accupoison.attacks.trigger import craft_trigger
from accupoison.defenses import DEFENSES
from accupoison.defenses.dsc import correct
from accupoison.device import compute_on
from accupoison.learner import Learner
from accupoison.models.view import view_of
from accupoison.types import Batch
from tests.nets import tiny_net
from tests.parity.test_released import GOLDEN, TOLERANCE, Vectors
from tests.pretend_device import NAME, PretendedGraph, instead_of_cuda
from tests.simulations import BRANCHES, CRAFTING, outcome, simulation, weights_and_statistics

CASES = [(attack, "DSC") for attack in ATTACKS.names()] + [("accumulative", name) for name in DEFENSES.names()]


@pytest.fixture(params=[NAME, pytest.param("cuda", marks=pytest.mark.cuda)])
def there(request: pytest.FixtureRequest) -> Iterator[str]:
    """Name a device; one that is not there is held up by the test's context."""
    if request.param == NAME:
        with instead_of_cuda():
            yield NAME
    else:
        compute_on(request.param, "ieee")
        yield request.param


def triggers(attack: str) -> tuple[str, ...]:
    return BRANCHES if attack in CRAFTING else tuple(name for name in BRANCHES if name != "adversarial")


@pytest.mark.parametrize(("attack", "defense"), CASES)
def test_a_stream_is_that_of_a_cpu_bit_for_bit(attack: str, defense: str, caplog: pytest.LogCaptureFixture) -> None:
    """With PyTorch's own layers, as those of ``accel`` are of CPUs alone; the recordings are replayed."""
    here = simulation(attack, defense, triggers(attack), kernels="torch")
    expected = [outcome(step)[6:] for step in here.run()]
    with instead_of_cuda(), caplog.at_level(logging.WARNING):
        away = simulation(attack, defense, triggers(attack), device=NAME)
        found = [outcome(step)[6:] for step in away.run()]
        state = {name: tensor.cpu() for name, tensor in weights_and_statistics(away.learner).items()}
    assert found == expected
    assert not caplog.records, "everything that is to be recorded is"
    assert PretendedGraph.made, "and something is"
    assert all(torch.equal(state[name], tensor) for name, tensor in weights_and_statistics(here.learner).items())


@pytest.mark.cuda
@pytest.mark.parametrize(("attack", "defense"), CASES)
def test_a_stream_on_a_gpu(
    attack: str, defense: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute_on("cuda")
    monkeypatch.setattr(recording.Recorder, "broken", False)
    with caplog.at_level(logging.WARNING):
        for step in simulation(attack, defense, triggers(attack), device="cuda").run():
            assert all(map(math.isfinite, step.metrics.values()))
    assert not caplog.records, "everything that is to be recorded is"


@pytest.mark.parametrize("name", [path.name for path in sorted(GOLDEN.glob("reference_*.npz"))[:2]])
def test_the_released_codes_numbers_by_a_recording_too(there: str, name: str) -> None:
    v = Vectors(name)

    def moved(batch: Batch) -> Batch:
        return Batch(batch.x.to(there), batch.y.to(there), batch.ids.to(there))

    nets = []
    for prefix in ("live.", "reference."):
        net = tiny_net().double()
        net.load_state_dict({k.removeprefix(prefix): t for k, t in v.arrays.items() if k.startswith(prefix)})
        nets.append(view_of(net.eval().to(there)))
    live, reference = nets
    clean, aimed, stream, val, poisoned = map(moved, (v.trigger, v.aimed, v.stream, v.val, v.poisoned))
    for _ in range(3):  # as it is, recorded, replayed
        close(craft_trigger(live, clean, val, eps=v.eps, steps=v.steps), v["trigger_adv"])
        for objective, key in (("both", "accumulative_reg"), ("second_order", "accumulative_second")):
            crafted = craft_accumulative(live, aimed, stream, val, objective=objective, eps=v.eps, steps=v.steps)
            close(crafted, v[key])
        corrected, taken = correct(live, reference, poisoned, float(v["dsc_threshold_1"]))
        close(corrected, v["dsc_corrected_1"])
        assert taken == 10


def close(actual: Tensor, expected: Tensor) -> None:
    assert float((actual.cpu() - expected).abs().max()) <= TOLERANCE


def test_what_waits_for_the_host_is_not_recorded_and_it_is_said_once(
    there: str, caplog: pytest.LogCaptureFixture
) -> None:
    view = view_of(tiny_net().eval().to(there))

    def waits(x: Tensor) -> tuple[Tensor]:
        return (x * float(x.sum()),)

    with caplog.at_level(logging.WARNING):
        for number in range(4):
            x = torch.full((2,), float(number)).to(there)
            (found,) = view.recorded("waits", waits, x)
            assert found.tolist() == [2.0 * number**2] * 2
    (said,) = caplog.records
    assert "kernel by kernel" in said.getMessage()
    assert "waits for the GPU" in said.getMessage()


def test_to_look_for_waits_is_quiet_and_swallows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[object] = []

    def set_mode(mode: object) -> None:
        modes.append(mode)
        if len(modes) == 1:  # as PyTorch does, once a process
            warnings.warn("Synchronization debug mode is a prototype feature", stacklevel=1)

    def function(x: torch.Tensor) -> tuple[torch.Tensor]:
        if x.sum() > 0:
            warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        return (x + 1,)

    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: 0)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", set_mode)
    assert [recording.waits(function, (torch.full((1,), x),))[1] for x in (0.0, 1.0)] == [False, True]
    assert modes == ["warn", 0] * 2
    with pytest.warns(UserWarning, match="of its own"):
        recording.waits(lambda x: (warnings.warn("of its own", stacklevel=1), (x,))[1], (torch.zeros(1),))


class Averaging(nn.Module):
    """A network that sets a buffer anew in its training passes, in place of changing it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = tiny_net()
        self.mean: Tensor
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Map images [B, 3, H, W] to logits."""
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.mean()
        logits: Tensor = self.net(x) + self.mean
        return logits


def test_a_buffer_that_is_set_anew_is_where_a_recording_reads_it(there: str) -> None:
    x, y, found = torch.rand(6, 3, 8, 8), torch.arange(6), []
    for device in ("cpu", there):
        torch.manual_seed(0)
        learner = Learner(Averaging().to(device), lr=0.1, kernels="torch")
        losses = []
        for _ in range(5):
            loss, _, grads = learner.loss_and_gradients(x.to(device), y.to(device))
            learner.apply(grads)
            losses.append(float(loss))
        found.append([*losses, float(dict(learner.model.named_buffers())["mean"])])
    assert found[0] == pytest.approx(found[1], rel=0 if there == NAME else 1e-3)


def test_a_recording_sees_weights_as_they_are_and_other_shapes_apart(there: str) -> None:
    net = tiny_net().eval().to(there)
    view, weight = view_of(net), next(net.parameters())

    def logits(x: Tensor) -> tuple[Tensor]:
        return (view.logits(x).detach(),)

    for rows in (2, 2, 2, 3, 3, 2):
        with torch.no_grad():
            weight.mul_(1.1)
        x = torch.rand(rows, 3, 8, 8).to(there)
        assert torch.allclose(view.recorded("logits", logits, x)[0], view.logits(x), atol=1e-5)
