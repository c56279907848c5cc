"""Classes of the user's own, in a file of the current folder, named by their path."""

import json
import pickle
import sys
from pathlib import Path

import pytest

from accupoison.config.schema import online_config
from accupoison.defenses import DEFENSES
from tests.e2e.conftest import CHECKPOINT, ONLINE, SET, call, done, outcome, refused
from tests.messages import says

MINE = '''
from dataclasses import dataclass, field
from accupoison import Attack, Defense, InputError, PixelAttack, Release
from accupoison.data import DataStream, load as read
from accupoison.updates import SGD

@dataclass(kw_only=True)
class Paler(Defense):
    """Toward white, more and more."""
    amount: float = 0.2
    seen: int = field(default=0, init=False)
    def __post_init__(self):
        if self.amount > 1:
            raise InputError(f"defense.amount {self.amount} is above 1; give less")
    def intercept(self, view, batch, ctx):
        self.seen += 1
        return batch.with_x(batch.x + self.amount * self.seen / 9 * (1 - batch.x))

@dataclass(kw_only=True)
class Clip(Paler):
    """Is called like one of ours."""

@dataclass(kw_only=True)
class Darker(PixelAttack):
    def perturb(self, view, batch, ctx):
        return (batch.x - self.eps).clamp_min(0)

@dataclass(kw_only=True)
class Even(Release):
    share: float = 0.5
    def rewrite(self, probs):
        return probs * (1 - self.share) + self.share / probs.shape[1]

@dataclass(kw_only=True)
class Slow(SGD):
    rate: float = 0.5
    def gradients(self, learner, defense, batch, ctx):
        return tuple(self.rate * g for g in super().gradients(learner, defense, batch, ctx))

class Stream(DataStream):
    kind = "mine"

def load(data_dir):
    return read("digits")

class Plain(Defense):
    amount: float = 0.2

@dataclass(kw_only=True)
class Lacks(Attack):
    """Has no poison."""

@dataclass(kw_only=True)
class NoDefault(Defense):
    amount: float

@dataclass(kw_only=True)
class Union(Defense):
    amount: int | str = 1

@dataclass(kw_only=True)
class Other:
    """Derives from nothing."""

def nothing(*arguments, **settings):
    return None

number = 3
'''
NAMED = """
from dataclasses import dataclass
from accupoison import DEFENSES
from mine import Paler

@DEFENSES.register("NAMED")
@dataclass(kw_only=True)
class Named(Paler):
    pass
"""


