"""The main job: ``burnin`` and ``online``."""

import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import cache
from pathlib import Path
from typing import Any

import click

from accupoison.cli.group import CHECKPOINTS, LOGS, cli, command_line
from accupoison.cli.options import (
    PATH,
    WHOLE,
    data_options,
    data_place,
    layers,
    model_options,
    output_options,
    release_option,
    run_options,
    stream_options,
    training_options,
    update_options,
)
from accupoison.cli.output import (
    STOPPING,
    curves_text,
    json_text,
    note,
    online_text,
    percent,
    progress_bar,
    suspects_text,
)
from accupoison.errors import InputError
from accupoison.runs.interrupt import Interruption, StopRequest, exit_code, interruptible

MARKS = {"burnin": "train", "online": "stream"}
"""A section that only the settings of this command have."""


@cli.command()
@click.option(
    "--recipe",
    metavar="NAME",
    help="All settings of a training: online_ready (default), one_cycle, step_down, released, pang, ... (see list).",
)
@data_options
@model_options
@click.option("--epochs", type=WHOLE, help="Passes over the burn-in images.")
@training_options
@update_options
@run_options
@output_options
@click.pass_context
def burnin(
    ctx: click.Context,
    /,
    recipe: str | None,
    out: Path | None,
    resume: Path | None,
    resume_or_start: bool,
    dry_run: bool,
    quiet: bool,
    as_json: bool,
    **flags: Any,  # noqa: ANN401
) -> None:
    """Train the base model that the stream starts from.

    Writes the directory checkpoints/DATA-MODEL-WIDTH-NORM-RECIPE-SEED (with the epochs, where they are not the
    recipe's): final.pt is the base model, early.pt the early snapshot that OURS compares with. Ctrl-C saves; --resume
    goes on.

    With --attack the training set is poisoned, and ledger.npz says which samples are; then audit --run DIRECTORY says
    who can be recognised as a member.
    """
    from accupoison.config import layers as configuration
    from accupoison.config.schema import burnin_config
    from accupoison.records.run_directory import RunDirectory
    from accupoison.runs.burnin import run_burnin
    from accupoison.runs.places import default_place

    say = cache(note)
    _check_place(out, resume, resume_or_start)
    base = _base("burnin", recipe, "online_ready", resume, say)
    settings = burnin_config([*base, *layers(flags)], say)
    if dry_run:
        click.echo(json_text(configuration.plain(settings)))
        return
    s = settings
    place = default_place(CHECKPOINTS, s.data.name, s.model, s.train.recipe, s.run.seed, s.parties, s.train.epochs)
    target = resume or out or place
    again = resume is not None or (resume_or_start and RunDirectory.holds_run(target))
    hint = "the same command" if resume_or_start else command_line("burnin", "--resume", target)
    with _stoppable(ctx, hint, target) as asked, progress_bar("burn-in", hidden=quiet or as_json) as show:
        show(0, 1, "loading data")
        summary = run_burnin(settings, target, resume=again, progress=show, should_stop=asked)
    with _said_or_not(asked):
        if as_json:
            click.echo(json_text({"run": str(target), **summary}))
        elif summary["status"] == "finished":
            epochs = f"{summary['epochs']} epoch{'s' * (summary['epochs'] != 1)}"
            reached = f"test accuracy {percent(summary['test_acc'])} after {epochs}"
            click.echo(f"{reached}; wrote {target}/final.pt")
            if "suspects" in summary:
                click.echo(suspects_text(summary["suspects"]))
            _note(summary["note"])
    _end(ctx, summary["status"], hint, asked)


