"""Audits and reports from Python."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accupoison.api.keywords import say
from accupoison.api.runs import Base, Run
from accupoison.config.flags import CHECKPOINTS
from accupoison.errors import InputError

Place = Run | Base | str | Path


def audit_run(
    run: Place, out: str | Path | None = None, *, release: str | None = None, seed: int = 0, twins: bool = False
) -> dict[str, Any]:
    """Say who can be recognised as a member from what the last model answers, as the command ``audit --run`` does.

    Args:
        run: An online run that has ended, or a base model.
        out: The directory to write; None is ``audit`` within the run.
        release: What leaves the model, such as "round:2"; None is the run's own.
        seed: Of the calibration half and the neural attack.
        twins: Ask about the twin of each sample as well.

    Returns:
        What is in ``audit.json``: of each group of members, a row for each attack, as
        :meth:`accupoison.audit.results.AttackResult.as_dict` has it.

    Raises:
        InputError: It has not ended, or cannot be audited.

    Example:
        >>> import accupoison as ap
        >>> base = ap.burn_in(recipe="demo", epochs=2, out="checkpoints/two", resume=True)
        >>> rows = ap.audit_run(base)["groups"]["burn-in"]
        >>> all(0 < row["roc"]["auc"] < 1 for row in rows if row["attack"] == "loss")
        True
    """
    from accupoison.audit.directory import audit_directory  # here, as scipy takes seconds to load

    place = _place(run)
    folder = place / "audit" if out is None else Path(out)
    return audit_directory(place, folder, CHECKPOINTS, release=release, seed=seed, twins=twins).content


def report(
    runs: Sequence[Place], out: str | Path | None = None, *, trigger: str = "adversarial", formats: str = "html,md"
) -> list[Path]:
    """Make a page, tables and figures from runs, as the command ``report`` does, and return the files.

    Args:
        runs: Runs, or directories with runs right below them, or with audits.
        out: The directory to write; None is that of the first run.
        trigger: The path that figures and tests follow.
        formats: html, md, csv, latex, json, svg, pdf, cyclonedx; several with commas.

    Raises:
        InputError: There is no run and no audit, or a format is unknown.

    Example:
        >>> import accupoison as ap
        >>> base = ap.burn_in(recipe="demo", epochs=2, out="checkpoints/two", resume=True)
        >>> run = ap.online(base, preset="demo", med="CLIP", steps=2, out="logs/clip", resume=True)
        >>> [path.name for path in ap.report([run], "study", formats="md,csv")]
        ['curves.png', 'report.md', 'report-outcomes.csv', 'report-mechanism.csv']
    """
    from accupoison.study.collect import collect
    from accupoison.study.report.formats import parse_formats, write_report  # here, as figures take seconds to load
    from accupoison.study.report.other_audits import read_audited
    from accupoison.study.report.study import make_report

    names, paths = parse_formats(formats), [_place(run) for run in runs]
    words = ["report", *map(str, paths), "--trigger", trigger]
    audits = read_audited(paths, say)
    found, remake = collect(paths, say, needed=not audits), ("accupoison", shlex.join(words))
    if not found and not audits:
        raise InputError(f"no run is left in {', '.join(map(str, paths))}; the warnings say why")
    made = make_report(found, paths, trigger=trigger, claims=[], commands=remake, say=say, audits=audits)
    return write_report(made, paths[0] if out is None else Path(out), names)


def _place(run: Place) -> Path:
    return run.path if isinstance(run, Run | Base) else Path(run)
