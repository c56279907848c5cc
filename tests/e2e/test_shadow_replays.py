"""``audit shadow-replays`` on digits: resumable, and members are told where there is something to tell."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from accupoison.audit.online.replays import Transfer
from accupoison.data import load
from accupoison.loop.context import StepContext
from accupoison.runs.replay import load_batch
from tests.e2e.conftest import BURNIN, ONLINE, SET, call, done, refused, write_settings
from tests.messages import says

pytestmark = pytest.mark.slow

BIG = (SET, "data.burnin=100", SET, "data.stream=700", SET, "start.recipe=few")
STREAM = (
    *ONLINE,
    *BIG,
    "--trigger",
    "clean",
    "--recovery-steps",
    "0",
    SET,
    "evaluate.monitor=false",
    SET,
    "optim.lr=0.2",
)
REPLAYS = ("audit", "shadow-replays", "--run", "run", "--replays", "8", "--queries", "plain", "--quiet")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a run whose stream is gone through four times, so that it leaves traces, and its replays in ``w``."""
    folder = tmp_path_factory.mktemp("replays")
    write_settings(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        done(*BURNIN, SET, "data.burnin=100", SET, "data.stream=700", SET, "train.recipe=few")
        repeat = (SET, "stream.batch_size=20", "--steps", "8", "--attack", "none", SET, "trigger.updates=1")
        done(*STREAM, *repeat, "--out", "run", "--save-batches")
        done(*REPLAYS, "--out", "w")
    return folder


@pytest.fixture
def run(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a copy of what was made."""
    shutil.copytree(made, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")


def test_replays_are_made_once_and_tell_members(run: Path) -> None:
    text = done(*REPLAYS, "--out", "w").stdout
    assert "AUC of the run | FPR of the replays' 1.0% on the run" in text
    assert "over 8 replays of" in text
    assert "the auditor knows the weights before the stream" in text
    names = sorted(path.name for path in Path("w/signals").iterdir())
    assert names == [f"{i:03d}.npz" for i in range(8)]
    keeps = [np.load(Path("w/signals") / name)["keep"] for name in names]
    half = len(keeps[0]) // 2
    for even, odd in zip(keeps[::2], keeps[1::2], strict=True):
        assert np.array_equal(even, ~odd)  # complementary replays, nothing rejected
        assert np.array_equal(even[:half], ~even[half:])  # exactly one of each pair
    found = json.loads(Path("w/audit.json").read_text())
    assert found["pairs"] == half
    assert all(len(one["auc"]) == 8 for one in found["attacks"])
    assert "| shadows | 8 replays (per-replay poison, shared burn-in), 4 with a sample and 4 without (median) |" in text
    assert len(found["controls"]["loss_ratio"]["targets"]) == 1
    assert set(found["run"]) == {one["attack"] for one in found["attacks"]}
    for name in names:
        os.utime(Path("w/signals") / name, (0, 0))  # so that one made anew shows, however fast
    Path("w/signals/003.npz").unlink()
    done(*REPLAYS, "--out", "w")
    assert {name for name in names if (Path("w/signals") / name).stat().st_mtime_ns != 0} == {"003.npz"}
    second = json.loads(Path("w/audit.json").read_text())
    assert second["attacks"] == found["attacks"]
    assert second["run"] == found["run"]


def test_a_batch_that_is_learnt_by_heart_gives_its_members_away(run: Path) -> None:
    """The same twenty images at every step: whoever stands in is learnt, in every replay."""
    few = (SET, "data.burnin=100", SET, "data.stream=700", SET, "start.recipe=few", SET, "evaluate.monitor=false")
    again = ("--stream", "released_stream", SET, "stream.batch_size=20", "--steps", "30", SET, "stream.augment=none")
    done(*ONLINE, *few, *again, "--trigger", "none", "--recovery-steps", "0", "--attack", "none", "--out", "heart")
    found = json.loads(done("audit", "shadow-replays", "--run", "heart", *REPLAYS[4:], "--out", "v", "--json").stdout)
    assert found["pairs"] >= 15
    for name in ("loss", "lira_online_fixed_variance"):
        assert float(np.mean(found["attacks"][name]["auc"])) > 0.65, name
    assert np.mean(found["train_accuracy"]) > np.mean(found["test_accuracy"]) + 0.1


def test_transferred_poison_and_own_burn_ins(run: None) -> None:
    poison = (SET, "stream.batch_size=20", "--steps", "8", SET, "attack.steps=1")
    done(*STREAM, *poison, "--out", "poisoned", "--save-batches", "--trigger", "adversarial")
    replays = ("audit", "shadow-replays", "--run", "poisoned", "--replays", "8", "--quiet", "--queries", "plain")
    text = done(*replays, "--poison", "transfer", "--burnin", "own", "--out", "t").stdout
    assert "knows nothing of the run's base model" in text
    assert len({Path(f"t/burnins/{i:03d}/final.pt").read_bytes() for i in range(8)}) == 8
    with np.load("t/signals/000.npz") as found, np.load("poisoned/batches/000000.npz") as sent:
        assert found["keep"].any()
        assert sent["x"].shape == (20, 3, 16, 16)


def test_a_transfer_adds_the_perturbation_that_was_sent(run: None) -> None:
    poison = (SET, "stream.batch_size=20", "--steps", "2", SET, "attack.steps=1")
    done(*STREAM, *poison, "--out", "poisoned", "--save-batches", "--trigger", "adversarial")
    data = load("digits")
    attack = Transfer(eps=0.1, source=Path("poisoned"), data=data)
    sent = load_batch(Path("poisoned"), 1)
    other = data.batch(torch.arange(20))
    got = attack.poison(None, other, StepContext(0, "attack", 1, {})).x  # type: ignore[arg-type]
    wanted = (other.x + sent["x"] - data.batch(sent["clean_ids"]).x).clamp(0, 1)
    torch.testing.assert_close(got, wanted)
    own = attack.poison(None, data.batch(sent["clean_ids"]), StepContext(0, "attack", 1, {})).x  # type: ignore[arg-type]
    torch.testing.assert_close(own, sent["x"])
    trigger = load_batch(Path("poisoned"), None)
    assert torch.equal(attack.trigger(None, other, StepContext(0, "attack", 2, {})).x, trigger["x"])  # type: ignore[arg-type]


def test_what_replays_cannot_be_made_of(run: Path) -> None:
    says(refused(*REPLAYS[:3], "nowhere", *REPLAYS[4:]), "no run nowhere")
    done(*REPLAYS, "--out", "w")
    other = refused(*REPLAYS, "--poison", "transfer", "--out", "w")
    says(other, "configuration shadow_replays.poison")
    kept = Path("w/signals/002.npz")
    with np.load(kept) as found:
        arrays = {name: found[name] for name in found.files}
    np.savez(kept, **(arrays | {"keep": arrays["keep"][:-2]}))
    says(refused(*REPLAYS, "--out", "w"), "not hold signals")
    done(*STREAM, "--out", "bare", "--attack", "direct", "--steps", "4")
    bare = ("audit", "shadow-replays", "--run", "bare", "--replays", "8", "--quiet")
    says(refused(*bare, "--poison", "transfer"), "kept 000000.npz --save-batches")
    done(*STREAM, "--out", "stopping", SET, "stop.error_rise=0.9", "--attack", "none", "--steps", "4")
    says(refused("audit", "shadow-replays", "--run", "stopping"), "had a stop rule")
    assert call("audit", "shadow-replays").exit_code == 2
