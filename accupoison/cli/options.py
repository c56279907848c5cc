"""Options that several commands share, and how they become a layer of settings."""

import re
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast

import click

from accupoison.cli.group import LOGS
from accupoison.cli.output import note
from accupoison.config.flags import FLAGS as FLAGS
from accupoison.config.flags import data_place as data_place
from accupoison.config.flags import layers as layers
from accupoison.errors import InputError
from accupoison.records.files import INT64

F = TypeVar("F", bound=Callable[..., Any])

PATH = click.Path(path_type=Path)


class Whole(click.types.IntParamType):
    """A whole number of 64 bits in ordinary digits: Python alone takes any number, in digits of all scripts."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401
        """Return the number, or say why it is none.

        Args:
            value: What was typed.
            param: Of which option.
            ctx: Of which command.
        """
        if isinstance(value, str):
            if not re.fullmatch("[+-]?[0-9]+", value.strip()):
                self.fail(f"{value!r} is not a valid integer.", param, ctx)
            if len(value.strip()) > 20 or not INT64[0] <= int(value) <= INT64[1]:
                self.fail(f"{value} has more than 64 bits; give a smaller number", param, ctx)
        return super().convert(value, param, ctx)


class WholeRange(Whole, click.IntRange):
    """The same within bounds."""


WHOLE = Whole()
FROM_ZERO = WholeRange(0)
JOBS = WholeRange(1, 1024)


def option_names() -> dict[str, str]:
    """Return the option of each setting ("section.key") that has one."""
    flags = {f"{section}.{key}": f"--{flag.replace('_', '-')}" for flag, (section, key) in FLAGS.items()}
    return {**flags, "stream.replay": "--replay"}


def options(*decorators: Callable[[F], F]) -> Callable[[F], F]:
    """Return one decorator that applies several, the first on top."""

    def apply(function: F) -> F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


class _RenamedOption(click.Option):
    """An option under its old name, which hands its value to the new one."""

    def __init__(self, names: Sequence[str], new: str, **settings: Any) -> None:  # noqa: ANN401
        super().__init__(names, expose_value=False, hidden=True, is_eager=True, **settings)
        self.new = new

    def handle_parse_result(self, ctx: click.Context, opts: Any, args: list[str]) -> tuple[Any, list[str]]:  # noqa: ANN401
        """Move the value before the new option looks for its own, which wins."""
        if self.name in opts:
            note(f"{self.opts[0]} is now called {self.new}")
            name = next(param.name for param in ctx.command.params if self.new in param.opts)
            opts.setdefault(name, opts.pop(self.name))
        return None, args


def renamed_option(old: str, new: str, **settings: Any) -> Callable[[F], F]:  # noqa: ANN401
    """Return a decorator that lets an option answer to the name that it had before, too.

    The old name is not in the help, and says the new one on standard error.

    Args:
        old: The old name, such as "--victims".
        new: The new one, of another option of the same command.
        settings: What tells the parser how to read it, where the new one has that: ``is_flag``, ``multiple``.
    """
    return click.option(old, cls=_RenamedOption, new=new, **settings)


def numbers(option: str, text: str) -> list[int]:
    """Return the whole numbers in the value of an option.

    Raises:
        InputError: It has something else.
    """
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise InputError(f"{option} {text!r} is not a list of whole numbers such as 0,1,2; write one") from None


data_options = options(
    click.option(
        "--data",
        metavar="NAME",
        help="The data set: cifar10 (default), cifar100, mnist, digits, npz:PATH, folder:PATH, ... (see list).",
    ),
    click.option("--data-dir", type=PATH, help="Where the data files are or go.  [default: ACCUPOISON_DATA, or data]"),
    click.option("--offline", is_flag=True, default=None, help="Never download data."),
)

model_options = options(
    click.option(
        "--model",
        metavar="NAME",
        help="The network: resnet18 (default), vgg16, ... (see list), or package.module:factory.",
    ),
    click.option("--width", type=WHOLE, help="Channels of the first stage (wrn28-10: a tenth).  [default: 64]"),
    click.option("--norm", metavar="NAME", help="Normalisation: batch (default), group, group:N or auxiliary."),
)

release_option = click.option(
    "--release",
    metavar="SPEC",
    help="What the model answers in place of its probabilities, such as round:2, top-k:3, label-only or "
    "memguard:budget=1 (see list).  [default: identity]",
)

protocol_options = options(
    click.option("--eps", metavar="EPS", help="How far each pixel may move (l_inf), such as 8/255.  [default: 16/255]"),
    click.option(
        "--trigger",
        metavar="NAMES",
        help="What arrives after these batches: none, coast (a step without a batch, the control), clean, adversarial "
        "or optimised (see list). Several, with commas, start from the same state; the verdict is about the last.  "
        "[default: coast,adversarial]",
    ),
    click.option(
        "--stream",
        metavar="KIND",
        help="How batches are drawn: iid (default), cycling, released_stream or shift:NAME (see list).",
    ),
    click.option("--steps", type=WHOLE, help="Batches before the trigger.  [default: 10]"),
    click.option("--recovery-steps", type=WHOLE, help="Clean batches after the trigger.  [default: 5]"),
    renamed_option("--after", "--recovery-steps"),
    renamed_option("--early", "--reference"),
    renamed_option("--update-mode", "--bn-mode"),
    click.option("--bn-mode", metavar="MODE", help="Batch norm in an update: train (default) or eval."),
    click.option("--clip-norm", metavar="NORM", help="Clip each gradient at this l2 norm, whatever the defence."),
    click.option(
        "--checkpoint",
        "--weights",
        type=PATH,
        help="The base model, if not that in the default place: what burnin has written, or a state dict of your own "
        "with --model, --width, --norm and --set optim.lr=RATE.",
    ),
    click.option("--reference", type=PATH, help="The early snapshot of OURS, if not early.pt beside the base model."),
    click.option("--preset", metavar="NAME", help="All settings of a protocol: fresh (default), released or pang."),
    click.option(
        "--audit-every", type=WHOLE, metavar="K", help="Measure every K steps how well the loss tells members."
    ),
)

stream_options = options(
    click.option(
        "--attack",
        metavar="NAME",
        help="How the batches before the trigger are poisoned: accumulative (default), noise, targeted, none, ... (see "
        "list), or package.module:CLASS.",
    ),
    protocol_options,
)

training_options = options(
    click.option(
        "--attack",
        metavar="NAME",
        help="Poison the training set: none (default), dirty-label, targeted, clean-label, code or backdoor.",
    ),
    click.option(
        "--med",
        "--defense",
        metavar="NAME",
        help="The defence: ST (default), MIXUP, NLL-STATIC, NLL-DYNAMIC, AT, ..., or package.module:CLASS.",
    ),
)

update_options = options(
    click.option(
        "--update",
        metavar="NAME",
        help="The update rule: sgd (default), or dpsgd, differentially private, with --norm group.",
    ),
    click.option("--noise-multiplier", metavar="SIGMA", help="Noise of dpsgd, in --max-grad-norm.  [default: 1]"),
    click.option("--max-grad-norm", metavar="NORM", help="Where dpsgd clips each sample's gradient.  [default: 1]"),
)

settings_options = options(
    click.option(
        "--device",
        metavar="NAME",
        help="Where to compute: auto (default; ACCUPOISON_DEVICE may name it), cpu, cuda, cuda:N or mps.",
    ),
    click.option(
        "--config",
        "file",
        type=PATH,
        metavar="FILE",
        help="Settings in TOML, by section, or a run, whose settings are taken.",
    ),
    click.option(
        "--set",
        "pairs",
        multiple=True,
        metavar="SECTION.KEY=VALUE",
        help="Any setting (docs/settings.md); repeatable.",
    ),
)

common_options = options(
    click.option("--seed", type=FROM_ZERO, help="Seed of all randomness.  [default: 0]"),
    settings_options,
    click.option("--dry-run", is_flag=True, help="Check the settings, print them resolved, and stop."),
)

run_options = options(
    click.option("--out", type=PATH, help="The directory to write; it must be new."),
    click.option("--resume", type=PATH, metavar="DIR", help="Go on with the run in DIR, bit for bit."),
    click.option(
        "--resume-or-start",
        is_flag=True,
        help="Go on with the run in --out, or in the default place, if there is one, else start it: for clusters that "
        "restart jobs by the same command.",
    ),
    common_options,
)

ENGINE = ("jobs", "engine", "address", "gpus_per_run", "cpus_per_run")


def engine_options(function: F) -> F:
    """Return a command with the options that say where tasks are carried out; it gets an ``engine`` made of them."""

    @wraps(function)
    def command(*arguments: Any, **given: Any) -> object:  # noqa: ANN401
        from accupoison.runs.engines import engine  # here, as torch takes seconds to load

        jobs, name, address, gpus, cpus = (given.pop(option) for option in ENGINE)
        folder = LOGS / "slurm"
        made = engine(name, jobs=jobs, cpus=cpus, gpus=gpus, address=address, folder=folder, say=note)
        return function(*arguments, engine=made, **given)

    return options(
        click.option(
            "--jobs", "-j", type=JOBS, help="Tasks at once.  [default: 1; as many as fit on a GPU or a cluster]"
        ),
        click.option(
            "--engine",
            type=click.Choice(["local", "ray", "slurm"]),
            default="local",
            show_default=True,
            help="Processes of this machine, tasks of Ray, or a Slurm job array: see docs/scale.md.",
        ),
        click.option("--address", metavar="HOST", help="Ray's head, or auto.  [default: a Ray of this machine]"),
        click.option(
            "--gpus-per-run", type=click.FloatRange(0, 1024), help="GPUs of a task of a cluster.  [default: 0]"
        ),
        click.option("--cpus-per-run", type=JOBS, help="Cores of a task.  [default: 1; here a share of them all]"),
    )(cast(F, command))


output_options = options(
    click.option("--quiet", "-q", is_flag=True, help="No progress bar."),
    click.option("--json", "as_json", is_flag=True, help="Print the result as JSON and nothing else."),
)
