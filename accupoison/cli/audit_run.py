"""What ``audit --run`` prints, of a run and of a burn-in."""

from collections.abc import Mapping
from math import isnan
from pathlib import Path
from typing import Any

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
    for name, attacks in found.content["groups"].items():
        say_withheld(attacks[0]["roc"], f"{name} members: ")
    for sentence in found.flags:
        click.echo(f"FLAGGED: {sentence}")
    click.echo(f"{found.about}. Wrote {folder}")


def controls_text(content: Mapping[str, Any]) -> str:
    """Return the controls of the contents of an ``audit.json`` as a table, and a line for each that fails."""
    from accupoison.audit.writers import all_rows

    flagged = [f"FLAGGED: {sentence}" for sentence in content["controls"]["flags"]]
    return "\n".join(["", table(all_rows(content)), *flagged])


def say_withheld(roc: Mapping[str, Any], of: str = "", only: float | None = None) -> None:
    """Print why rates are withheld that a table has no value for.

    Args:
        roc: Of a model, as ``audit.json`` has it.
        of: Whose rates they are, before the sentence.
        only: The one false positive rate that the table has; None is all of them.
    """
    for level, reason in roc["withheld"].items():
        if only in (None, level):
            click.echo(f"{of}TPR at {level:.1%} FPR is withheld: {reason}")


def show_models(folder: Path, content: dict[str, Any], rows: list[dict[str, str]], as_json: bool, models: str) -> None:
    """Print the audit of several models.

    Args:
        folder: Where it was written.
        content: Of its ``audit.json``.
        rows: Of its table.
        as_json: Print JSON and nothing else.
        models: What they are, in words.
    """
    if as_json:
        attacks = {row["attack"]: row for row in content["attacks"]}
        click.echo(json_text({"out": str(folder), **content, "attacks": attacks}))
        return
    from accupoison.audit.results import LEVEL

    speed = f"{content['images_per_second']:.0f} images/s"
    if not isnan(content["share_of_ceiling"]):
        speed += f", {content['share_of_ceiling']:.0%} of what matrix products reach"
    click.echo(f"{table(rows)}\n{controls_text(content)}")
    say_withheld(content["attacks"][0]["target_models"][0]["roc"], only=LEVEL)
    click.echo(f"\nmeans and standard deviations over {models}; {speed}. Wrote {folder}")
