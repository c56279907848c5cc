"""The setting run.kernels: what it reaches, and where it is recorded."""

from pathlib import Path
from unittest.mock import Mock

import pytest

from accupoison.accel import layers
from accupoison.config.layers import preset
from accupoison.config.schema import burnin_config, online_config
from accupoison.records.files import read_json
from tests.e2e.conftest import BURNIN, NAME, ONLINE, SET, done


@pytest.mark.usefixtures("work")
@pytest.mark.parametrize(("kernels", "effect"), [("auto", "own"), ("torch", "torch")])
def test_it_reaches_every_view_and_is_recorded(kernels: str, effect: str, monkeypatch: pytest.MonkeyPatch) -> None:
    substitute = Mock(wraps=layers.substitute)
    for module in ("accupoison.learner", "accupoison.models.view"):
        monkeypatch.setattr(f"{module}.substitute", substitute)
    monkeypatch.setattr("accupoison.runs.trainer.check_images", Mock())  # which looks in one way, whatever is trained
    monkeypatch.setattr("accupoison.runs.build.check_images", Mock())
    asked = (SET, f"run.kernels={kernels}")
    done(*BURNIN, *asked, "--out", "burnin")
    done(*ONLINE, *asked, "--med", "DSC", "--out", "run")
    for run in ("burnin", "run"):
        assert read_json(Path(run) / "config.json")["run"]["kernels"] == kernels
        assert read_json(Path(run) / "env.json")["kernels"] == effect
    assert substitute.called is (kernels == "auto")


def test_released_protocols_take_pytorchs() -> None:
    assert online_config([preset("online", "official")]).run.kernels == "torch"
    assert burnin_config([preset("burnin", "official")]).run.kernels == "torch"
    assert online_config([]).run.kernels == burnin_config([]).run.kernels == "auto"


@pytest.mark.usefixtures("work")
def test_kernels_differ_by_rounding() -> None:
    for kernels in ("auto", "torch"):
        done(*ONLINE, SET, f"run.kernels={kernels}", "--trigger", "none", "--attack", "none", "--out", kernels)
    ends = [read_json(Path(kernels) / "summary.json")["before"] for kernels in ("auto", "torch")]
    assert ends[0]["loss"] == pytest.approx(ends[1]["loss"], rel=1e-4)
    assert Path("checkpoints", NAME).is_dir()
