"""A report as one HTML page that asks nothing of the network."""

import base64
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

import accupoison
from accupoison.study.collect import Run
from accupoison.study.groups import Group, label_of
from accupoison.study.outcomes import FEWEST
from accupoison.study.pictures import Missing, Picture, Series
from accupoison.study.report.study import Report, Table
from accupoison.study.report.svg import inline_svg
from accupoison.study.tables import Row

DASHES = {"--": "5 3", ":": "1.5 3"}
NUMBER = re.compile(r"[-+]?\d")


def html_page(report: Report) -> str:
    """Return a report as a page whose policy lets nothing run but its own script; everything else is escaped."""
    style, script = _asset("report.css"), _asset("report.js")
    policy = (
        f"default-src 'none'; script-src '{_digest(script)}'; style-src '{_digest(style)}'; base-uri 'none'; "
        "form-action 'none'"
    )
    ids = {run.path: f"run-{k}" for k, run in enumerate(run for one in report.experiments for run in one.runs)}
    figures = "\n".join(_figure(picture, ids) for picture in report.pictures if isinstance(picture, Picture))
    tables = "\n".join(_table(table, ids) for table in _captioned_once(report.tables))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>{escape(report.title)}</title>
<style>{style}</style>
</head>
<body>
<header>
<h1>{escape(report.title)}</h1>
<p class="finding">{escape(report.finding)}</p>
{_threats(report.distinct_threats)}
</header>
<main>
<h2>Figures</h2>
<div class="figures">
{figures}
</div>
{_missing([picture for picture in report.pictures if isinstance(picture, Missing)])}
{tables}
{_sources(report, ids)}
</main>
<footer>Made by accupoison {escape(accupoison.__version__)} with <code>{escape(report.remake)}</code></footer>
<script>{script}</script>
</body>
</html>
"""


def _asset(name: str) -> str:
    return (resources.files("accupoison") / "study" / "report" / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _threats(threats: Sequence[Mapping[str, Any]]) -> str:
    """Return a list of attackers, each with the defenders that it meets and what NIST, ATLAS and OWASP call it."""
    attackers: dict[str, tuple[dict[str, None], dict[str, str]]] = {}
    for threat in threats:
        attacker, _, defender = threat["line"].partition("; defender")
        met, names = attackers.setdefault(attacker, ({}, {}))
        met[f"defender{defender}" if defender else ""] = None
        for one in threat["ids"]:
            names[one["id"]] = f"{one['id']} {one['name']} ({one['source']} {one['version']}): {one['because']}"
    items = (
        f"<li>{escape(attacker)}{_details(f'{len(met)} defender' + 's' * (len(met) != 1), met)}"
        f"{_details(', '.join(names), names.values()) if names else ''}</li>"
        for attacker, (met, names) in attackers.items()
    )
    if not attackers:
        return ""
    notes = dict.fromkeys(threat["note"] for threat in threats if threat["ids"])
    said = "".join(f'<p class="note">{escape(note)}</p>' for note in notes)
    return f'<h3>Threat model</h3>\n<ul class="threats">{"".join(items)}</ul>{said}'


def _details(summary: str, items: Iterable[str]) -> str:
    inner = "".join(f"<li>{escape(item)}</li>" for item in items)
    return f"<details><summary>{escape(summary)}</summary><ul>{inner}</ul></details>"


def _captioned_once(tables: Sequence[Table]) -> Iterator[Table]:
    """Yield the tables; one with the caption of an earlier one has none."""
    said: set[str] = set()
    for table in tables:
        yield replace(table, caption="") if table.caption in said else table
        said.add(table.caption)


def _missing(pictures: Sequence[Missing]) -> str:
    items = "".join(f"<li><strong>{escape(one.title)}</strong>: {escape(one.reason)}</li>" for one in pictures)
    return f'<section class="missing"><h3>Not drawn</h3><ul>{items}</ul></section>' if items else ""


def _figure(picture: Picture, ids: Mapping[Path, str]) -> str:
    legend = "".join(_entry(number, series) for number, series in enumerate(picture.series))
    runs = "".join(f"<li>{escape(one.label)}{_runs(one.runs, ids)}</li>" for one in picture.series if one.runs)
    made_from = f"\n<details><summary>runs and seeds</summary><ul>{runs}</ul></details>" if runs else ""
    return f"""<figure id="{picture.name}">
