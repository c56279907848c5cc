"""Audits of several runs at once: ``audit recency``."""

from pathlib import Path

import click

from accupoison.cli.audit import JSON, audit
from accupoison.cli.group import CHECKPOINTS, LOGS
from accupoison.cli.options import PATH
from accupoison.cli.output import gather, json_text, note, progress_bar, table_text


@audit.command()
@click.argument("runs", nargs=-1, required=True, type=PATH)
@click.option("--out", type=PATH, help="The directory to write.  [default: logs/recency]")
@click.option("--quiet", "-q", is_flag=True, help="No progress bar.")
@JSON
def recency(runs: tuple[Path, ...], out: Path | None, quiet: bool, as_json: bool) -> None:
    """Pool the membership AUC of finished RUNS by group and by recency: steps since a sample was learnt last.

    Members of the burn-in, members of the stream and images that never came, each against test images never learnt, by
    the loss and by its change during the stream. Runs that differ in base model and seed alone are replicates: mean and
    95% interval over base models. RUNS are directories of runs, or of sweeps; runs that have learnt nothing are left
    out. Writes recency.json, recency.csv, recency.png.
    """
    from accupoison.audit.online.recency import pool_recency, write_pooled

    folder = out or LOGS / "recency"
    collected = gather(runs)
    with progress_bar("runs", hidden=quiet or as_json) as show:
        pooled, skipped = pool_recency(collected, CHECKPOINTS, show)
    for sentence in skipped:
        note(sentence)
    rows = write_pooled(folder, pooled)
    if as_json:
        aucs = [vars(entry) | {"auc": vars(entry.auc)} for entry in pooled]
        click.echo(json_text({"out": str(folder), "aucs": aucs}))
        return
    click.echo(table_text(rows))
    where = folder / "recency.csv"
    click.echo(f"\n95% intervals over base models, or over streams where there is one; by recency in {where}")
