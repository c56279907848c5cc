"""The beta mixture against numbers of the code released by Arazo et al. (ICML 2019)."""

from pathlib import Path

import numpy as np
import pytest
import torch

from accupoison.defenses.gaussian_mixture import fit_margin_mixture, group_separation
from accupoison.defenses.noisy_label import fit_beta_mixture

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("number", [0, 1])
def test_beta_mixture(number: int) -> None:
    golden = np.load(GOLDEN / f"beta_mixture_{number}.npz")
    loss = golden["loss"]
    mixture = fit_beta_mixture(loss)
    found = {
        "scaled": mixture.scaled(loss),
        "alphas": mixture.alphas,
        "betas": mixture.betas,
        "weights": mixture.weights,
        "posterior_exact": mixture.posterior(loss),
        "posterior_lookup": mixture.lookup(torch.from_numpy(loss)),
    }
    for name, value in found.items():
        np.testing.assert_allclose(value.numpy(), golden[name], rtol=0, atol=1e-8, err_msg=name)


@pytest.mark.parametrize("number", [0, 1])
def test_its_losses_have_two_groups(number: int) -> None:
    golden = np.load(GOLDEN / f"beta_mixture_{number}.npz")
    loss = torch.from_numpy(golden["loss"])
    groups = fit_margin_mixture(loss, 0)
    assert groups.separation > 2.5
    assert float(groups.weights[1]) == pytest.approx(golden["noisy"].mean(), abs=0.01)
    assert group_separation(loss, fit_beta_mixture(loss).lookup(loss)) > 1.2
