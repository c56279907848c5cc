"""Settings, grids and the JSON of runs, damaged at random: whatever comes of it, nothing but InputError escapes."""

import copy
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from accupoison.audit.online.run import config_of
from accupoison.cli.commands import _base
from accupoison.config import layers as config
from accupoison.config.schema import at_home, burnin_config, online_config
from accupoison.errors import InputError
from accupoison.records.recorder import read_metrics
from accupoison.runs.replay import replay_layer
from accupoison.study.collect import collect
from accupoison.study.grid import read_grid
from accupoison.study.tables import mechanism_rows, outcome_rows, retention_rows, rows_text, threat_lines
from tests.e2e.conftest import BURNIN, ONLINE, SET, call, done, write_settings

T = TypeVar("T")
ROUNDS = 40
FILES = ("config.json", "summary.json", "env.json", "metrics.jsonl", "threat.json")
"""For each test; the option ``--fuzz`` gives another number."""
RAW = {
    "@deep@": "[" * 3000 + "]" * 3000,
    "@nested@": "[" * 60 + "]" * 60,
    "@digits@": "7" * 5000,
    "@long@": "7" * 400,
    "@hex@": "0x" + "f" * 5000,
    "@date@": "1979-05-27T07:32:00",
    "@nan@": "nan",
    "@NaN@": "NaN",
}
"""What stands in a file in place of these words; not all of it is JSON, or TOML."""
VALUES: list[Any] = [
    *RAW,
    *(None, True, 0, -1, 1, 3, 10**6, 2**63 - 1, 2**63, 0.5, -0.0, 1e308, 5e-324, "nan", "inf", "-inf", "none"),
    *("", " ", "x" * 3000, "a\0b", "\ud800", "é", "١٢", "1_000", "1" * 5000),
    *("8/0", "8/255", "cpu:²", "a/b", "..", "$x_{"),
    *([], [1, 2], ["ST"], [[1]], [True], [None], {}, {"a": 1}, {"name": 3}, {"ST": 1}, {"adversarial": {}}),
]


@pytest.fixture
def rounds(request: pytest.FixtureRequest) -> int:
    return int(request.config.getoption("--fuzz") or ROUNDS)


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a small run with two triggers and return its directory."""
    folder = tmp_path_factory.mktemp("fuzz")
    write_settings(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("ACCUPOISON_DATA", raising=False)
        done(*BURNIN)
        done(*ONLINE, "--trigger", "coast,adversarial", SET, "evaluate.save_batches=true", "--out", "runs/one")
    return folder / "runs" / "one"


def places(tree: object, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the ways to every value in tables and lists."""
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [place for key, value in pairs for place in ((*path, key), *places(value, (*path, key)))]


def damaged(tree: T, rng: random.Random) -> T:
    """Return a copy with one value of another kind, missing, under another key, or twice as deep."""
    tree = copy.deepcopy(tree)
    *way, last = rng.choice(places(tree))
    parent: Any = tree
    for key in way:
        parent = parent[key]
    match rng.randrange(6):
        case 0:
            del parent[last]
        case 1 if isinstance(parent, dict):
            parent[rng.choice([f"{last}x", last[:-1], "", "name", "each", "\x7f", "a.b"])] = parent.pop(last)
        case 2:
            parent[last] = {str(last): parent[last]} if rng.randrange(2) else [parent[last]]
        case _:
            parent[last] = copy.deepcopy(rng.choice(VALUES))
    return tree


def raw(text: str) -> str:
    for word, meant in RAW.items():
        text = text.replace(json.dumps(word), meant)
    return text


def spoiled(text: bytes, rng: random.Random) -> bytes:
    """Return a text with some bytes flipped, doubled or cut off."""
    whole, at = bytearray(text), rng.randrange(len(text))
    match rng.randrange(4):
        case 0:
            whole[at] ^= 1 << rng.randrange(8)
        case 1:
            del whole[at:]
        case 2:
            whole[at:at] = whole[at : at + rng.randrange(40)]
        case _:
            whole[at : at + 8] = bytes(8)
    return bytes(whole)


def toml(tree: dict[str, Any]) -> str:
    """Return a tree as TOML on a few long lines; what TOML has no word for becomes a text."""

    def inline(value: object) -> str:
        if isinstance(value, dict):
            return "{" + ", ".join(f"{json.dumps(str(key))} = {inline(item)}" for key, item in value.items()) + "}"
        if isinstance(value, list):
            return f"[{', '.join(map(inline, value))}]"
        return json.dumps("none" if value is None else value)

    return "\n".join(f"{json.dumps(str(key))} = {inline(value)}" for key, value in tree.items()) + "\n"


def survives(use: Callable[[], object]) -> bool:
    """Return whether nothing was wrong; any other error than InputError is the test's."""
    try:
        use()
    except InputError:
        return False
    return True


