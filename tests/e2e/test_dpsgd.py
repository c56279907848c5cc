"""DP-SGD through the command line: burn-in, stream, epsilon, resumption, refusals."""

import json
import math
from pathlib import Path

import pytest

from accupoison.config.schema import online_config
from accupoison.measure.dp_accountant import epsilon_of
from accupoison.records.recorder import read_metrics
from accupoison.runs.online import OnlineRun
from tests.e2e.conftest import BURNIN, SET, done, outcome, refused
from tests.messages import says

PRIVATE = ("--norm", "group", "--update", "dpsgd", "--noise-multiplier", "2", "--max-grad-norm", "0.5")
STREAM = ("online", "--preset", "demo", "--config", "tiny.toml", "--quiet", "--checkpoint", "dp/final.pt", *PRIVATE)

pytestmark = pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:opacus.*")


@pytest.fixture
def private(work: Path) -> Path:
    done(*BURNIN, "--out", "dp", "--model", "convnet", *PRIVATE)
    return work


def epsilons(run: str) -> dict[tuple[int, str], float]:
    rows = read_metrics(Path(run, "metrics.jsonl"))
    return {(row["step"], row["branch"]): row["dp/epsilon"] for row in rows if "dp/epsilon" in row}


def test_a_burn_in_spends_an_epoch_at_a_time(private: Path) -> None:
    expected = [epsilon_of(epochs, 2.0, 1e-5) for epochs in (1, 2)]
    assert list(epsilons("dp").values()) == pytest.approx(expected)
    summary = json.loads(Path("dp/summary.json").read_text())
    assert (summary["epsilon"], summary["delta"]) == (pytest.approx(expected[1]), 1e-5)


@pytest.mark.slow
def test_a_stream_spends_what_its_ledger_says(private: Path) -> None:
    model = ("--model", "convnet")
    done(*STREAM, *model, "--out", "once", "--trigger", "coast,clean,adversarial")
    once = epsilon_of(1, 2.0, 1e-5)
    found = epsilons("once")
    assert all(value == pytest.approx(once) for value in found.values())  # nobody comes twice
    assert found[4, "coast"] > 0
    done(*STREAM, *model, "--out", "twice", "--trigger", "clean", SET, "trigger.updates=3", "--recovery-steps", "0")
    assert epsilons("twice")[4, "clean"] == pytest.approx(epsilon_of(3, 2.0, 1e-5))
    cycling = ("--stream", "cycling", "--steps", "14", SET, "stream.batch_size=20", SET, "evaluate.monitor=false")
    done(*STREAM, *model, "--out", "cycle", *cycling, "--attack", "none")
    passes = [epsilon_of(k, 2.0, 1e-5) for k in [1] * 13 + [2]]  # 260 images: the second pass begins at step 14
    assert [value for (_, branch), value in epsilons("cycle").items() if not branch] == pytest.approx(passes)
    assert json.loads(Path("once/summary.json").read_text())["epsilon"] == pytest.approx(once)


def test_a_private_run_goes_on_bit_for_bit(private: Path) -> None:
    done(*STREAM, "--model", "convnet", "--out", "whole")
    config = online_config([json.loads(Path("whole/config.json").read_text())])
    asked = iter([False, True])
    part = OnlineRun(config, Path("checkpoints"), Path("part"), resume=False)
    assert part.run(lambda *_: None, lambda: next(asked))["status"] == "interrupted"
    done("online", "--quiet", "--resume", "part")
    assert outcome(Path("part")) == outcome(Path("whole"))
    assert json.loads(Path("part/summary.json").read_text())["epsilon"] > 0


def test_no_noise_is_no_privacy(private: Path) -> None:
    done(*STREAM, "--model", "convnet", "--out", "bare", "--noise-multiplier", "0")
    assert set(epsilons("bare").values()) == {math.inf}
    assert json.loads(Path("bare/summary.json").read_text())["epsilon"] == "inf"


def test_what_cannot_be_private_is_refused(private: Path) -> None:
    says(refused(*STREAM, "--model", "convnet", "--med", "OURS"), "DSC rows depend")
    done(*STREAM, "--model", "convnet", "--med", "OURS", SET, "update.coupled=true", "--out", "coupled")
    assert set(epsilons("coupled").values()) == {math.inf}
    says(refused(*BURNIN, "--out", "bn", "--update", "dpsgd"), "mixes --norm group")
    for option, value, words in (
        ("--update", "dpsdg", "update 'dpsdg' dpsgd"),
        ("--noise-multiplier", "-1", "update.noise_multiplier -1.0 0"),
        ("--max-grad-norm", "0", "update.max_grad_norm 0.0 above 0"),
    ):
        says(refused(*BURNIN, "--out", "other", "--update", "dpsgd", option, value), words)
    says(refused(*BURNIN, "--out", "other", "--noise-multiplier", "2"), "update.noise_multiplier dpsgd --update sgd")
    says(refused(*BURNIN, "--out", "other", "--update", "dpsgd", SET, "update.delta=1"), "update.delta 1.0 (0, 1)")