@cli.command()
@click.option(
    "--med",
    "--defense",
    metavar="NAME",
    help="The defence: ST (none, default), AT, TRADES, CLIP, FREEZE, OURS, ... (see list), or package.module:CLASS.",
)
@release_option
@stream_options
@click.option("--save-batches", is_flag=True, default=None, help="Keep what the attacker sends, for --replay.")
@click.option(
    "--detectors",
    metavar="NAMES",
    help="Detectors to compare the discrepancy of OURS with, with commas: kd, lid, gda, gmm, loss (see list).",
)
@click.option("--replay", type=PATH, metavar="RUN", help="Send the batches that RUN has kept, with its settings.")
@data_options
@model_options
@update_options
@run_options
@output_options
@click.pass_context
def online(
    ctx: click.Context,
    /,
    preset: str | None,
    replay: Path | None,
    out: Path | None,
    resume: Path | None,
    resume_or_start: bool,
    dry_run: bool,
    quiet: bool,
    as_json: bool,
    **flags: Any,  # noqa: ANN401
) -> None:
    """Run one poisoned stream against a defence.

    Without options: accumulative poisoning of CIFAR-10 against standard training (ST), from the base model that burnin
    makes without options. Batches are poisoned and learnt one by one; then the trigger arrives, and clean batches after
    it. Prints test accuracy at the start, before and after the trigger and at the end, with a verdict, and writes a
    directory in logs/, which tensorboard, report and audit read. Ctrl-C saves; --resume goes on.
    """
    from accupoison.config.schema import online_config
    from accupoison.records.lock import TakenError
    from accupoison.records.run_directory import RunDirectory, next_free
    from accupoison.runs.online import OnlineRun, describe
    from accupoison.runs.places import division_of, run_name

    say = cache(note)
    _check_place(out, resume, resume_or_start)
    base = _base("online", preset, "fresh", resume, say) if replay is None else _replayed(replay, preset, resume, say)
    typed, given = flags["med"], layers(flags)
    settings = online_config([*base, *given], say)
    if resume is None and replay is None:
        settings = online_config([*base, division_of(settings, CHECKPOINTS), *given], say)
    if dry_run:
        click.echo(json_text(describe(settings)))
        return
    place = LOGS / run_name(settings, typed)
    while True:
        target = resume or out or (place if resume_or_start else next_free(place))
        again = resume is not None or (resume_or_start and RunDirectory.holds_run(target))
        hint = "the same command" if resume_or_start else command_line("online", "--resume", target)
        try:
            label = typed or settings.defense.name
            with _stoppable(ctx, hint, target) as asked, progress_bar(label, hidden=quiet or as_json) as show:
                show(0, 1, "loading data and base model")
                run = OnlineRun(settings, CHECKPOINTS, target, resume=again)
                summary = run.run(show, asked)
            break
        except TakenError:
            if resume_or_start or target in (resume, out):
                raise  # else another process took the name in the meantime
    with _said_or_not(asked):
        if as_json:
            click.echo(json_text({"run": str(target), **summary}))
        else:
            click.echo(f"{online_text(summary)}\n{summary['verdict']}")
            click.echo(f"wrote {target}\n{curves_text(target.parent)}")
            _note(run.note)
    _end(ctx, summary["status"], hint, asked)


def _note(text: str) -> None:
    if text:
        note(f"note: {text}")


def _base(
    command: str, name: str | None, usual: str, resume: Path | None, say: Callable[[str], None] = note
) -> list[dict[str, Any]]:
    """Return the layers that the options change: a preset, or the settings that a run was started with."""
    from accupoison.config import layers as config
    from accupoison.config.renamed import with_new_names
    from accupoison.records.files import read_json
    from accupoison.records.run_directory import CONFIG, RunDirectory

    if resume is None:
        return [data_place(), config.preset(command, name or usual, say)]
    if not RunDirectory.holds_run(resume):
        raise InputError(f"there is no run in {resume}; check the path, or start one without --resume")
    stored = with_new_names(read_json(resume / CONFIG))
    other = "burnin" if command == "online" else "online"
    if MARKS[other] in stored and MARKS[command] not in stored:
        raise InputError(f"{resume} was started by {other}; resume it with", other, {"resume": resume})
    return [stored, *([] if name is None else [config.preset(command, name, say)])]


def _replayed(run: Path, name: str | None, resume: Path | None, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Return the layers that a replay's options change: the settings of the run whose batches are sent again."""
    from accupoison.config import layers as config
    from accupoison.runs.replay import replay_layer

    if resume is not None:
        raise InputError(
            f"--replay {run} and --resume {resume} exclude each other; a resumed run knows what it replays"
        )
    return [replay_layer(run), *([] if name is None else [config.preset("online", name, say)])]


def _check_place(out: Path | None, resume: Path | None, resume_or_start: bool) -> None:
    if out is not None and resume is not None:
        raise InputError(f"--out {out} and --resume {resume} exclude each other; a resumed run stays where it is")
    if resume is not None and resume_or_start:
        raise InputError(f"--resume {resume} and --resume-or-start exclude each other; name the directory with --out")


@contextmanager
def _stoppable(ctx: click.Context, hint: str, target: Path) -> Iterator[StopRequest]:
    """Give a request that the first signal makes; at the second the command ends and says how to go on."""
    from accupoison.records.run_directory import RunDirectory

    try:
        with interruptible(STOPPING) as asked:
            yield asked
    except KeyboardInterrupt as error:
        if not RunDirectory.holds_run(target):  # nothing to go on with yet
            raise
        with suppress(OSError):
            click.echo(f"stopped at once; go on from the last save with: {hint}", err=True)
        ctx.exit(exit_code(error))


def _said_or_not(asked: StopRequest) -> AbstractContextManager[None]:
    """Let nothing depend on the terminal where a signal has asked to stop: it may be what has gone."""
    return suppress(OSError) if asked() else nullcontext()


def _end(ctx: click.Context, status: str, hint: str, asked: StopRequest) -> None:
    if status == "interrupted":
        with suppress(OSError):
            click.echo(f"interrupted and saved; go on with: {hint}", err=True)
        ctx.exit(exit_code(Interruption(asked.number or signal.SIGINT)))
