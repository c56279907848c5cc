"""The contracts that accupoison's own components meet."""

import pytest
from accupoison_extras.attack import Blend
from accupoison_extras.data import load
from accupoison_extras.defense import Trim
from accupoison_extras.model import PatchNet
from accupoison_extras.release import Cap

from accupoison.testing import check_attack, check_data, check_defense, check_model, check_release


@pytest.mark.parametrize("ratio", [1.0, 0.5])
def test_blend(ratio: float) -> None:
    check_attack(lambda: Blend(ratio=ratio))


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_trim(share: float) -> None:
    check_defense(lambda: Trim(share=share))


@pytest.mark.parametrize("ceiling", [0.5, 0.9])
def test_cap(ceiling: float) -> None:
    check_release(lambda: Cap(ceiling=ceiling))


def test_patchnet() -> None:
    check_model(PatchNet)


def test_stripes() -> None:
    check_data(load)
