"""Many runs and their tables: ``sweep`` and ``report``."""

import shlex
from functools import cache
from pathlib import Path

import click

from accupoison.cli.group import CHECKPOINTS, LOGS, PROGRAM, cli
from accupoison.cli.options import JOBS, PATH
from accupoison.cli.output import gather, json_text, note, progress_bar


@cli.command()
@click.argument("grids", nargs=-1, required=True, type=PATH)
@click.option("--jobs", "-j", type=JOBS, default=1, show_default=True, help="Processes at once.")
@click.option("--out", type=PATH, help="Where each grid's runs go, by its name.  [default: logs]")
@click.option("--dry-run", is_flag=True, help="List the runs and stop.")
@click.option("--quiet", "-q", is_flag=True, help="No progress bar.")
def sweep(grids: tuple[Path, ...], jobs: int, out: Path | None, dry_run: bool, quiet: bool) -> None:
    """Carry out grids of burn-ins and streams, one after the other; what is finished already is left alone.

    GRIDS are TOML files of your own or names of those that ship (see list), such as integrity, whose runs go to
    logs/integrity. Interrupt it at will: the same command goes on.
    """
    from accupoison.config.layers import read_toml
    from accupoison.study.grid import find_grid, read_grid
    from accupoison.study.sweep import run_grid

    files, say = [find_grid(grid) for grid in grids], cache(note)
    plans = {file: read_grid(read_toml(file), CHECKPOINTS, (out or LOGS) / file.stem, say) for file in files}
    for grid, plan in plans.items():
        if dry_run:
            click.echo("\n".join([str(place) for place, _ in plan.burnins] + [str(spec.out) for spec in plan.runs]))
            continue
        with progress_bar(grid.stem, hidden=quiet) as show:
            run_grid(plan, CHECKPOINTS, jobs=jobs, report=show)
        logs = (out or LOGS) / grid.stem
        click.echo(f"{len(plan.runs)} runs in {logs}; tables: {PROGRAM} report {shlex.quote(str(logs))}")


@cli.command()
@click.argument("paths", nargs=-1, required=True, type=PATH)
@click.option("--out", type=PATH, help="The directory to write.  [default: the first of PATHS]")
@click.option("--trigger", default="adversarial", show_default=True, help="The path that figures and tests follow.")
@click.option("--claims", type=PATH, metavar="GRID", help="Also hold the [[claims]] of this grid to the runs.")
@click.option(
    "--format",
    "formats",
    metavar="NAMES",
    help="html, md, csv, latex, json, svg, pdf; several with commas.  [default: html,md]",
)
@click.option("--json", "as_json", is_flag=True, help="Print the runs' summaries as JSON instead of tables.")
def report(
    paths: tuple[Path, ...], out: Path | None, trigger: str, claims: Path | None, formats: str | None, as_json: bool
) -> None:
    """Make a page, tables and figures from runs.

    PATHS are runs, or directories with runs right below them. Prints the tables and writes report.html, a page without
    network, and report.md with curves.png; or, by --format, report-TABLE.csv, report.tex (booktabs), report.json, each
    figure as FIGURE.svg or FIGURE.pdf. Figures of membership need audits: audit --run RUN, or audit recency. A run that
    is damaged, or another one made again, is named and left out; the exit code is 1 if none is left.
    """
    if as_json and claims is not None:
        raise click.UsageError("--claims are part of the tables and --json prints none; drop one of them")
    if as_json and formats is not None:
        raise click.UsageError("--json prints summaries and writes nothing; drop it, or give --format json")
    if as_json:
        click.echo(json_text({str(run.path): dict(run.summary) for run in gather(paths)}))
        return
    from accupoison.config.layers import read_toml  # here, as figures take seconds to load
    from accupoison.study.claims import read_claims
    from accupoison.study.grid import find_grid
    from accupoison.study.report.formats import parse_formats, write_report
    from accupoison.study.report.study import make_report

    names = parse_formats(formats or "html,md")
    runs = gather(paths)
    read = [] if claims is None else read_claims(read_toml(find_grid(claims)))
    words = ["report", *map(str, paths), "--trigger", trigger, *([] if claims is None else ["--claims", str(claims)])]
    made = make_report(runs, paths, trigger=trigger, claims=read, commands=(PROGRAM, shlex.join(words)), say=note)
    click.echo(made.markdown)
    files = write_report(made, out or paths[0], names)
    click.echo(f"Wrote {', '.join(map(str, files))}")
