"""Whatever setting is wrong: one sentence that names the value and the fix, exit code 2, and nothing is started."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import BURNIN, CHECKPOINT, ENVIRONMENT, ONLINE, ROOT, SET, call, refused, sentence
from tests.messages import says


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--eps", "-1"], "attack.eps -1.0 [0, 1]"),
        (["--eps", "8/0"], "attack.accumulative.eps '8/0' divides zero 8/255"),
        (["--steps", "-1"], "stream.steps -1 negative"),
        (["--steps", "ten"], "Invalid '--steps' 'ten' integer"),
        ([SET, "attack.steps=0"], "attack.steps 0 1 number"),
        ([SET, "run.save_every=0"], "run.save_every 0 1 number"),
        ([SET, "optim.lr=0"], "optim.lr 0.0 number 0 0.1"),
        ([SET, "optim.lr=inf"], "optim.lr inf 0"),
        ([SET, "optim.momentum=1"], "optim.momentum 1.0 [0, 1) 0.9"),
        ([SET, "optim.weight_decay=inf"], "optim.weight_decay inf 0"),
        (["--clip-norm", "0"], "update.clip_norm 0.0 0 1.0"),
        ([SET, "update.clip_kind=l1"], "norm 'l1' l2"),
        (["--med", "OUR"], "defence 'OUR' ours"),
        (["--attack", "acumulative"], "attack 'acumulative' accumulative"),
        (["--trigger", "coats"], "trigger 'coats' coast"),
        (["--trigger", "optimised,adversarial"], "optimised trigger run"),
        (["--stream", "idd"], "stream.kind 'idd' iid"),
        (["--stream", "shift:blurr"], "stream.kind 'shift:blurr' shift:blur"),
        (["--model", "resnt8"], "model 'resnt8' resnet8"),
        (["--norm", "bach"], "norm 'bach' batch"),
        (["--width", "0"], "model.width 0 1 number"),
        (["--preset", "frehs"], "preset 'frehs' fresh"),
        (["--device", "cdua"], "device 'cdua' cuda"),
        (["--device", "cuda:99"], "device 'cuda:99' --device auto"),
        (["--data", "digitz"], "data 'digitz' digits"),
        (["--bn-mode", "trian"], "optim.bn_mode 'trian' train"),
        ([SET, "stream.augment=bfore"], "stream.augment 'bfore' before"),
        ([SET, "data.splits=released_splt"], "data.splits 'released_splt' released_split"),
        ([SET, "evaluate.images=-1"], "evaluate.images -1 negative number 0"),
        ([SET, "evaluate.test=mark"], "evaluate.test 'mark' every milestones"),
        ([SET, "stop.error_rise=lots"], "stop.error_rise 'lots' number"),
        ([SET, "stream.stepz=3"], "setting stream.stepz steps"),
        ([SET, "strem.steps=3"], "section 'strem' stream"),
        ([SET, "defense.AT.stepz=3"], "setting defense.AT.stepz steps"),
        ([SET, "stream.steps"], "'stream.steps' section.key=value"),
        (["--eps", "٨/٢٥٥"], "attack.accumulative.eps '٨/٢٥٥' number"),
        (["--eps", "1_0/255"], "attack.accumulative.eps '1_0/255' number"),
        (["--steps", "٣"], "Invalid '--steps' '٣' integer"),
        (["--steps", "1_0"], "Invalid '--steps' '1_0' integer"),
        ([SET, "stream.steps=٣"], "stream.steps '٣' whole number 10"),
        (["--width", "9223372036854775808"], "Invalid '--width' 9223372036854775808 64"),
        ([SET, "model.width=9223372036854775808"], "model.width 9223372036854775808 64"),
        ([SET, f"model.width={'1' * 5000}"], "model.width ... 64 bits"),
        (["--seed", "-1"], "Invalid '--seed' -1 x>=0"),
        ([SET, "run.seed=-1"], "run.seed -1 negative 0"),
        ([SET, "data.split_seed=-1"], "data.split_seed -1 negative 0"),
        ([SET, "start.seed=-1"], "start.seed -1 negative 0"),
        (["--device", "cpu:"], "device 'cpu:' auto cpu cuda cuda:N mps"),
        (["--device", "cpu:²"], "device 'cpu:²' auto cpu cuda cuda:N mps"),
        (["--device", "auto:0"], "device 'auto:0' auto"),
        ([SET, "optim.lr=1e308"], "optim.lr 1e+308 0.1"),
        ([SET, "data.name=npz:a\0b"], r"'data.name=npz:a\x00b' UTF-8 rename"),
        (["--out", "\udcff"], r"'\udcff' UTF-8 rename"),
        (["--config", "none.toml"], "configuration none.toml No such file or directory"),
        (["--out", "x", "--resume", "y"], "--out x --resume y exclude"),
        (["--resume", "nowhere"], "no run nowhere --resume"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_setting_of_a_stream(arguments: list[str], message: str, work: Path) -> None:
    shutil.rmtree(work / "checkpoints")  # found out before anything is loaded
    says(refused(*ONLINE, *arguments), message)
    assert not (work / "logs").exists()


def test_a_real_process(work: Path) -> None:
    command = [sys.executable, str(ROOT / "cli.py"), *ONLINE, "--eps", "8/0"]
    child = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert child.stdout == ""
    assert sentence(child.returncode, child.stderr) == (
        "Error: attack.accumulative.eps = '8/0' divides by zero; write a fraction such as 8/255"
    )


def test_dry_run_checks_the_settings(work: Path) -> None:
    says(refused(*ONLINE, "--dry-run", "--trigger", "coats"), "coast")
    says(refused(*ONLINE, "--dry-run", SET, "stream.augment=bfore"), "before")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs", "0"], "train.epochs 0 1 whole number"),
        (["--recipe", "onlin_ready"], "preset 'onlin_ready' online_ready"),
        (["--model", "resnet81"], "model 'resnet81' resnet8"),
        (["--model", "os:getcwd"], "'os:getcwd' num_classes=10"),
        (["--width", "999999999999"], "resnet8 width 999999999999 memory smaller"),
        (["--seed", "9223372036854775808"], "Invalid '--seed' 9223372036854775808 64"),
        ([SET, "train.nesterov=true", SET, "train.momentum=0"], "train.nesterov train.momentum 0"),
        ([SET, "train.epochs=10000000"], "train.epochs 10000000 1000000 number"),
        ([SET, "train.batch_size=201"], "batch 201 burn-in 200 smaller"),
        ([SET, "train.lr=0"], "train.lr 0.0 number 0"),
        ([SET, "train.lr=1e20"], "diverged nan train.lr"),
        ([SET, "train.final_lr=-1"], "train.final_lr -1.0 number 0"),
        ([SET, "train.last_epochs=-1"], "train.last_epochs -1 negative 0"),
        ([SET, "train.early=3"], "snapshot epoch 3 1 2"),
        ([SET, "train.snapshots=1,x"], "train.snapshots 'x' whole number"),
        ([SET, "train.schedule=constnt"], "train.schedule 'constnt' constant"),
        ([SET, "train.label_smoothing=1"], "train.label_smoothing 1.0 [0, 1) 0.1"),
        ([SET, "data.burnin=0"], "batch 20 burn-in 0 smaller"),
        ([SET, "data.monitor=0"], "split empty data.monitor 1"),
        ([SET, "data.stream=-1"], "data.stream -1 0"),
        (["--data", "cifar10", "--offline", "--data-dir", "."], "CIFAR-10 absent downloads off put"),
        (["--data", "cifar10", "--data-dir", "nodir"], "data directory nodir create"),
        (["--data", "npz:none.npz"], "file none.npz"),
        (["--data", "npz:"], "'npz:' file npz:PATH"),
        (["--out", "tiny.toml"], "tiny.toml File exists"),
        (["--out", "tiny.toml/run"], "tiny.toml/run Not a directory"),
        (["--out", "."], "holds other files checkpoints"),
        ([], f"{CHECKPOINT.parent} already resume"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_setting_of_a_burn_in(arguments: list[str], message: str, work: Path) -> None:
    kept = CHECKPOINT.read_bytes()
    place = [] if "--out" in arguments or not arguments else ["--out", "new"]
    says(refused(*BURNIN, *place, *arguments), message)
    assert CHECKPOINT.read_bytes() == kept
    assert not (work / "new" / "final.pt").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[stream\nsteps = 1", "c.toml not valid TOML"),
        ("\xff", "c.toml not valid TOML"),
        ("steps = 1", "section 'steps'"),
        ("stream = 1", "stream 1 not section stream.KEY VALUE"),
        ("[stream]\nsteps = 1.5", "stream.steps 1.5 type type int"),
        ("[trigger]\ntypes = 1", "trigger.types 1 list"),
        ("[trigger.types]\ncoast = 1", "trigger.types {'coast' 1} list"),
        ("[stream]\nquantise = 1", "stream.quantise 1 true false"),
        ("[attack]\nname = 5", "unknown attack '5'"),
        ("[data]\nname = 5", "data.name 5 type type str"),
        ("[attack]\neps = 1979-05-27", "attack.accumulative.eps number"),
        ("[stream]\nsteps = 1979-05-27", "stream.steps type type int"),
        ("[stream]\nsteps = inf", "stream.steps inf type"),
        ("[attack]\neps = nan", "attack.accumulative.eps nan number"),
        ('[data]\ndir = "a\\u0000b"', r"data.dir 'a\x00b'"),
        (f"a = {'[' * 3000}", "c.toml TOML 50"),
        (f"a = {'[' * 60}{']' * 60}", "c.toml TOML 50"),
        (f"[stream]\nsteps = {'7' * 5000}", "c.toml TOML Exceeds"),
        (f"[stream]\nsteps = 0x{'f' * 5000}", "c.toml TOML whole number 64"),
    ],
)
def test_a_configuration_file(text: str, message: str, work: Path) -> None:
    Path("c.toml").write_bytes(text.encode("latin-1"))
    says(refused("online", "--config", "c.toml"), message)


@pytest.mark.parametrize(
    "arguments",
    [
        ("burnin", "--config", "train.toml", "--quiet", "--out", "NAME"),
        ("burnin", "--resume", "NAME"),
        ("burnin", "--data", "npz:NAME"),
        ("burnin", "--data", "folder:NAME"),
        (*ONLINE, "--out", "NAME"),
        (*ONLINE, "--resume", "NAME"),
        (*ONLINE, "--checkpoint", "NAME"),
        (*ONLINE, "--reference", "NAME"),
        (*ONLINE, "--data-dir", "NAME"),
        (*ONLINE, "--config", "NAME"),
        (*ONLINE, "--replay", "NAME"),
        ("audit", "--run", "NAME"),
        ("audit", "shadow-replays", "--run", "NAME"),
        ("audit", "predictions", "NAME"),
        ("audit", "challenge", "NAME"),
        ("audit", "recency", "NAME"),
        ("sweep", "NAME"),
        ("report", "NAME"),
        ("report", ".", "--claims", "NAME"),
    ],
    ids=" ".join,
)
def test_a_name_that_is_too_long(arguments: tuple[str, ...], work: Path) -> None:
    for name in ("n" * 300, "/".join(["d" * 100] * 50)):
        refused(*(argument.replace("NAME", name) for argument in arguments))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(36, "File name too long", "x"), "x (File name too long) shorter"),
        (OSError(5, "Input/output error", "x"), "x (Input/output error)"),
        (RecursionError("maximum"), "tables lists flatter"),
        (MemoryError(), "memory smaller batches"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "memory smaller"),
        (UnicodeEncodeError("utf-8", "\udcff", 0, 1, "surrogates"), "not UTF-8"),
    ],
)
def test_what_the_system_refuses(error: Exception, message: str, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **more: object) -> None:
        raise error

    monkeypatch.setattr("accupoison.runs.online.build_simulation", fail)
    says(refused(*ONLINE), message)


def test_other_errors_are_bugs(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **more: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("accupoison.runs.online.build_simulation", fail)
    assert isinstance(call(*ONLINE).exception, RuntimeError)
