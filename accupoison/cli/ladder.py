"""A defence against attackers who know more and more of it: ``ladder``."""

import shlex
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from accupoison.cli.compare import carry_out, place_options, planned, replicates_options
from accupoison.cli.group import PROGRAM, cli
from accupoison.cli.options import (
    data_options,
    engine_options,
    layers,
    model_options,
    numbers,
    protocol_options,
    settings_options,
    update_options,
)
from accupoison.cli.output import gather
from accupoison.cli.study import show_plan
from accupoison.errors import InputError

if TYPE_CHECKING:
    from accupoison.config.schema import OnlineConfig
    from accupoison.runs.engines import Engine


@cli.command()
@click.option(
    "--med",
    "--defense",
    metavar="NAME",
    default="OURS",
    show_default=True,
    help="The defence (see list), or package.module:CLASS.",
)
@replicates_options
@click.option(
    "--floor", metavar="KIND", default="shift:blur", show_default=True, help="The clean stream that it has to learn on."
)
@protocol_options
@data_options
@model_options
@update_options
@settings_options
@engine_options
@place_options
def ladder(
    med: str,
    seeds: str,
    burnins: str,
    recipe: str | None,
    floor: str,
    preset: str | None,
    out: Path | None,
    engine: "Engine",
    dry_run: bool,
    quiet: bool,
    **flags: Any,  # noqa: ANN401
) -> None:
    """Say at which of ever better informed attackers a defence falls.

    Runs the defence against every attack that stands on the ladder, from one unaware of it (A-unaware) upward, beside
    its own controls: the clean stream, a step without a batch, noise of the same size. On a clean stream that shifts it
    has to learn more than FREEZE, which learns nothing. A defence of your own goes up the same ladder by
    package.module:CLASS. What is finished already is left alone.
    """
    from accupoison.data.stream import STREAMS
    from accupoison.study.ladder import beside, ladder_text, rungs

    streams, kind, names = numbers("--seeds", seeds), STREAMS.canonical(floor), list(rungs())
    given = layers({**flags, "med": med})

    def asked(settings: "OnlineConfig") -> dict[str, Any]:
        if settings.trigger.types[-1] == "none":
            raise InputError(
                "<trigger.types> ends with none and the ladder measures harm after a trigger; end it with clean"
            )
        return {"name": settings.defense.name, "seeds": streams, "each": {"attack.name": names}}

    with_others = partial(beside, shift=kind)
    grid, logs = planned("ladder", asked, numbers("--burnins", burnins), recipe, preset, given, out, beside=with_others)
    if dry_run:
        show_plan(grid, trial=False)
        return
    failed = carry_out(grid, engine, quiet=quiet)
    made = [spec.out for spec in grid.runs if spec.out not in failed and spec.out.exists()]
    if made:
        click.echo(ladder_text(gather(made), grid.runs[0].config.trigger.types[-1], kind))
        click.echo(f"\nruns: {logs}; tables and figures: {PROGRAM} report {shlex.quote(str(logs))}")
    click.get_current_context().exit(1 if failed else 0)
