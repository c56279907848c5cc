"""All that a report says, before it takes a form."""

import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from accupoison.config.taxonomy import ASKED, ids
from accupoison.errors import InputError
from accupoison.records.files import dump_row
from accupoison.study.claims import Claim, claims_rows
from accupoison.study.collect import Run
from accupoison.study.comparisons import CAPTION as COMPARED
from accupoison.study.comparisons import comparison_rows
from accupoison.study.figures import curves_picture
from accupoison.study.groups import Group, group
from accupoison.study.ladder import CAPTION as CLIMBED
from accupoison.study.ladder import FALLS, ladder_rows
from accupoison.study.pictures import Missing, Picture
from accupoison.study.report import draw, exposure
from accupoison.study.report.audits import Audit, exposures, pooled_exposures, read_audits, strongest
from accupoison.study.report.finding import finding, most_exposed
from accupoison.study.report.other_audits import CAPTION as TOLD
from accupoison.study.report.other_audits import Audited, audited_pictures, audited_rows, sentence
from accupoison.study.report.sources import command
from accupoison.study.tables import (
    CAPTION,
    DETECTED,
    Row,
    detector_rows,
    mechanism_rows,
    outcome_rows,
    retention_rows,
    rows_text,
    threat_lines,
)

FIRST = ("audit", "attack", "AUC (pooled)", "TPR at 1.0% FPR (pooled)", "AUC", "balanced accuracy", "TPR at 1.0% FPR")
"""The columns to show first of audits: of several models, and of one."""


@dataclass(frozen=True)
class Table:
    """A table of a report.

    Attributes:
        name: Of its files.
        title: Above it.
        caption: What its columns mean.
        rows: With the same columns.
        first: The columns to show before a reader asks for all.
    """

    name: str
    title: str
    caption: str
    rows: tuple[Row, ...]
    first: tuple[str, ...]

    @property
    def columns(self) -> list[str]:
        """The columns that have a value in any row."""
        return [key for key in self.rows[0].cells if any(row.cells[key] for row in self.rows)]


@dataclass(frozen=True)
class Report:
    """A report.

    Attributes:
        title: Of the study.
        finding: In a sentence.
        threats: By run directory: the threat model as data, with the ids of membership inference where it was audited.
        pictures: Figures, and those that there is nothing for.
        tables: Those that have rows.
        experiments: The runs, by what they replicate.
        paths: Where the runs were looked for.
        audits: By run directory.
        commands: By run directory: what makes the run again.
        remake: The command that makes the report again.
        markdown: The tables and threat models as text.
    """

    title: str
    finding: str
    threats: Mapping[Path, Mapping[str, Any]]
    pictures: tuple[Picture | Missing, ...]
    tables: tuple[Table, ...]
    experiments: tuple[Group, ...]
    paths: tuple[Path, ...]
    audits: Mapping[Path, Audit]
    commands: dict[Path, str]
    remake: str
    markdown: str

    @property
    def distinct_threats(self) -> list[Mapping[str, Any]]:
        """The threat models, each once."""
        return list({dump_row(threat): threat for threat in self.threats.values()}.values())


def make_report(
    runs: Sequence[Run],
    paths: Sequence[Path],
    *,
    trigger: str,
    claims: Sequence[Claim],
    commands: tuple[str, str],
    say: Callable[[str], None],
    audits: Sequence[Audited] = (),
) -> Report:
    """Return what a set of runs says, or of audits, or both.

    Args:
        runs: The runs.
        paths: Where they were looked for; audits of several runs may be there, too.
        trigger: The path that figures and comparisons follow.
        claims: To hold to the runs.
        commands: How the command line is started, and what was typed after it.
        say: Told of what is left out.
        audits: Of models whose members are known; where there are no runs, at least one.

    Raises:
        InputError: Two runs that differ would serve for one, or a claim has no runs.
    """
    program, typed = commands
    said, pictures = sentence(audits) if audits else "", list(audited_pictures(audits))
    of_runs = read_audits(runs, say)
    if runs:
        exposed, of_audits = _audited(runs, of_runs, paths, program)
        said = finding(runs, trigger) + exposed
        first = [
            _curves(runs, trigger, say),
            draw.before_after(runs, trigger),
            draw.discrepancy(runs),
            *draw.detectors(runs),
            draw.harm_retention(runs, trigger),
        ]
        pictures = [*first, *of_audits, *pictures]
    alone, several = (audited_rows([one for one in audits if (one.models > 1) is many]) for many in (False, True))
    averaged = Table("audits", "Who can be told by audits, over models", TOLD, tuple(several), FIRST)
    told = Table("audits-of-one-model", "Who can be told by audits of one model", TOLD, tuple(alone), FIRST)
    tables = tuple(table for table in (*_tables(runs, trigger, claims), averaged, told) if table.rows)
    return Report(
        title=paths[0].resolve().name,
        finding=said,
        threats={run.path: _threat(run, audited=run.path in of_runs) for run in runs},
        pictures=tuple(pictures),
        tables=tables,
        experiments=tuple(group(runs)),
        paths=tuple(paths),
        audits=of_runs,
        commands={run.path: command(run, program) for run in runs},
        remake=f"{program} {typed}",
        markdown=_markdown(runs, tables),
    )


def _threat(run: Run, *, audited: bool) -> Mapping[str, Any]:
    threat = run.threat
    known = {one["id"] for one in threat["ids"]}
    asked = [one for one in ids({ASKED}) if one["id"] not in known] if audited else []
    return {**threat, "ids": [*threat["ids"], *asked]}


