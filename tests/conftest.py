"""What all tests share."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=20, metavar="N", help="kills of the campaign in e2e/test_kills.py")
    parser.addoption("--fuzz", type=int, default=300, metavar="N", help="damaged files that each fuzz test makes")


@pytest.fixture(scope="session")
def fuzz_rounds(request: pytest.FixtureRequest) -> int:
    """How many damaged files a fuzz test makes."""
    return int(request.config.getoption("--fuzz"))
