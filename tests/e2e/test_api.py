"""Python: the same bytes as the commands, objects where these have names, and examples that are true."""

import doctest
import importlib
import pickle
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import accupoison as ap
from accupoison.api.keywords import BurninKeywords, OnlineKeywords
from accupoison.api.objects import data_section
from accupoison.attacks.accumulative import craft_accumulative
from accupoison.attacks.trigger import craft_trigger
from accupoison.cli import cli
from accupoison.config.layers import read_toml
from accupoison.data import load
from accupoison.measure.accuracy import evaluate
from accupoison.models.view import view_of
from tests.e2e.conftest import CHECKPOINT, ENVIRONMENT, ONLINE, done, outcome
from tests.messages import refuses

pytestmark = pytest.mark.slow
OF_FILES = {"recipe", "preset", "replay", "out", "resume", "resume_or_start", "file", "pairs", "dry_run", "quiet"}
"""Options that are no settings."""


def flat(*layers: dict[str, Any]) -> dict[str, Any]:
    """Return layers as one of "section.key"."""
    found: dict[str, Any] = {}
    for layer in layers:
        for section, values in layer.items():
            for key, value in values.items():
                inner = value.items() if isinstance(value, dict) else [("", value)]
                found |= {f"{section}.{key}{'.' * bool(name)}{name}": v for name, v in inner}
    return found


@dataclass(kw_only=True)
class Whiter(ap.Defense):
    """Learn from paler images.

    Attributes:
        amount: In [0, 1].
    """

    couples = False
    amount: float = 0.2

    def intercept(self, view: ap.ModelView, batch: ap.Batch, ctx: ap.Context) -> ap.Batch:
        return batch.with_x(batch.x + self.amount * (1 - batch.x))


