"""Networks that draw random numbers: resumed equals uninterrupted, and two processes equal one."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from accupoison.config.layers import preset
from accupoison.config.schema import burnin_config, online_config
from accupoison.rng import global_seed
from accupoison.runs.burnin import run_burnin
from accupoison.runs.online import OnlineRun
from tests.e2e.conftest import SET, After, done, outcome

pytestmark = pytest.mark.slow

DATA = {"name": "digits", "burnin": 200, "stream": 100, "trigger": 20, "val": 20, "trusted": 40, "monitor": 20}
CHECKPOINTS = Path("checkpoints")


class Noise(nn.Module):
    """Draws from all three global generators while it trains."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        return x * (1 + 0.1 * float(np.random.rand())) + 0.1 * torch.randn_like(x)


def dropping(num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), Noise(), nn.Linear(768, 12), nn.ReLU(), nn.Dropout(), nn.Linear(12, num_classes))


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def burn(out: str, *, resume: bool = False, stop: int = 10**6) -> None:
    train: dict[str, Any] = {"epochs": 2, "batch_size": 20, "lr": 0.05, "schedule": "constant", "last_epochs": 0}
    model = {"name": f"{__name__}:dropping"}
    config = burnin_config([preset("burnin", "demo"), {"data": DATA, "model": model, "train": train}])
    run_burnin(config, Path(out), resume=resume, progress=lambda *_: None, should_stop=After(stop))


def stream(out: str, med: str, *, resume: bool = False, stop: int = 10**6) -> None:
    sections: dict[str, dict[str, Any]] = {
        "data": DATA,
        "model": {"name": f"{__name__}:dropping"},
        "start": {"checkpoint": "whole/final.pt", "early": "whole/early.pt"},
        "stream": {"batch_size": 10, "steps": 3, "after": 1},
        "attack": {"steps": 1, "bn_mode": "train"},
        "defense": {"name": med},
    }
    config = online_config([preset("online", "demo"), sections])
    OnlineRun(config, CHECKPOINTS, Path(out), resume=resume).run(lambda *_: None, After(stop))


def test_resumed_equals_uninterrupted() -> None:
    torch.manual_seed(0)
    burn("whole")
    torch.manual_seed(1)
    burn("parts", stop=7)
    burn("parts", resume=True)
    assert outcome(Path("parts")) == outcome(Path("whole"))
    for med in ("ST", "TRADES"):
        stream(f"{med}-whole", med)
        for step in range(1, 4):
            stream(f"{med}-{step}", med, stop=step)
            stream(f"{med}-{step}", med, resume=True)
            assert outcome(Path(f"{med}-{step}")) == outcome(Path(f"{med}-whole"))


def test_draws_depend_on_the_purpose_and_leave_the_global_generators_alone() -> None:
    x = torch.ones(4, 100)
    draws = []
    for names in (("a", 0), ("a", 1), ("b", 0), ("a", 0)):
        state = torch.get_rng_state(), np.random.get_state()[1].tolist()  # type: ignore[index]
        with global_seed(0, *names):
            draws.append((nn.functional.dropout(x), np.random.rand()))
        after = torch.get_rng_state(), np.random.get_state()[1].tolist()  # type: ignore[index]
        assert torch.equal(state[0], after[0])
        assert state[1] == after[1]
    assert torch.equal(draws[0][0], draws[3][0])
    assert draws[0][1] == draws[3][1]
    assert not torch.equal(draws[0][0], draws[1][0])
    assert not torch.equal(draws[0][0], draws[2][0])


OFFLINE = (
    *("audit", "offline", "--data", "digits", "--model", f"{__name__}:dropping", "--size", "300", "--shadows", "5"),
    *("--target-models", "1", "--epochs", "2", SET, "train.batch_size=50", SET, "train.milestones=1", "--quiet"),
    *(SET, "shadows.population=50", SET, "train.lr=0.05"),
)


def test_two_processes_equal_one() -> None:
    for jobs in ("1", "2"):
        done(*OFFLINE, "--out", f"jobs{jobs}", "--jobs", jobs)
    names = sorted(path.name for path in Path("jobs1/signals").iterdir())
    assert len(names) == 6
    for name in names:
        with np.load(f"jobs1/signals/{name}") as one, np.load(f"jobs2/signals/{name}") as two:
            assert np.array_equal(one["phi"], two["phi"])
            assert np.array_equal(one["probs"], two["probs"])
