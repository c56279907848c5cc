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
        (["--eps", "-1"], r"attack.eps -1.0 is outside \[0, 1\]; give a radius"),
        (["--eps", "2"], r"attack.eps 2.0 is outside \[0, 1\]; give a radius"),
        (["--eps", "8/0"], r"attack.accumulative.eps = '8/0' divides by zero; write a fraction such as 8/255"),
        (["--eps", "abc"], r"attack.accumulative.eps = 'abc' is not a number; write one such as"),
        (["--eps", "nan"], r"attack.accumulative.eps = 'nan' is not a number; write one such as"),
        (["--steps", "-1"], r"-1 steps and 1 after the trigger: neither may be negative"),
        (["--recovery-steps", "-2"], r"stream.recovery_steps -2 is negative"),
        (["--steps", "ten"], r"Invalid value for '--steps': 'ten' is not a valid integer"),
        ([SET, "attack.steps=0"], r"attack.steps 0 is below 1; give the number of gradient steps"),
        ([SET, "run.save_every=0"], r"run.save_every 0 is below 1; give a number of steps"),
        ([SET, "optim.lr=0"], r"optim.lr 0.0 is not a number above 0; give a learning rate such as 0.1"),
        ([SET, "optim.lr=-0.1"], r"optim.lr -0.1 is not a number above 0; give a learning rate"),
        ([SET, "optim.lr=inf"], r"optim.lr inf is not a number above 0; give a learning rate"),
        ([SET, "optim.momentum=1"], r"optim.momentum 1.0 is outside \[0, 1\); 0.9 is usual"),
        ([SET, "optim.weight_decay=inf"], r"optim.weight_decay inf is not a number of 0 or more"),
        (["--clip-norm", "0"], r"update.clip_norm 0.0 is not above 0; give a gradient norm such as 1.0"),
        ([SET, "update.clip_kind=l1"], r"unknown gradient norm 'l1'; did you mean l2\?"),
        (["--med", "OUR"], r"unknown defence 'OUR'; did you mean ours\?"),
        (["--med", "TRADE"], r"unknown defence 'TRADE'; did you mean trades\?"),
        (["--attack", "acumulative"], r"unknown attack 'acumulative'; did you mean accumulative\?"),
        (["--trigger", "coats"], r"unknown trigger 'coats'; did you mean coast\?"),
        (["--trigger", "coast,clean,coast"], r"trigger.types 'coast,clean,coast' is not a list of different names"),
        (["--trigger", ""], r"trigger.types '' is not a list of different names"),
        (["--trigger", "optimised,adversarial"], r"the optimised trigger .* needs a run of its own"),
        (["--stream", "idd"], r"unknown stream.kind 'idd'; did you mean iid\?"),
        (["--stream", "shift:blurr"], r"unknown stream.kind 'shift:blurr'; did you mean shift:blur\?"),
        (["--model", "resnt8"], r"unknown model 'resnt8'; did you mean resnet8\?"),
        (["--norm", "bach"], r"unknown norm 'bach'; did you mean batch\?"),
        (["--width", "0"], r"model.width 0 is below 1; give a number of channels"),
        (["--preset", "frehs"], r"unknown online preset 'frehs'; did you mean fresh\?"),
        (["--device", "cdua"], r"unknown device 'cdua'; did you mean cuda\?"),
        (["--device", "cuda:99"], r"device 'cuda:99' is not on this machine; give --device auto"),
        (["--data", "digitz"], r"unknown data set 'digitz'; did you mean digits\?"),
        (["--bn-mode", "trian"], r"unknown optim.bn_mode 'trian'; choose train or eval"),
        ([SET, "stream.augment=bfore"], r"unknown stream.augment 'bfore'; did you mean before\?"),
        ([SET, "data.splits=released_splt"], r"unknown data.splits 'released_splt'; did you mean released_split\?"),
        ([SET, "evaluate.images=-1"], r"evaluate.images -1 is negative; give the number of images, or 0"),
        ([SET, "evaluate.test=mark"], r"unknown evaluate.test 'mark'; choose milestones or every"),
        ([SET, "stop.error_rise=lots"], r"stop.error_rise = 'lots' is not a number"),
        ([SET, "stream.stepz=3"], r"unknown setting stream.stepz; did you mean steps\?"),
        ([SET, "strem.steps=3"], r"unknown section 'strem'; did you mean stream\?"),
        ([SET, "defense.AT.stepz=3"], r"unknown setting defense.AT.stepz; did you mean steps\?"),
        ([SET, "stream.steps"], r"--set 'stream.steps' is not of the form section.key=value"),
        ([SET, "steps=3"], r"--set 'steps=3' is not of the form section.key=value"),
        ([SET, "a.b.c.d=3"], r"--set 'a.b.c.d=3' is not of the form section.key=value"),
        ([SET, "attack.eps=1", SET, "attack.eps.x=1"], r"--set 'attack.eps.x=1' takes eps for a table .*; drop one"),
        ([SET, "attack.eps.x=1", SET, "attack.eps=1"], r"--set 'attack.eps=1' gives a value to eps.*; drop one"),
        (["--eps", "٨/٢٥٥"], r"attack.accumulative.eps = '٨/٢٥٥' is not a number; write one such as"),
        (["--eps", "０.1"], r"attack.accumulative.eps = '０.1' is not a number; write one such as"),
        (["--eps", "1_0/255"], r"attack.accumulative.eps = '1_0/255' is not a number; write one such as"),
        (["--steps", "٣"], r"Invalid value for '--steps': '٣' is not a valid integer"),
        (["--steps", "1_0"], r"Invalid value for '--steps': '1_0' is not a valid integer"),
        ([SET, "stream.steps=٣"], r"stream.steps = '٣' is not a whole number; write one such as 10"),
        (["--width", "9223372036854775808"], r"Invalid value for '--width': 9223372036854775808 has more than 64 bits"),
        ([SET, "model.width=9223372036854775808"], r"model.width = 9223372036854775808 has more than 64 bits; write"),
        ([SET, f"model.width={'1' * 5000}"], r"model.width = 1+ \.\.\. 1+ has more than 64 bits"),
        (["--seed", "-1"], r"Invalid value for '--seed': -1 is not in the range x>=0"),
        ([SET, "run.seed=-1"], r"run.seed -1 is negative; give 0 or more"),
        ([SET, "data.split_seed=-1"], r"data.split_seed -1 is negative; give 0 or more"),
        ([SET, "start.seed=-1"], r"start.seed -1 is negative; give 0 or more"),
        (["--device", "cpu:"], r"unknown device 'cpu:'; choose auto, cpu, cuda, cuda:N or mps"),
        (["--device", "cpu:²"], r"unknown device 'cpu:²'; choose auto, cpu, cuda, cuda:N or mps"),
        (["--device", "auto:0"], r"unknown device 'auto:0'; choose auto"),
        ([SET, "optim.lr=1e308"], r"optim.lr 1e\+308 is too large; give a learning rate such as 0.1"),
        ([SET, "data.name=npz:a\0b"], r"the argument 'data.name=npz:a\\x00b' is no text in UTF-8; rename the file"),
        (["--out", "\udcff"], r"the argument '\\udcff' is no text in UTF-8; rename the file or write another word"),
        (["--config", "none.toml"], r"cannot read the configuration none.toml: No such file or directory; check"),
        (["--out", "x", "--resume", "y"], r"--out x and --resume y exclude each other"),
        (["--resume", "nowhere"], r"there is no run in nowhere; check the path, or start one there"),
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
        (["--epochs", "0"], r"train.epochs 0 is below 1; give a positive whole number"),
        (["--recipe", "onlin_ready"], r"unknown burnin preset 'onlin_ready'; did you mean online_ready\?"),
        (["--model", "resnet81"], r"unknown model 'resnet81'; did you mean resnet8\?"),
        (["--model", "nobody:net"], r"model 'nobody:net' cannot be imported \(.*No module named 'nobody'\)"),
        (["--model", ":net"], r"model ':net' cannot be imported"),
        (["--model", "math:nothing"], r"model 'math:nothing' cannot be imported"),
        (["--model", "os:getcwd"], r"model 'os:getcwd' failed when called with num_classes=10 .*; it must take this"),
        (
            ["--width", "999999999999"],
            r"a resnet8 of width 999999999999 does not fit into memory; give a smaller width",
        ),
        (["--seed", "9223372036854775808"], r"Invalid value for '--seed': 9223372036854775808 has more than 64 bits"),
        ([SET, "train.nesterov=true", SET, "train.momentum=0"], r"train.nesterov is set and train.momentum is 0; give"),
        ([SET, "train.epochs=10000000"], r"train.epochs 10000000 is above 1000000; give a smaller number"),
        ([SET, "train.batch_size=201"], r"a batch of 201 images is larger than the burn-in part of 200; use a smaller"),
        ([SET, "train.lr=0"], r"train.lr 0.0 is not a number above 0; give a learning rate"),
        ([SET, "train.lr=1e20"], r"the burn-in diverged \(loss nan at step \d\); use a lower train.lr"),
        ([SET, "train.final_lr=-1"], r"train.final_lr -1.0 is not a number above 0; give a learning rate"),
        ([SET, "train.last_epochs=-1"], r"train.last_epochs -1 is negative; give 0 or more"),
        ([SET, "train.early=3"], r"snapshot epoch 3 is outside 1 to 2, the epochs of this burn-in"),
        ([SET, "train.snapshots=1,x"], r"train.snapshots = 'x' is not a whole number"),
        ([SET, "train.schedule=constnt"], r"unknown train.schedule 'constnt'; did you mean constant\?"),
        ([SET, "train.label_smoothing=1"], r"train.label_smoothing 1.0 is outside \[0, 1\); 0.1 is usual"),
        ([SET, "data.burnin=0"], r"a batch of 20 images is larger than the burn-in part of 0; use a smaller"),
        ([SET, "data.monitor=0"], r"the monitor split is empty .*; give data.monitor 1 or more"),
        ([SET, "data.stream=-1"], r"the size of the stream split is -1; give 0 or more"),
        (["--data", "cifar10", "--offline", "--data-dir", "."], r"CIFAR-10 in .* is absent .* downloads are off; put"),
        (
            ["--data", "cifar10", "--data-dir", "nodir"],
            r"the data directory nodir does not exist; create it or correct",
        ),
        (["--data", "npz:none.npz"], r"there is no file none.npz; check the path"),
        (["--data", "npz:"], r"data set 'npz:' names no file; write npz:PATH"),
        (
            ["--out", "tiny.toml"],
            r"cannot write tiny.toml \(File exists\); free space there or choose another directory",
        ),
        (["--out", "tiny.toml/run"], r"cannot write tiny.toml/run \(Not a directory\)"),
        (["--out", "."], r". holds other files, such as checkpoints; choose another name for the run"),
        ([], rf"{CHECKPOINT.parent} already holds a run; continue it with --resume or choose another name"),
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
        ("[stream\nsteps = 1", r"c.toml is not valid TOML: "),
        ("\xff", r"c.toml is not valid TOML: "),
        ("steps = 1", r"unknown section 'steps'; did you mean stop\?|unknown section 'steps'"),
        ("stream = 1", r"stream = 1 is not a section; write stream.KEY = VALUE"),
        ("[stream]\nsteps = 1.5", r"stream.steps = 1.5 has the wrong type; it takes a value of type int"),
        ("[trigger]\ntypes = 1", r"trigger.types = 1 is not a list; write several values with commas"),
        ("[trigger.types]\ncoast = 1", r"trigger.types = {'coast': 1} is not a list"),
        ("[stream]\nquantise = 1", r"stream.quantise = 1 is neither true nor false; write one of these"),
        ("[attack]\nname = 5", r"unknown attack '5'"),
        ("[data]\nname = 5", r"data.name = 5 has the wrong type; it takes a value of type str"),
        ("[attack]\neps = 1979-05-27", r"attack.accumulative.eps = .* is not a number"),
        ("[stream]\nsteps = 1979-05-27", r"stream.steps = .* has the wrong type; it takes a value of type int"),
        ("[stream]\nsteps = inf", r"stream.steps = inf has the wrong type"),
        ("[attack]\neps = nan", r"attack.accumulative.eps = nan is not a number"),
        ('[data]\ndir = "a\\u0000b"', r"data.dir = 'a\\x00b' has characters that no name can have; write it without"),
        (f"a = {'[' * 3000}", r"c.toml is not usable TOML: more than 50 tables or lists in each other"),
        (f"a = {'[' * 60}{']' * 60}", r"c.toml is not valid TOML: more than 50 tables or lists in each other"),
        (f"[stream]\nsteps = {'7' * 5000}", r"c.toml is not valid TOML: Exceeds the limit"),
        (f"[stream]\nsteps = 0x{'f' * 5000}", r"c.toml is not valid TOML: a whole number of more than 64 bits"),
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
