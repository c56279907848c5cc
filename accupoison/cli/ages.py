"""Audits of several runs at once: ``audit ages``."""

from pathlib import Path

import click

from accupoison.cli.audit import JSON, PATH, audit
from accupoison.cli.group import CHECKPOINTS, LOGS
from accupoison.cli.output import gather, json_text, note, progress_bar


@audit.command()
@click.argument("runs", nargs=-1, required=True, type=PATH)
@click.option("--out", type=PATH, help="The directory to write.  [default: logs/ages]")
@click.option("--quiet", "-q", is_flag=True, help="No progress bar.")
@JSON
def ages(runs: tuple[Path, ...], out: Path | None, quiet: bool, as_json: bool) -> None:
    """Pool the membership AUC of finished RUNS by group and by age.

    Members of the burn-in, members of the stream and images that never came, each against test images never learnt, by
    the loss and by its change during the stream. Runs that differ in base model and seed alone are replicates: mean and
    95% interval over base models. RUNS are directories of runs, or of sweeps; runs that have learnt nothing are left
    out. Writes ages.json, ages.csv, ages.png.
    """
    from accupoison.audit.online.recency import pool_ages, write_pooled
    from accupoison.study.tables import markdown

    folder, collected = out or LOGS / "ages", gather(runs)
    with progress_bar("runs", hidden=quiet or as_json) as show:
        pooled, skipped = pool_ages(collected, CHECKPOINTS, show)
    for sentence in skipped:
        note(sentence)
    rows = write_pooled(folder, pooled)
    if as_json:
        click.echo(json_text({"out": str(folder), "aucs": [vars(one) | {"auc": vars(one.auc)} for one in pooled]}))
        return
    click.echo(markdown(list(rows[0]), [list(row.values()) for row in rows]))
    click.echo(f"\n95% intervals over base models, or over streams where there is one; by age in {folder / 'ages.csv'}")