<figcaption><h3>{escape(picture.title)}</h3></figcaption>
{inline_svg(picture)}
<output data-empty="Point at a mark to see its value."></output>
<ul class="legend">{legend}</ul>
<p class="note">{escape(picture.note)}</p>{made_from}
</figure>"""


def _entry(number: int, series: Series) -> str:
    """Return a button of a legend, which shows and hides a series."""
    dash = f' stroke-dasharray="{DASHES[series.style]}"' if series.style in DASHES else ""
    line = f'<line x1="1" y1="6" x2="25" y2="6" stroke="{series.color}" stroke-width="2.5"{dash}/>'
    swatch = f'<svg viewBox="0 0 26 12" aria-hidden="true">{line}{_shape(series)}</svg>'
    return f'<li><button aria-pressed="true" data-of="{number}">{swatch}{escape(series.label)}</button></li>'


def _shape(series: Series) -> str:
    paths = {
        "o": "M9 6a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",
        "s": "M9.5 2.5h7v7h-7z",
        "^": "M13 1.5l4.5 8h-9z",
        "v": "M13 10.5l4.5-8h-9z",
        "D": "M13 1l5 5l-5 5l-5-5z",
    }
    if not series.marker:
        return ""
    if path := paths.get(series.marker):
        return f'<path d="{path}" fill="{series.color}"/>'
    return f'<path d="M9.5 2.5l7 7M16.5 2.5l-7 7" stroke="{series.color}" stroke-width="2"/>'


def _runs(runs: Iterable[Run], ids: Mapping[Path, str]) -> str:
    """Return a list of runs with their seeds, each with a link to the command that makes it."""
    items = "".join(
        f'<li><a href="#{ids[run.path]}"><code>{escape(str(run.path))}</code></a> {_seeds(run)}</li>' for run in runs
    )
    return f"<ul>{items}</ul>"


def _seeds(run: Run) -> str:
    return f"base model {run.config.start.seed}, seed {run.config.run.seed}"


def _table(table: Table, ids: Mapping[Path, str]) -> str:
    columns, traced = table.columns, any(row.runs for row in table.rows)
    numeric = {key for key in columns if any(NUMBER.match(row.cells[key]) for row in table.rows)}
    more = [key for key in columns if key not in table.first]

    def kind(key: str) -> str:
        classes = " ".join(["num"] * (key in numeric) + ["more"] * (key in more))
        return f' class="{classes}"' if classes else ""

    def cells(row: Row) -> str:
        return "".join(f"<td{kind(key)}>{escape(row.cells[key])}</td>" for key in columns)

    def details(row: Row) -> str:
        if not traced:
            return ""
        count = f"{len(row.runs)} {'run' if len(row.runs) == 1 else 'runs'}"
        return f"<td><details><summary>{count}</summary>{_runs(row.runs, ids)}</details></td>"

    head = "".join(f'<th scope="col"{kind(key)}><button>{escape(key)}</button></th>' for key in columns)
    body = "\n".join(f"<tr>{cells(row)}{details(row)}</tr>" for row in table.rows)
    made_from = '<th scope="col">made from</th>' if traced else ""
    name = f"table-{table.name}"
    button = f'<button class="columns" aria-controls="{name}" aria-expanded="false" hidden>all columns</button>'
    return f"""<section>
<h2>{escape(table.title)}</h2>
{f'<p class="note">{escape(table.caption)}</p>' if table.caption else ""}
{button if more else ""}
<div class="scroll" tabindex="0" role="region" aria-label="{escape(table.title)}"><table id="{name}">
<thead><tr>{head}{made_from}</tr></thead>
<tbody>
{body}
</tbody>
</table></div>
</section>"""


def _sources(report: Report, ids: Mapping[Path, str]) -> str:
    """Return where the numbers of runs come from; nothing of a report without any."""
    if not report.experiments:
        return ""
    experiments = "\n".join(_experiment(one, report, ids) for one in report.experiments)
    return f"""<h2>Where the numbers come from</h2>
<p class="note">Replicates are told by base model, seed and settings; the same run made twice counts once. Below n =
{FEWEST} the values themselves stand there, and no interval.</p>
{experiments}"""


def _experiment(experiment: Group, report: Report, ids: Mapping[Path, str]) -> str:
    items = "".join(
        f'<li id="{ids[run.path]}"><code>{escape(str(run.path))}</code> {_seeds(run)} (sha256 '
        f"{escape(run.burnin[:12])}), {escape(str(run.summary['status']))}<br>"
        f"<code>{escape(report.commands[run.path])}</code></li>"
        for run in experiment.runs
    )
    count = len({run.burnin for run in experiment.runs})
    title = f"{label_of(experiment, report.experiments)}: {count} base models, {len(experiment.runs)} runs"
    return f'<details class="experiment"><summary>{escape(title)}</summary><ul>{items}</ul></details>'