def _markdown(runs: Sequence[Run], tables: Sequence[Table]) -> str:
    parts = [rows_text(table.rows) for table in tables]
    captions = dict.fromkeys(table.caption for table in tables)
    threats = [f"Threat models:\n{threat_lines(runs)}"] if runs else []
    return "\n\n".join([*parts, *captions, *threats])


def _tables(runs: Sequence[Run], trigger: str, claims: Sequence[Claim]) -> list[Table]:
    names: tuple[str, ...] = ("stream", "clean stream", "attack", "defence", "against", "setting", "trigger")
    outcomes = outcome_rows(runs)
    if len({row.cells["stream"] for row in outcomes}) == 1:
        names = names[1:]
    told = """\
Claims: effects are A(coast) - A(trigger) from the same state; differences are paired by base model and seed. A claim
holds if the 95% t-interval over base models lies above zero, and fails if it lies below."""
    made = [
        Table("claims", "Claims", told, tuple(claims_rows(claims, runs)), ("claim", "net of coast", "n")),
        Table("outcomes", "Outcomes", CAPTION, tuple(outcomes), (*names, "before", "after", "harm H", "n")),
        Table(
            "ladder",
            "How far up the attackers each defence holds",
            CLIMBED.format(trigger=trigger, control="the one named", unit="base models, or streams", least=100 * FALLS),
            tuple(ladder_rows(runs, trigger)),
            (*names, "rung", "net", "bounds", "verdict"),
        ),
        Table(
            "comparisons",
            "Defences against each other",
            COMPARED,
            tuple(comparison_rows(runs, trigger)),
            (*names, "difference", "p, Holm", "n"),
        ),
        Table(
            "retention",
            "What defences cost and retain on clean streams",
            CAPTION,
            tuple(retention_rows(runs)),
            (*names, "cost against ST", "retention R", "n"),
        ),
        Table(
            "mechanism",
            "What happened on the ordinary steps",
            CAPTION,
            tuple(mechanism_rows(runs)),
            (*names, "MD clean", "MD sent", "MD AUC vs noise", "weights moved", "n"),
        ),
        Table(
            "detectors",
            "What tells poison from clean rows and from noise",
            DETECTED,
            tuple(detector_rows(runs)),
            (*names, "detector", "AUC vs clean", "AUC vs noise", "n"),
        ),
    ]
    how = Counter(run.computed for run in runs if run.computed)
    said = "".join(f" Computed in {one}{f' ({count} runs)' * (len(how) > 1)}." for one, count in how.items())
    return [replace(table, caption=f"{table.caption}{said}") for table in made]


def _curves(runs: Sequence[Run], trigger: str, say: Callable[[str], None]) -> Picture | Missing:
    name = "Accuracy as the stream goes on"
    steady = [run for run in runs if not run.shifts]
    if not any(trigger in run.summary["branches"] for run in steady):
        reason = f"no run on a steady stream has the {trigger} trigger"
    else:
        try:
            picture, problems = curves_picture(steady, trigger=trigger, title=name)
            for sentence in problems:
                say(sentence)
            return picture
        except InputError as error:  # the tables are good without it
            reason = str(error)
    say(f"no figure: {reason}")
    return Missing("curves", name, reason)


def _audited(
    runs: Sequence[Run], audits: Mapping[Path, Audit], paths: Sequence[Path], program: str
) -> tuple[str, list[Picture | Missing]]:
    """Return who is exposed most, in a sentence, and the figures of audits of runs."""
    places = [place / name for path in paths for place in (path, path.parent) for name in (".", "recency")]
    attack = strongest(audits) if audits else "loss"
    found, pooled = list(exposures(runs, audits, attack)) if audits else [], list(pooled_exposures(runs, places))
    exposing = attack
    if len(pooled) > len(found):  # the one that covers more
        found, exposing = pooled, "loss"
    how = f"{program} audit --run {shlex.quote(str(runs[0].path))}"
    reason = f"no run has an audit; make one for each run, and report again: {how}"
    exposed = (
        exposure.accuracy_exposure(found, exposing) if found else Missing("accuracy-exposure", exposure.EXPOSED, reason)
    )
    curves = exposure.roc(runs, audits, attack) if audits else Missing("roc", exposure.ROC, reason)
    said = most_exposed(found, exposing)
    if failing := [audit.flags for audit in audits.values() if audit.flags]:
        flags = "; ".join(dict.fromkeys(chain(*failing)))
        said += f" FLAGGED in {len(failing)} of {len(audits)} audits: {flags}."
    return said, [exposed, curves]


def as_json(report: Report) -> dict[str, Any]:
    """Return a report's numbers in plain containers, with the runs behind each row."""
    return {
        "finding": report.finding,
        "threat_models": list(dict.fromkeys(threat["line"] for threat in report.distinct_threats)),
        "threats": [dict(threat) for threat in report.distinct_threats],
        "tables": {
            table.name: [{**row.cells, "runs": [str(run.path) for run in row.runs]} for row in table.rows]
            for table in report.tables
        },
        "figures": {
            one.name: {"title": one.title, "missing": one.reason}
            if isinstance(one, Missing)
            else {"title": one.title, "text": one.alt, "note": one.note}
            for one in report.pictures
        },
        "runs": {
            str(run.path): {
                "base_model": run.burnin,
                "base_model_seed": run.config.start.seed,
                "seed": run.config.run.seed,
                "command": report.commands[run.path],
            }
            for experiment in report.experiments
            for run in experiment.runs
        },
        "command": report.remake,
    }
