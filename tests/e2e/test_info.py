"""``list``, ``doctor`` and ``demo`` as a new user runs them."""

import json
from pathlib import Path

import pytest

from accupoison.attacks import ATTACKS
from accupoison.cli import demo
from accupoison.defenses import DEFENSES
from tests.e2e.conftest import done


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ACCUPOISON_DATA", raising=False)


def run(*arguments: str) -> str:
    return done(*arguments).stdout


def test_list_has_every_component_with_its_settings() -> None:
    found = json.loads(run("list", "--json"))
    assert set(found["attacks"]) == set(ATTACKS.names())
    assert set(found["defences"]) == set(DEFENSES.names())
    assert "threshold=None" in found["defences"]["DSC"]
    assert "ours" in found["defences"]["DSC"]
    text = run("list")
    assert all(name in text for name in (*ATTACKS.names(), *DEFENSES.names(), "fresh", "released", "shift:fog"))


def test_doctor_says_what_is_missing() -> None:
    found = json.loads(run("doctor", "--json"))
    assert found["matrix product, GFLOP/s"] > 0
    assert "not here" in found["CIFAR-10"]
    assert "python cli.py burnin" in found["checkpoints"]
    assert "not finished" not in found
    Path("checkpoints/half").mkdir(parents=True)
    Path("checkpoints/half/state.pt").touch()
    assert "half: unless it is running, the same command goes on with --resume" in run("doctor")


@pytest.mark.slow
def test_demo_ends_with_a_table_a_picture_and_the_command_for_the_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "STREAMS", 1)
    Path("logs/demo").mkdir(parents=True)  # of an earlier time, which stays as it is
    text = run("demo", "--quiet", "--jobs", "1")
    for words in (
        "ST, clean stream",
        "ST, clean stream, then the trigger",
        "FREEZE, accumulative",
        "AT, accumulative",
        "OURS (DSC) (threshold 0), accumulative",
    ):
        assert words in text
    assert "FREEZE, which drops every batch" in text
    assert "-m tensorboard.main --logdir logs/demo-2" in text
    assert Path("logs/demo-2/curves.png").read_bytes()[:4] == b"\x89PNG"
    summary = json.loads(Path("logs/demo-2/none-ST-b0-s0/summary.json").read_text())
    assert summary["start"]["acc"] > 0.9
    assert not list(Path("logs/demo").iterdir())


def test_list_says_in_a_line_what_each_thing_is() -> None:
    found = json.loads(run("list", "--json"))
    explained = ("triggers", "streams", "detectors", "burn-in recipes", "online presets", "presets of audit releases")
    for title in (*explained, "grids", "attacks", "defences", "updates", "releases"):
        assert found[title], title
        for name, text in found[title].items():
            assert len(text.split()) >= 3, (title, name)
            assert "\n" not in text, (title, name)
            assert "cli.py sweep" not in text, (title, name)
    assert found["detectors"]["gmm"].startswith("Minus the log density of a mixture of Gaussians")
    assert found["burn-in recipes"]["released"] == "The released train_cifar.py: all training images, a constant rate"
    assert "blur by a Gaussian" in found["streams"]["shift:blur"]