class Small(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * 16 * 16, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layer(x.flatten(1) - 0.5)
        return logits


def test_importing_it_loads_nothing() -> None:
    code = "import sys, accupoison; print({'torch', 'numpy', 'click'} & set(sys.modules), 'craft' in dir(accupoison))"
    child = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert child.stdout.strip() == "set() True"


def test_every_name_is_there_and_typed() -> None:
    typed = set(re.findall(r" as (\w+)\n", Path(ap.__file__).read_text()))
    assert typed - {"ap"} == set(ap.__all__)
    assert all(getattr(ap, name) is not None for name in ap.__all__)
    with pytest.raises(AttributeError, match="onlin"):
        _ = ap.onlin  # type: ignore[attr-defined]


def test_keywords_are_the_options() -> None:
    for command, known in (("burnin", BurninKeywords), ("online", OnlineKeywords)):
        options = {p.name for p in cli.commands[command].params if not getattr(p, "hidden", False)}
        assert options - OF_FILES - {"as_json"} == set(known.__annotations__)


def test_the_examples_are_true(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ACCUPOISON_DATA", raising=False)
    for name, least in (("accupoison", 4), ("accupoison.api.runs", 10), ("accupoison.api.results", 8)):
        found = doctest.testmod(importlib.import_module(name))
        assert found.attempted >= least
        assert not found.failed
    assert doctest.testmod(importlib.import_module("accupoison.api.crafting")).attempted >= 5


def test_the_same_bytes_as_the_commands(work: Path) -> None:
    done(*ONLINE, "--med", "CLIP", "--trigger", "coast,adversarial", "--out", "typed")
    base = ap.burn_in(recipe="demo", settings=flat(read_toml(Path("train.toml"))), out="again")
    assert outcome(Path("again")) == outcome(CHECKPOINT.parent)
    stream = flat(read_toml(Path("tiny.toml")))
    about: OnlineKeywords = {"med": "CLIP", "trigger": "coast,adversarial"}
    for number, start in enumerate((None, CHECKPOINT, base)):
        place = f"python-{number}"
        run = ap.online(start, preset="demo", **about, settings=stream, out=place)
        mine, typed = outcome(run.path), outcome(Path("typed"))
        for found in (mine, typed) if start is not None else ():
            del found["config.json"]  # it says where the base model is
        assert mine == typed
    assert run.accuracy("after", "coast") == run.summary["branches"]["coast"]["after"]["acc"]
    assert [row["branch"] for row in run.metrics].count("coast") == 2
    ended = ap.online(base, preset="demo", **about, settings=stream, out=place, resume=True)
    assert ended.summary == ap.open_run(place).summary
    with refuses("no accuracy 'mid' adversarial before"):
        run.accuracy("mid")


def test_steps_are_those_of_the_run(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stream = flat(read_toml(Path("tiny.toml")))
    run = ap.online(CHECKPOINT.parent, preset="demo", med="EMA", settings=stream, out="run")
    loop = ap.steps(CHECKPOINT.parent, preset="demo", med="EMA", settings=stream)  # which serves another than learns
    assert loop.accuracy() == run.accuracy("start")
    rows = {(row["step"], row["branch"]): row for row in run.metrics}
    for step in loop:
        row = rows[step.t + 1, step.branch]
        assert {tag: v for tag, v in step.metrics.items() if not tag.startswith("time/")}.items() <= row.items()
    assert loop.accuracy() == run.accuracy("end")
    assert evaluate(loop.simulation.learner.view(), loop.data, loop.splits.test)[0] != run.accuracy("end")
    assert isinstance(loop.model, nn.Module)
    assert capsys.readouterr() == ("", "")
    told: list[tuple[int, int]] = []
    ap.online(CHECKPOINT.parent, preset="demo", settings=stream, out="told", progress=lambda *at: told.append(at[:2]))
    assert told == [(0, 1), *((n, 5) for n in range(1, 6))]
    ap.online(CHECKPOINT.parent, preset="demo", settings=stream, out="shown", progress=True)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert [line[:4] for line in shown.err.split("\r")[1:]] == ["0/1 ", *(f"{n}/5 " for n in range(1, 6))]


def test_classes_and_instances(work: Path) -> None:
    stream = flat(read_toml(Path("tiny.toml")))
    paler, clip = {"defense.amount": 0.3}, ap.DEFENSES.get("CLIP")
    given: list[tuple[Any, dict[str, Any]]] = [(Whiter, paler), (Whiter(amount=0.3), {})]
    given += [("tests.e2e.test_api:Whiter", paler), (Whiter(), {}), (clip, {})]
    place = CHECKPOINT.parent
    runs = [
        ap.online(place, preset="demo", attack="none", trigger="clean", med=med, settings=stream | more)
        for med, more in given
    ]
    assert [run.path.name for run in runs[:2]] == [f"digits-resnet8-w4-none-Whiter-seed0{n}" for n in ("", "-2")]
    assert [run.defense for run in runs] == ["Whiter (amount 0.3)"] * 3 + ["Whiter", "CLIP"]
    ends = [run.metrics[-1]["stream/loss"] for run in runs]
    assert ends[0] == ends[1] == ends[2] != ends[3]
    assert '"tests.e2e.test_api:Whiter"' in (runs[0].path / "config.json").read_text()
    with warnings.catch_warnings(record=True) as said:  # the second is the first one again
        warnings.simplefilter("always")
        files = ap.report(runs, "study", formats="md,json", trigger="clean")
    assert [path.name for path in files] == ["curves.png", "report.md", "report.json"]
    assert sum("is left out" in str(one.message) for one in said) == 2
    again = pickle.loads(pickle.dumps(runs[0].config))
    assert again == runs[0].config


def test_a_class_keeps_its_path_on_its_way_to_another_process() -> None:
    path, made = ap.DEFENSES.adopt(Whiter), Whiter(amount=0.1)
    sent = pickle.dumps(made)
    for name in ("name", "path"):
        delattr(Whiter, name)  # as the other process has it
    back = pickle.loads(sent)
    assert (back, back.spelling, back.name) == (made, path, "Whiter")


@pytest.mark.parametrize("images", ["bytes", "floats", "set", "last"])
def test_own_arrays_are_the_data_set(images: str, work: Path) -> None:
    digits = load("digits")
    x: dict[str, Any] = {"bytes": digits.train_x, "floats": digits.train_x.double() / 255}
    x["last"] = digits.train_x.permute(0, 2, 3, 1).numpy()
    halves: tuple[Any, ...] = (x.get(images), digits.train_y.numpy(), digits.test_x, digits.test_y)
    section = data_section(digits) if images == "set" else data_section(halves)
    stored = load(section["name"])
    assert torch.equal(stored.train_x, digits.train_x)
    assert torch.equal(stored.test_y, digits.test_y)
    assert section.get("flip", False) == digits.flip


def test_own_network_and_features(work: Path) -> None:
    digits, sizes = load("digits"), flat({"data": read_toml(Path("tiny.toml"))["data"]})
    del sizes["data.name"]
    data = digits.train_x, digits.train_y, digits.test_x, digits.test_y
    trained = flat({"train": read_toml(Path("train.toml"))["train"]}) | sizes
    base = ap.burn_in(data=data, model=Small, epochs=1, settings=trained, out="own")
    torch.manual_seed(0)
    net = Small(10)
    same = ap.burn_in(data=data, model=net, epochs=1, settings=trained, out="module")
    assert base.accuracy != same.accuracy  # it begins with the weights that it has
    stream = flat({"stream": read_toml(Path("tiny.toml"))["stream"]}) | sizes | {"attack.eps": 0.1, "attack.steps": 1}
    before = net.layer.weight.detach().clone()
    run = ap.online(net, data=data, settings=stream | {"optim.lr": 0.1}, out="run")
    assert torch.equal(net.layer.weight, before)
    with torch.no_grad():
        right = (net(digits.test_x / 255).argmax(1) == digits.test_y).float().mean()
    assert run.accuracy("start") == pytest.approx(float(right), abs=0.25)  # of a part of these images
    assert "stream" in ap.audit_run(run)["groups"]


def test_craft_is_the_attack_on_ones_own_network() -> None:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))
    net(torch.rand(30, 12))  # moves the running statistics
    before = {name: value.clone() for name, value in net.state_dict().items()}
    x, y = torch.rand(30, 3, 2, 2), torch.arange(30) % 3
    parts = (slice(10), slice(10, 20), slice(20, 30))
    batch, goal, own = (ap.Batch(x[rows], y[rows], torch.arange(10)) for rows in parts)
    val = own.x.numpy(), own.y.numpy()
    sent = ap.craft(net, batch.x, batch.y, val=val, trigger=(goal.x, goal.y), eps=0.1, steps=3)
    assert net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    view = view_of(net.eval())
    trigger = craft_trigger(view, goal, own, eps=0.1, steps=3)
    assert torch.equal(sent, craft_accumulative(view, goal.with_x(trigger), batch, own, eps=0.1, steps=3))
    made = ap.craft(net, goal.x, goal.y, val=(own.x, own.y), eps=0.1, steps=3, as_trigger=True)
    assert torch.equal(made, trigger)
    far = ap.craft(net, batch.x * 9, batch.y, val=(own.x * 9, own.y), eps=0.1, bounded=False)
    assert 0.09 < float((far - batch.x * 9).abs().max()) < 0.1001


NET, X, Y = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), torch.rand(6, 3, 2, 2), torch.arange(6) % 3


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: ap.online(medd="ST"), "keyword 'medd' med"),  # type: ignore[call-arg]
        (lambda: ap.online(med=3), "defense 3 class"),  # type: ignore[arg-type]
        (lambda: ap.online(med=Small), "Small dataclass"),  # type: ignore[arg-type]
        (lambda: ap.burn_in(data=(X,)), "1 arrays (x, y)"),
        (lambda: ap.burn_in(data=(X * 3, Y)), "pixels [0, 1]"),
        (lambda: ap.burn_in(settings={"train.epoch": 1}), "train.epoch epochs"),
        (lambda: ap.open_run("nowhere"), "nowhere resume"),
        (lambda: ap.audit_run("nowhere"), "nowhere directory"),
        (lambda: ap.craft(NET, X * 3, Y, val=(X, Y)), "[0, 1] bounded=False"),
        (lambda: ap.craft(NET, X, Y[:2], val=(X, Y)), "2 rows give"),
        (lambda: ap.craft(NET, X, Y, val=(X, Y), epz=1), "attack.accumulative.epz eps"),
        (lambda: ap.craft(nn.Linear(5, 3), X, Y, val=(X, Y)), "Linear cannot take"),
        (lambda: ap.craft(NET, X, Y, val=(X, Y), attack="dirty-label"), "dirty-label online"),
    ],
)
def test_what_is_wrong_is_said(wrong: Callable[[], object], words: str, work: Path) -> None:
    with refuses(words):
        wrong()
