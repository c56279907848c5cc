"""Hold the public functions to what the released code of Zhu et al. (ICML 2023) computes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from accupoison.attacks.accumulative import alignment, craft_accumulative
from accupoison.attacks.trigger import craft_trigger
from accupoison.defenses.at import perturb
from accupoison.defenses.dsc import correct
from accupoison.discrepancy import memorization_discrepancy
from accupoison.models.view import view_of
from accupoison.types import Batch, ModelView
from tests.nets import tiny_net

GOLDEN = Path(__file__).parent / "golden"
TOLERANCE = 1e-10


class Vectors:
    """One golden file: its arrays, the two models and the three input batches."""

    def __init__(self, name: str) -> None:
        with np.load(GOLDEN / name) as file:
            self.arrays = {key: torch.from_numpy(np.asarray(file[key])) for key in file.files}
        self.live, self.reference = self._model("live."), self._model("reference.")
        self.trigger, self.stream, self.val = (self._batch(key) for key in ("trigger", "stream", "val"))
        self.eps, self.steps = float(self["eps"]), int(self["num_steps"])

    def __getitem__(self, key: str) -> Tensor:
        return self.arrays[key]

    def _model(self, prefix: str) -> ModelView:
        net = tiny_net().double()
        net.load_state_dict({k.removeprefix(prefix): v for k, v in self.arrays.items() if k.startswith(prefix)})
        return view_of(net.eval(), "torch")

    def _batch(self, key: str) -> Batch:
        x, y = self[f"x_{key}"], self[f"y_{key}"].long()
        return Batch(x, y, torch.arange(len(y)))

    @property
    def aimed(self) -> Batch:
        return self.trigger.with_x(self["trigger_adv"])

    @property
    def poisoned(self) -> Batch:
        return self.stream.with_x(self["accumulative_reg"])


@pytest.fixture(params=["reference_0.npz", "reference_3.npz", "reference_7.npz"])
def vectors(request: pytest.FixtureRequest) -> Vectors:
    return Vectors(request.param)


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=TOLERANCE)


def test_trigger(vectors: Vectors) -> None:
    v = vectors
    close(craft_trigger(v.live, v.trigger, v.val, eps=v.eps, steps=v.steps), v["trigger_adv"])


@pytest.mark.parametrize(("objective", "name"), [("both", "reg"), ("second_order", "second")])
def test_accumulative(vectors: Vectors, objective: str, name: str) -> None:
    v = vectors
    crafted = craft_accumulative(v.live, v.aimed, v.stream, v.val, eps=v.eps, steps=v.steps, objective=objective)
    close(crafted, v[f"accumulative_{name}"])


def test_alignment_and_its_gradient(vectors: Vectors) -> None:
    v = vectors
    value = alignment(v.live, v.aimed, v.val)
    close(value.detach(), v["alignment"].reshape(()))
    grads = torch.autograd.grad(value, v.live.params())
    close(torch.cat([g.flatten() for g in grads]), v["alignment_grad_flat"])


def test_discrepancy(vectors: Vectors) -> None:
    v = vectors
    close(memorization_discrepancy(v.live, v.reference, v.stream.x).detach(), v["discrepancy_clean"])
    close(memorization_discrepancy(v.live, v.reference, v.poisoned.x).detach(), v["discrepancy_poisoned"])


@pytest.mark.parametrize("case", [0, 1, 2])
def test_correction(vectors: Vectors, case: int) -> None:
    v = vectors
    x, taken = correct(v.live, v.reference, v.poisoned, float(v[f"dsc_threshold_{case}"]))
    close(x, v[f"dsc_corrected_{case}"])
    assert taken == {0: 0, 1: 10}.get(case, int(v["dsc_steps_2"]))


def test_released_adversarial_training_descends(vectors: Vectors) -> None:
    v = vectors
    x = perturb(v.live, v.poisoned, eps=0.2, step_size=0.02, steps=10, direction="descend")
    close(x, v["at_code_sign"])