@pytest.fixture
def mine(work: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work where the file is, as the command line's current folder is on the path."""
    monkeypatch.syspath_prepend(work)
    for module in ("mine", "named"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    for name in ("_things", "_aliases", "_shown"):
        monkeypatch.setattr(DEFENSES, name, dict(getattr(DEFENSES, name)))
    Path("mine.py").write_text(MINE)
    return work


@pytest.mark.slow
def test_it_runs_resumes_and_is_reported(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = [*ONLINE, "--med", "mine:Paler", "--attack", "mine:Darker", "--release", "mine:Even:share=0.25"]
    command += ["--update", "mine:Slow", "--stream", "mine:Stream", SET, "defense.amount=0.4", SET, "update.rate=0.25"]
    said = done(*command, SET, "run.save_every=1").stdout
    run = Path("logs/digits-resnet8-w4-Darker-eps25.5-Paler-seed0")
    for words in ("attacker (Darker)", "defender (Paler)", "released by mine:Even:share=0.25"):
        assert words in said
    stored = json.loads((run / "config.json").read_text())
    names = [stored[section]["name"] for section in ("attack", "defense", "release", "update")]
    assert names == ["mine:Darker", "mine:Paler", "mine:Even", "mine:Slow"]
    given = stored["defense"]["amount"], stored["update"]["rate"], stored["stream"]["kind"]
    assert given == (
        0.4,
        0.25,
        "mine:Stream",
    )
    before = outcome(run)
    monkeypatch.delitem(sys.modules, "mine")  # as another process
    done("online", "--resume", run, "--quiet")
    assert outcome(run) == before
    told = done("report", run, "--format", "md,html").stdout
    assert "Paler (amount 0.4)" in told
    assert "mine:Paler" in (run / "report.html").read_text()  # in the command that makes it again
    made = pickle.loads(pickle.dumps(online_config([stored])))
    assert (made.defense.spelling, made.defense.name) == ("mine:Paler", "Paler")


def test_names_that_are_taken(mine: Path) -> None:
    Path("named.py").write_text(NAMED)
    for given, shown in (("named:Named", "NAMED"), ("mine:Clip", "mine.Clip"), ("mine:Paler", "Paler")):
        found = online_config([{"defense": {"name": given}}]).defense
        assert (found.name, found.spelling) == (shown, given)
    assert online_config([{"defense": {"name": "CLIP"}}]).defense.spelling == "CLIP"


@pytest.mark.slow
def test_data_by_the_path_of_its_loader(mine: Path) -> None:
    done(*ONLINE, "--data", "mine:load", "--checkpoint", CHECKPOINT, "--out", "run")
    assert json.loads(Path("run/config.json").read_text())["data"]["name"] == "mine:load"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--med", "nowhere:Paler"], "'nowhere:Paler' imported nowhere folder"),
        (["--med", "mine:Pale"], "'mine:Pale' imported 'Pale' mean Paler"),
        (["--med", "mine:Plain"], "'mine:Plain' dataclass @dataclass(kw_only=True)"),
        (["--med", "mine:NoDefault"], "'mine:NoDefault' amount default give"),
        (["--med", "mine:Other"], "'mine:Other' derive accupoison.defenses.Defense"),
        (["--med", "mine:Darker"], "'mine:Darker' derive accupoison.defenses.Defense"),
        (["--med", "mine:number"], "'mine:number' number neither class"),
        (["--med", "mine:nothing"], "'mine:nothing' dataclass"),
        (["--med", "__main__:Gone"], "'__main__:Gone' notebook file"),
        (["--med", "mine:Union", SET, "defense.amount=2"], "amount int | str declare"),
        (["--med", "mine:Paler", SET, "defense.amount=2"], "defense.amount 2.0 less"),
        (["--med", "mine:Paler", SET, "defense.amuont=0.1"], "amuont amount"),
        (["--med", "OURS:0.5"], "unknown 'OURS:0.5' ours"),
        (["--attack", "mine:Lacks"], "'mine:Lacks' method poison write"),
        (["--attack", "mine:Paler"], "'mine:Paler' derive accupoison.attacks.Attack"),
        (["--update", "mine:Paler"], "'mine:Paler' derive accupoison.updates.sgd.SGD"),
        (["--release", "mine:Paler"], "'mine:Paler' derive accupoison.release.Release"),
        (["--release", "mine:Even:shore=1"], "shore share"),
        (["--release", "roudn:2"], "unknown 'roudn' round"),
        (["--stream", "shift:fogg"], "'shift:fogg' shift:fog"),
        (["--stream", "mine:gone"], "'mine:gone' imported"),
        (["--data", "npx:a.npz"], "'npx' npz"),
        (["--data", "mine:gone"], "'mine:gone' imported"),
    ],
)
def test_what_is_wrong_with_a_path_is_said(options: list[str], words: str, mine: Path) -> None:
    says(refused(*ONLINE, *options, "--dry-run"), words)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--stream", "mine:nothing"], "'mine:nothing' accupoison.data.DataStream"),
        (["--data", "mine:nothing", "--checkpoint", CHECKPOINT], "'mine:nothing' NoneType DataSet"),
    ],
)
def test_what_is_wrong_with_what_it_makes_is_said(options: list[str | Path], words: str, mine: Path) -> None:
    says(refused(*ONLINE, *options), words)


def test_a_module_that_breaks_is_named(mine: Path) -> None:
    Path("breaks.py").write_text("1 / 0")
    says(refused(*ONLINE, "--dry-run", "--med", "breaks:Paler"), "'breaks:Paler' ZeroDivisionError")
    assert call("list").exit_code == 0