STREAM: dict[str, Any] = {
    "data": {"name": "digits", "burnin": 200, "held_out": [1, 2]},
    "model": {"name": "resnet8", "width": 4},
    "stream": {"kind": "iid", "steps": 3, "augment": "after", "quantise": True},
    "attack": {"name": "accumulative", "eps": "8/255", "steps": 1, "noise": {"eps": 0.1}},
    "trigger": {"types": ["coast", "adversarial"], "updates": 2},
    "defense": {"name": "DSC", "DSC": {"threshold": 0.5}, "AT": {"steps": 2}},
    "optim": {"lr": 0.1, "clip_norm": 2.0},
    "stop": {"error_rise": 0.1},
    "evaluate": {"images": 4, "audit_every": 5},
    "run": {"seed": 3, "device": "cpu"},
}
TRAIN: dict[str, Any] = {
    "data": {"name": "digits", "burnin": 200},
    "train": {"epochs": 4, "lr": 0.1, "schedule": "step", "milestones": [2, 3], "snapshots": [1], "early": 2},
    "update": {"name": "dpsgd", "noise_multiplier": 1.0, "delta": 1e-5},
    "run": {"seed": 3},
}
GRID: dict[str, Any] = {
    "burnin": {"preset": "demo", "seeds": [0, 1], "train": {"epochs": 1}},
    "online": {"preset": "demo", "stream": {"steps": 2}},
    "runs": [
        {"name": "clean", "seeds": [0], "attack": {"name": "none"}, "each": {"defense.name": ["ST", "FREEZE"]}},
        {"name": "noise", "seeds": [0, 1], "burnins": [1], "each": {"attack.eps": ["8/255", 0.1]}},
    ],
    "claims": [{"text": "more", "more": ["noise-0.1", "adversarial"], "less": ["clean-ST", "adversarial"]}],
}


@pytest.mark.parametrize(
    ("sound", "use"),
    [
        (STREAM, lambda found: online_config([config.preset("online", "demo"), found])),
        (TRAIN, lambda found: burnin_config([found])),
        (GRID, lambda found: read_grid(found, Path("checkpoints"), Path("logs"))),
    ],
    ids=["stream", "burnin", "grid"],
)
def test_files_of_settings(sound: dict[str, Any], use: Callable[[Any], object], rounds: int, tmp_path: Path) -> None:
    path, kept = tmp_path / "file.toml", 0
    for seed in range(rounds):
        rng = random.Random(seed)
        text = raw(toml(damaged(sound, rng) if seed else sound)).encode("utf-8", "surrogatepass")
        path.write_bytes(spoiled(text, rng) if seed % 4 == 3 else text)
        kept += survives(lambda: use(config.read_toml(path)))
        assert kept or seed  # the sound one
    assert kept < rounds // 2


def read_everything(folder: Path) -> None:
    """Read a run as reports, resumes, replays and audits do; a report must leave it out or have all its cells."""
    said: list[str] = []
    survives(lambda: at_home({"data": {}, "run": {}}, folder))
    survives(lambda: online_config(_base("online", None, "demo", folder)))
    survives(lambda: online_config([replay_layer(folder)]))
    survives(lambda: config_of(folder))
    try:
        runs = collect([folder], said.append)
    except InputError:
        return  # no run has ended there: an interrupted one, or the summary has gone
    assert bool(runs) != bool(said)
    if runs:
        tables = (
            rows_text(outcome_rows(runs)),
            rows_text(mechanism_rows(runs)),
            rows_text(retention_rows(runs)),
            threat_lines(runs),
        )
        assert tables[0].count("|") > 10
        survives(lambda: runs[0].curve("monitor/acc", "adversarial"))


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_files_of_a_run(name: str, ended: Path, rounds: int, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(ended, folder)
    read_everything(folder)
    whole = (ended / name).read_bytes()
    for seed in range(rounds):
        rng = random.Random(seed)
        if seed % 4 == 3:
            (folder / name).write_bytes(spoiled(whole, rng))
        elif name == "metrics.jsonl":
            rows = read_metrics(ended / name)
            (folder / name).write_text("".join(raw(json.dumps(row)) + "\n" for row in damaged(rows, rng)))
        else:
            (folder / name).write_text(raw(json.dumps(damaged(json.loads(whole), rng))))
        read_everything(folder)


def test_reports_of_a_run(ended: Path, rounds: int, tmp_path: Path) -> None:
    sound, folder = tmp_path / "runs" / "a", tmp_path / "runs" / "b"
    shutil.copytree(ended, sound)
    settings = json.loads((sound / "config.json").read_text())
    settings["run"]["seed"] += 1  # else the other one is the same replicate
    (sound / "config.json").write_text(json.dumps(settings))
    for seed in range(rounds // 20):
        rng = random.Random(seed)
        name = rng.choice(FILES)
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(ended, folder)
        whole = (ended / name).read_bytes()
        tree = name != "metrics.jsonl" and damaged(json.loads(whole), rng)
        (folder / name).write_bytes(raw(json.dumps(tree)).encode() if tree else spoiled(whole, rng))
        result = call("report", tmp_path / "runs", "--out", tmp_path / "out")
        assert result.exit_code == 0, (seed, result.output, result.exception)
        assert "adversarial" in result.stdout
        assert "Traceback" not in result.output
