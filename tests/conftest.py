"""The suite runs on the CPU: each process would open a context of its own on a GPU. ``-m cuda`` lets it see one."""

import os

import hypothesis
import pytest

TIMELESS = hypothesis.settings(deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.register_profile("timeless", TIMELESS)
hypothesis.settings.load_profile("timeless")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=20, metavar="N", help="kills of the campaign in e2e/test_kills.py")
    parser.addoption("--fuzz", type=int, metavar="N", help="damaged files that each fuzz test makes; some make fewer")


def pytest_configure(config: pytest.Config) -> None:
    """Choose the device of this process and its children, before anything asks for one."""
    os.environ["ACCUPOISON_DEVICE"] = "cpu"
    asked = str(config.getoption("markexpr"))
    if "cuda" not in asked or "not cuda" in asked:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a GPU where there is none to see."""
    import torch

    if item.get_closest_marker("cuda") and not torch.cuda.is_available():
        pytest.skip("needs a GPU; where there is one, pytest -m cuda shows it")


@pytest.fixture(scope="session")
def fuzz_rounds(request: pytest.FixtureRequest) -> int:
    """How many damaged files a fuzz test makes."""
    return int(request.config.getoption("--fuzz") or 300)
