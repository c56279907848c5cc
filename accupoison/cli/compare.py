"""Defences side by side with their controls: ``compare``."""

import shlex
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from accupoison.cli.group import CHECKPOINTS, LOGS, PROGRAM, cli
from accupoison.cli.options import (
    PATH,
    WHOLE,
    data_options,
    data_place,
    engine_options,
    layers,
    model_options,
    numbers,
    options,
    release_option,
    settings_options,
    stream_options,
    update_options,
)
from accupoison.cli.output import curves_text, gather, note, progress_bar
from accupoison.cli.study import failures, show_plan
from accupoison.errors import InputError

if TYPE_CHECKING:
    from accupoison.config.layers import Layer
    from accupoison.config.schema import OnlineConfig
    from accupoison.runs.engines import Engine
    from accupoison.study.controls import RunSpec
    from accupoison.study.grid import Grid


replicates_options = options(
    click.option("--seeds", metavar="NUMBERS", default="0,1,2", show_default=True, help="Seeds of the streams."),
    click.option("--burnins", metavar="NUMBERS", default="0", show_default=True, help="Seeds of base models."),
    click.option("--recipe", metavar="NAME", help="How base models are trained that are missing (see list)."),
    click.option("--epochs", type=WHOLE, help="Passes over the burn-in images of base models that are missing."),
)
place_options = options(
    click.option("--out", type=PATH, help="Where the runs go.  [default: a directory in logs, named by the settings]"),
    click.option("--dry-run", is_flag=True, help="List base models and runs, and stop."),
    click.option("--quiet", "-q", is_flag=True, help="No progress bar."),
)


@cli.command()
@click.option(
    "--med",
    "--defense",
    metavar="NAMES",
    default="ST,OURS",
    show_default=True,
    help="Defences, such as ST,OURS,CLIP (see list).",
)
@replicates_options
@release_option
@stream_options
@data_options
@model_options
@update_options
@settings_options
@engine_options
@place_options
def compare(
    med: str,
    seeds: str,
    burnins: str,
    recipe: str | None,
    preset: str | None,
    out: Path | None,
    engine: "Engine",
    dry_run: bool,
    quiet: bool,
    **flags: Any,  # noqa: ANN401
) -> None:
    """Compare defences on the same poisoned streams, with controls.

    Trains the base models that are missing and runs every defence from each of them on every stream. Controls run
    beside them: standard training on the clean stream, noise of the same size in place of the poison, and FREEZE, which
    learns nothing. Prints a table, a verdict in one sentence and where the report is.

    What is finished is left alone: after an interruption the same command goes on, and one with another defence adds
    that.
    """
    from accupoison.study.report.formats import write_report
    from accupoison.study.report.other_audits import read_audited
    from accupoison.study.report.study import make_report
    from accupoison.study.verdict import verdict_text

    given, streams = layers(flags), numbers("--seeds", seeds)
    names = [name for name in med.replace(" ", "").split(",") if name]
    if not names:
        raise InputError("--med names no defence; give some with commas, such as ST,OURS,CLIP")

    def asked(settings: "OnlineConfig") -> dict[str, Any]:
        return {"name": settings.attack.name, "seeds": streams, "each": {"defense.name": names}}

    grid, logs = planned("compare", asked, numbers("--burnins", burnins), recipe, preset, given, out)
    if dry_run:
        show_plan(grid, trial=False)
        return
    failed = carry_out(grid, engine, quiet=quiet)
    made = [spec.out for spec in grid.runs if spec.out not in failed and spec.out.exists()]
    if not made:
        click.get_current_context().exit(1)
    runs, trigger = gather(made), grid.runs[0].config.trigger.types[-1]
    click.echo(verdict_text(runs, trigger))
    remake, audits = (PROGRAM, shlex.join(("report", str(logs), "--trigger", trigger))), read_audited([logs], note)
    made_report = make_report(runs, [logs], trigger=trigger, claims=[], commands=remake, say=note, audits=audits)
    files = write_report(made_report, logs, ("html", "md"))
    click.echo(f"\nreport: {files[0]}\n{curves_text(logs)}")
    click.get_current_context().exit(1 if failed else 0)


def carry_out(grid: "Grid", engine: "Engine", *, quiet: bool) -> dict[Path, Exception]:
    """Make what a grid lacks, say what it costs and what could not be made, and return that.

    Args:
        grid: What to do.
        engine: What does it.
        quiet: Without a progress bar.
    """
    from accupoison.study.cost import estimate
    from accupoison.study.grid import Grid
    from accupoison.study.sweep import run_grid

    with progress_bar("base models", hidden=quiet) as show:
        failed = run_grid(Grid(grid.burnins, ()), CHECKPOINTS, engine=engine, report=show)
    if not failed:
        todo = Grid((), grid.runs)
        note(f"{len(todo.runs)} runs; finding out how long they take")
        note(estimate(todo, CHECKPOINTS, trial=True, kinds=1))
        with progress_bar("runs", hidden=quiet) as show:
            failed = run_grid(todo, CHECKPOINTS, engine=engine, report=show)
    for sentence in failures(failed):
        note(sentence)
    return failed


def planned(
    command: str,
    asked: "Callable[[OnlineConfig], dict[str, Any]]",
    burnins: list[int],
    recipe: str | None,
    preset: str | None,
    given: "Sequence[Layer]",
    out: Path | None,
    *,
    beside: "Callable[[Sequence[RunSpec]], list[RunSpec]] | None" = None,
) -> "tuple[Grid, Path]":
    """Return what is to be done, and the directory of its runs: the first that is new or has the same settings.

    Args:
        command: The directory's name ends with it.
        asked: Returns the table of the runs, given the settings of one.
        burnins: Seeds of base models.
        recipe: Of the base models; None is the usual one.
        preset: Of the runs; None is the usual one.
        given: Settings over those.
        out: The directory, if not one named by the settings.
        beside: Returns the runs with those that are to be set beside them; None adds the usual controls.
    """
    from accupoison.config import layers as config
    from accupoison.config.schema import changes, online_config
    from accupoison.records.run_directory import RunDirectory
    from accupoison.runs.places import division_of, run_name
    from accupoison.study.grid import Grid, divided, read_grid

    say = cache(note)
    base = [data_place(), config.preset("online", preset or "fresh", say)]
    settings: OnlineConfig = online_config([*base, *divided(given)[1]], say)
    over = [data_place(), *given]
    if settings.start.checkpoint is not None:
        over = [data_place(), division_of(settings, CHECKPOINTS), *given]
        settings = online_config([*base, *divided(over)[1]], say)
    text = {
        "controls": beside is None,
        "burnin": {"preset": recipe or settings.start.recipe, "seeds": burnins},
        "online": {"preset": preset or "fresh"},
        "runs": [asked(settings)],
    }
    number, name = 1, run_name(settings, command).rpartition("-seed")[0]
    while True:
        logs = out or LOGS / (f"{name}-{number}" if number > 1 else name)
        grid = read_grid(text, CHECKPOINTS, logs, say, over)
        runs = grid.runs if beside is None else tuple(beside(grid.runs))
        grid = Grid(() if settings.start.checkpoint is not None else grid.burnins, runs)
        held = (spec for spec in grid.runs if RunDirectory.holds_run(spec.out))
        other = next((change for spec in held for change in changes(spec.config, spec.out)), None)
        if out is not None or other is None:
            return grid, logs
        note(f"{logs} has runs with another setting ({other}), so these go elsewhere")
        number += 1
