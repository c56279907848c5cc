"""What an answer gives away: ``audit releases``."""

from functools import cache
from pathlib import Path
from typing import Any

import click

from accupoison.cli.audit import audit
from accupoison.cli.group import LOGS
from accupoison.cli.options import (
    JOBS,
    PATH,
    WHOLE,
    common_options,
    data_options,
    data_place,
    layers,
    model_options,
    output_options,
)
from accupoison.cli.output import json_text, note, percent, progress_bar, table


@audit.command()
@click.option(
    "--preset",
    "chosen",
    metavar="NAME",
    help="location30 (the pipeline of DefenMI) or cifar10 (small).  [default: no preset]",
)
@click.option("--stage", metavar="NAME", help="user, defense, shadow or attack, that one alone.  [default: all]")
@data_options
@model_options
@click.option("--epochs", type=WHOLE, help="Passes of the user's model and of the shadow.")
@common_options
@click.option("--out", type=PATH, help="The directory to write, or to go on with.  [default: logs/releases-...]")
@click.option("--jobs", "-j", type=JOBS, default=1, show_default=True, help="Processes at once.")
@output_options
def releases(
    chosen: str | None,
    stage: str | None,
    out: Path | None,
    jobs: int,
    dry_run: bool,
    quiet: bool,
    as_json: bool,
    **flags: Any,  # noqa: ANN401
) -> None:
    """Judge what leaves a model, against three attackers.

    What leaves it: MemGuard, DefenMI, rounding and others.
    Four stages: the user's models; the defences, fitted to them; the attacker's shadow models; the attacks, by an
    attacker who is unaware of the release, by one whose shadows answer through it, too, and by one who sees labels
    alone. Models trained with DP-SGD stand beside. Interrupt it at will: the same command goes on. Exit code 1 if a
    label was changed. Writes releases.json, releases.csv, releases.md and releases.png.
    """
    from accupoison.audit.releases.report import write_study
    from accupoison.audit.releases.settings import releases_config
    from accupoison.audit.releases.stages import NAMES, run_study
    from accupoison.config.layers import plain, preset
    from accupoison.records.files import directory_name

    base = [] if chosen is None else [preset("releases", chosen)]
    config = releases_config([data_place(), *base, *layers(flags)], cache(note))
    if dry_run:
        click.echo(json_text(plain(config)))
        return
    name = f"{config.data.name}-{config.model.name or 'resnet18'}-w{config.model.width or 64}"
    folder = out or LOGS / f"releases-{directory_name(name)}"
    with progress_bar("replicates", hidden=quiet or as_json) as show:
        run_study(config, folder, stage=stage, jobs=jobs, report=show)
    if stage is not None and stage != NAMES[-1]:
        click.echo(json_text({"out": str(folder), "stage": stage}) if as_json else f"stage {stage} is in {folder}")
        return
    study, summary, caption = write_study(config, folder)
    about = {"out": str(folder), "tuned": study.tuned, "broken_promises": study.changed}
    click.echo(json_text({**about, "rows": summary}) if as_json else f"{table(summary)}\n\n{caption}")
    for release, share in study.changed.items():
        note(
            f"{release} kept {percent(share)} of the labels and promises to keep all; this is a failure of the release"
        )
    if study.changed:
        click.get_current_context().exit(1)
