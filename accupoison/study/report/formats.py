"""The forms that a report takes."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from accupoison.errors import InputError, did_you_mean
from accupoison.records.files import write_atomically, write_csv, write_json
from accupoison.study.pictures import Picture
from accupoison.study.report.cyclonedx import bill_of_materials
from accupoison.study.report.page import html_page
from accupoison.study.report.study import Report, Table, as_json

BRACKET, ESCAPED = re.compile(r"([\[\]\\])"), r"\\\1"
"""What would end the text of a Markdown image."""
SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    **{sign: rf"\{sign}" for sign in "&%$#_{}"},
    "<": r"$<$",
    ">": r"$>$",
}
"""What LaTeX takes for something else."""


def parse_formats(text: str) -> list[str]:
    """Return the names in a list with commas, each once.

    Raises:
        InputError: There is none, or one that is no format.
    """
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in names:
        if name not in WRITERS:
            raise InputError(f"there is no format {name!r}{did_you_mean(name, WRITERS)}; give {', '.join(WRITERS)}")
    if not names:
        raise InputError(f"--format {text!r} names no format; give some of {', '.join(WRITERS)}, with commas")
    return names


def write_report(report: Report, folder: Path, names: Sequence[str]) -> list[Path]:
    """Write a report in several formats and return the files.

    Args:
        report: The report.
        folder: Gets the files; made if it is not there.
        names: Of :func:`parse_formats`.

    Raises:
        InputError: A file cannot be written.
    """
    return [path for name in names for path in WRITERS[name](report, folder)]


def _html(report: Report, folder: Path) -> Iterator[Path]:
    yield _text(folder / "report.html", html_page(report))


def _csv(report: Report, folder: Path) -> Iterator[Path]:
    for table in report.tables:
        path = folder / f"report-{table.name}.csv"
        write_csv(path, [{key: row.cells[key] for key in table.columns} for row in table.rows])
        yield path


def _json(report: Report, folder: Path) -> Iterator[Path]:
    write_json(folder / "report.json", as_json(report))
    yield folder / "report.json"


def _cyclonedx(report: Report, folder: Path) -> Iterator[Path]:
    yield _text(folder / "report.cdx.json", json.dumps(bill_of_materials(report), indent=2) + "\n")


def _latex(report: Report, folder: Path) -> Iterator[Path]:
    head = r"% Needs \usepackage{booktabs}; all columns are in the CSV files (--format csv)." + "\n"
    yield _text(folder / "report.tex", head + "\n".join(map(_tabular, report.tables)))


def _tabular(table: Table) -> str:
    columns = [key for key in table.columns if key in table.first]
    lines = [_line(columns), *(_line([row.cells[key] for key in columns]) for row in table.rows)]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{latex(table.title)}}}",
            rf"\label{{tab:{table.name}}}",
            rf"\begin{{tabular}}{{{'l' * len(columns)}}}",
            r"\toprule",
            lines[0],
            r"\midrule",
            *lines[1:],
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _line(cells: Sequence[str]) -> str:
    return " & ".join(map(latex, cells)) + r" \\"


def latex(text: str) -> str:
    """Return text as LaTeX shows it."""
    return "".join(SPECIAL.get(sign, sign) for sign in text)


def _figures(kind: str) -> Callable[[Report, Path], Iterator[Path]]:
    def write(report: Report, folder: Path) -> Iterator[Path]:
        for picture in report.pictures:
            if isinstance(picture, Picture):
                path = folder / f"{picture.name}.{kind}"
                write_atomically(path, lambda file, picture=picture: picture.save(file, kind))  # type: ignore[misc]
                yield path

    return write


def _text(path: Path, text: str) -> Path:
    write_atomically(path, lambda file: file.write(text.encode()))
    return path


def _markdown(report: Report, folder: Path) -> Iterator[Path]:
    """Write the tables as Markdown, with the picture of the curves."""
    curves = [one for one in report.pictures if isinstance(one, Picture) and one.name == "curves"]
    for picture in curves:
        write_atomically(folder / "curves.png", lambda file, picture=picture: picture.save(file, "png"))  # type: ignore[misc]
        yield folder / "curves.png"
    image = "".join(f"\n![{BRACKET.sub(ESCAPED, picture.alt)}](curves.png)\n" for picture in curves)
    yield _text(folder / "report.md", f"{report.markdown}\n{image}")


WRITERS: dict[str, Callable[[Report, Path], Iterator[Path]]] = {
    "html": _html,
    "md": _markdown,
    "csv": _csv,
    "latex": _latex,
    "json": _json,
    "svg": _figures("svg"),
    "pdf": _figures("pdf"),
    "cyclonedx": _cyclonedx,
}
"""By the name that ``--format`` knows."""
