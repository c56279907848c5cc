"""What ``audit --run`` prints, of a run and of a burn-in."""

from pathlib import Path

import click

from accupoison.cli.group import CHECKPOINTS
from accupoison.cli.output import change_text, json_text, table


def show_audit(run: Path, folder: Path, release: str | None, seed: int, as_json: bool, *, twins: bool) -> None:
    """Audit an online run or a burn-in and print what is found; see :func:`accupoison.audit.directory.audit_directory`.

    Args:
        run: The directory.
        folder: The one to write.
        release: What the answers go through; None is the run's own.
        seed: Of the calibration half and the neural attack.
        as_json: Print JSON and nothing else.
        twins: Ask about the twin of each sample as well.
    """
    from accupoison.audit.directory import audit_directory

    found = audit_directory(run, folder, CHECKPOINTS, release=release, seed=seed, twins=twins)
    if as_json:
        click.echo(json_text(found.content))
        return
    for attackers in found.content.get("attackers", {}).values():
        click.echo(change_text(attackers["release"]))
    for title, rows in found.tables.items():
        click.echo(f"{title}\n{table(rows)}\n")
    click.echo(f"{found.about}. Wrote {folder}")
