"""The commands on a device that is not the CPU: on one that is not there, and with ``-m cuda`` on a GPU."""

import json
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest

from accupoison.config.schema import burnin_config, online_config
from accupoison.records.files import read_json
from accupoison.records.recorder import read_metrics
from accupoison.runs.burnin import run_burnin
from accupoison.runs.online import OnlineRun
from tests.e2e.conftest import BURNIN, CHECKPOINT, ONLINE, SET, After, done, outcome, refused
from tests.messages import says
from tests.pretend_device import NAME, PretendedGraph, instead_of_cuda

DEVICES = [NAME, pytest.param("cuda", marks=pytest.mark.cuda)]
EXACT = (SET, "run.kernels=torch")
"""PyTorch's own layers on the CPU, too."""
BITS = (*EXACT, SET, "run.deterministic=true", SET, "run.precision=ieee")
Away = Callable[[], AbstractContextManager[object]]


@pytest.fixture(params=DEVICES)
def away(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Away:
    """Return the context in which runs compute on a device."""
    if request.param == NAME:
        return instead_of_cuda
    monkeypatch.setenv("ACCUPOISON_DEVICE", request.param)
    return nullcontext


def rows(run: str) -> list[dict[str, float]]:
    """Return the metrics of a run without times."""
    found = read_metrics(Path(run, "metrics.jsonl"))
    return [{tag: x for tag, x in row.items() if not tag.startswith("time/")} for row in found]


def test_a_pretended_burn_in_and_stream_are_those_of_a_cpu(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("accupoison.measure.accuracy.OFTEN", 1)
    stream = ("--checkpoint", "here/final.pt", "--med", "OURS", SET, "defense.threshold=0", *EXACT)
    done(*BURNIN, *EXACT, "--out", "here")
    done(*ONLINE, *stream, "--out", "run-here")
    with instead_of_cuda():
        done(*BURNIN, *EXACT, "--out", "there")
        assert PretendedGraph.made == ["pass_through", "predict"]
        done(*ONLINE, *stream, "--out", "run-there")
        assert {"both", "aim", "search", "pass_through", "predict"} <= set(PretendedGraph.made)
    assert rows("there") == rows("here")
    assert rows("run-there") == rows("run-here")
    assert read_json(Path("run-there/env.json"))["device"].startswith(NAME)


def test_streams_and_poisoned_burn_ins_go_on_bit_for_bit(away: Away, work: Path) -> None:
    with away():
        few = (SET, "run.save_every=2", "--trigger", "coast,adversarial", *BITS)
        done(*ONLINE, *few, "--med", "OURS", SET, "defense.threshold=0", SET, "defense.steps=3", "--out", "whole")
        config = online_config([read_json(Path("whole/config.json"))])
        run = OnlineRun(config, Path("checkpoints"), Path("part"), resume=False)
        assert run.run(lambda *_: None, After(3))["status"] == "interrupted"
        done("online", "--quiet", "--resume", "part")
        nll = ("--med", "NLL-DYNAMIC", SET, "defense.min_samples=50", SET, "defense.min_separation=0")
        targets = (SET, "attack.count=10", SET, "attack.copies=4")
        done(*BURNIN, "--attack", "targeted", *targets, *nll, *BITS, "--out", "training")
        trained = burnin_config([read_json(Path("training/config.json"))])
        stopped = run_burnin(trained, Path("half"), resume=False, progress=lambda *_: None, should_stop=After(13))
        assert stopped["status"] == "interrupted"
        done("burnin", "--resume", "half", "--quiet")
    assert outcome(Path("part")) == outcome(Path("whole"))
    assert outcome(Path("half")) == outcome(Path("training"))


def test_replays_releases_and_audits(away: Away, work: Path) -> None:
    start = ("--checkpoint", CHECKPOINT, "--trigger", "clean", "--recovery-steps", "0")
    with away():
        done(*ONLINE, *start, "--save-batches", "--release", "round:2", "--detectors", "kd,loss", "--out", "run")
        done("online", "--quiet", "--replay", "run", "--med", "FREEZE", "--out", "again")
        done("audit", "--run", "run")
        done("audit", "--run", CHECKPOINT.parent)
    assert all(map(math.isfinite, read_json(Path("again/summary.json"))["start"].values()))


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def test_precision_is_recorded_and_a_cpu_has_no_tf32(device: str, work: Path) -> None:
    where = (SET, "defense.threshold=0", "--med", "OURS", "--device", device)
    for precision in ("ieee", "bf16", "auto"):
        done(*ONLINE, *where, SET, f"run.precision={precision}", "--out", precision)
    used = [read_json(Path(run, "env.json"))["precision"] for run in ("ieee", "bf16", "auto")]
    assert used == ["ieee", "bf16", "ieee" if device == "cpu" else "tf32"]
    ends = [read_json(Path(run, "summary.json"))["start"]["loss"] for run in ("bf16", "ieee")]
    assert ends[0] == pytest.approx(ends[1], rel=0.05)
    assert ends[0] != ends[1]
    says(refused(*ONLINE, SET, "run.precision=tf32", "--device", "cpu"), "run.precision tf32 cpu ieee bf16")
    says(refused(*ONLINE, SET, "run.precision=half"), "run.precision half")


@pytest.mark.cuda
def test_a_private_burn_in_and_worlds_on_a_gpu(work: Path) -> None:
    private = ("--update", "dpsgd", "--model", "convnet", "--norm", "group")
    done(*BURNIN, *private, "--device", "cuda", "--out", "private")
    assert read_json(Path("private/summary.json"))["status"] == "finished"
    assert read_json(Path("private/env.json"))["precision"] == "tf32"
    done(*ONLINE, "--device", "cuda", "--trigger", "clean", "--save-batches", "--out", "run")
    worlds = ("--run", "run", "--replays", "8", "--queries", "plain", "--quiet")
    assert json.loads(done("audit", "shadow-replays", *worlds, "--out", "worlds", "--json").stdout)


@pytest.mark.cuda
@pytest.mark.parametrize("defense", ["ST", "OURS"])
def test_recordings_compute_what_kernels_one_by_one_do(defense: str, work: Path) -> None:
    same = (*ONLINE, *BITS, "--device", "cuda", "--med", defense, SET, "defense.DSC.threshold=0")
    for graphs in ("true", "false"):
        done(*same, SET, f"run.graphs={graphs}", "--out", graphs)
    for one, other in zip(rows("true"), rows("false"), strict=True):
        assert one == pytest.approx(other, rel=1e-3, abs=1e-4)
