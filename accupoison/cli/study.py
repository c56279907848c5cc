"""Many runs and their tables: ``sweep`` and ``report``."""

import shlex
import traceback
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from accupoison.cli.group import CHECKPOINTS, LOGS, PROGRAM, cli, command_line, one_line
from accupoison.cli.options import PATH, engine_options, layers, numbers, option_names
from accupoison.cli.output import gather, json_text, note, progress_bar
from accupoison.errors import InputError, first_line

if TYPE_CHECKING:
    from accupoison.runs.engines import Engine
    from accupoison.study.grid import Grid


@cli.command()
@click.argument("grids", nargs=-1, required=True, type=PATH)
@click.option("--out", type=PATH, help="Where each grid's runs go, by its name.  [default: logs]")
@click.option("--set", "pairs", multiple=True, metavar="SECTION.KEY=VALUE", help="A setting of all runs; repeatable.")
@click.option("--data-dir", type=PATH, help="Where the data files are.  [default: ACCUPOISON_DATA, or data]")
@click.option("--device", metavar="NAME", help="Where to compute: auto, cpu, cuda, cuda:N or mps.")
@click.option("--burnins", metavar="NUMBERS", help="Seeds of base models, such as 0,1.  [default: all of the grid]")
@click.option("--seeds", metavar="NUMBERS", help="Seeds of streams, for a pilot.  [default: all of the grid]")
@engine_options
@click.option("--dry-run", is_flag=True, help="List the runs, say what they cost where that is known, and stop.")
@click.option("--trial", is_flag=True, help="With --dry-run: carry out a few steps of each kind of run to know it.")
@click.option("--quiet", "-q", is_flag=True, help="No progress bar.")
def sweep(
    grids: tuple[Path, ...],
    out: Path | None,
    burnins: str | None,
    seeds: str | None,
    engine: "Engine",
    dry_run: bool,
    trial: bool,
    quiet: bool,
    **given: Any,  # noqa: ANN401
) -> None:
    """Carry out grids of burn-ins and streams.

    GRIDS are TOML files of your own (docs/grids.md has the format) or names of those that ship (see list), such as
    integrity, whose runs go to logs/integrity. What is finished is left alone. Interrupt it at will: the same command
    goes on. A run that cannot be made is named at the end, with exit code 1, and does not keep the others from being
    made.
    """
    from accupoison.config.layers import read_toml
    from accupoison.study.grid import find_grid, read_grid
    from accupoison.study.sweep import run_grid

    if trial and not dry_run:
        raise click.UsageError("--trial is for an estimate; give --dry-run, too")
    files, say, over = [find_grid(grid) for grid in grids], cache(note), layers({"file": None, **given})
    part = numbers("--burnins", burnins) if burnins else [], numbers("--seeds", seeds) if seeds else []
    plans = {
        file: read_grid(read_toml(file), CHECKPOINTS, (out or LOGS) / file.stem, say, over).part(*part)
        for file in files
    }
    failed: dict[Path, Exception] = {}
    for grid, plan in plans.items():
        if dry_run:
            show_plan(plan, trial=trial)
            continue
        with progress_bar(grid.stem, hidden=quiet) as show:
            failed |= run_grid(plan, CHECKPOINTS, engine=engine, report=show)
        logs = (out or LOGS) / grid.stem
        made = sum(spec.out not in failed for spec in plan.runs)
        click.echo(f"{made} runs in {logs}" + f"; tables: {command_line('report', logs)}" * (made > 0))
    for sentence in failures(failed):
        click.echo(sentence, err=True)
    click.get_current_context().exit(1 if failed else 0)


def show_plan(plan: "Grid", *, trial: bool) -> None:
    """Print what a grid has, a line each, what of it is made already, and what the rest costs where that is known.

    Args:
        plan: The grid.
        trial: Carry out a few steps of each kind of run that is not known.

    Raises:
        InputError: A directory holds something else, or a trial cannot be carried out.
    """
    from accupoison.study.cost import estimate
    from accupoison.study.sweep import finished, trained

    parts = [(place, trained(place, config)) for place, config in plan.burnins]
    parts += [(spec.out, finished(spec)) for spec in plan.runs]
    click.echo("\n".join(f"{place}{' (made already)' * made}" for place, made in parts))
    click.echo(estimate(plan, CHECKPOINTS, trial=trial))


def failures(failed: Mapping[Path, Exception]) -> Iterator[str]:
    """Yield a sentence for each reason, with all that failed for it, and the traceback of what is no bad input."""
    by_reason: dict[str, list[Path]] = {}
    for place, error in failed.items():
        reason = error.text(PROGRAM, option_names()) if isinstance(error, InputError) else first_line(error, named=True)
        if reason not in by_reason and not isinstance(error, InputError):
            yield "".join(traceback.format_exception(error))
        by_reason.setdefault(reason, []).append(place)
    for reason, places in by_reason.items():
        yield one_line(f"not made: {', '.join(map(str, places))}: {reason}")


@cli.command()
@click.argument("paths", nargs=-1, required=True, type=PATH)
@click.option("--out", type=PATH, help="The directory to write.  [default: the first of PATHS]")
@click.option(
    "--trigger", default="adversarial", show_default=True, help="The trigger that figures and tests are about."
)
@click.option("--claims", type=PATH, metavar="GRID", help="Also hold the [[claims]] of this grid to the runs.")
@click.option(
    "--format",
    "formats",
    metavar="NAMES",
    help="html, md, csv, latex, json, svg, pdf, cyclonedx; several with commas.  [default: html,md]",
)
@click.option("--json", "as_json", is_flag=True, help="Print the runs' summaries as JSON instead of tables.")
def report(
    paths: tuple[Path, ...], out: Path | None, trigger: str, claims: Path | None, formats: str | None, as_json: bool
) -> None:
    """Make a page, tables and figures from runs.

    PATHS are runs, or directories with runs right below them. Prints the tables and writes report.html, a page without
    network, and report.md with curves.png; or, by --format, report-TABLE.csv, report.tex (booktabs), report.json, each
    figure as FIGURE.svg or FIGURE.pdf, report.cdx.json (CycloneDX 1.7). Figures of membership need audits: audit --run
    RUN, or audit recency. Those of audit offline, shadow-replays, predictions and challenge in or below PATHS are
    drawn, too, also without any run. A run that is damaged, or another one made again, is named and left out; the exit
    code is 1 if none is left.
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
    from accupoison.study.report.other_audits import read_audited
    from accupoison.study.report.study import make_report

    names = parse_formats(formats or "html,md")
    audits = read_audited(paths, note)
    runs = gather(paths, needed=not audits)
    read = [] if claims is None else read_claims(read_toml(find_grid(claims)))
    words = ["report", *map(str, paths), "--trigger", trigger, *([] if claims is None else ["--claims", str(claims)])]
    remake = PROGRAM, shlex.join(words)
    made = make_report(runs, paths, trigger=trigger, claims=read, commands=remake, say=note, audits=audits)
    click.echo(made.markdown)
    files = write_report(made, out or paths[0], names)
    click.echo(f"Wrote {', '.join(map(str, files))}")
