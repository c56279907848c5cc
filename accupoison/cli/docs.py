"""docs/cli.md, made from the commands themselves."""

import inspect
from collections.abc import Iterator

import click

from accupoison.cli.group import cli

REGENERATE = "python -c \"from accupoison.cli.docs import cli_markdown; print(cli_markdown(), end='')\" > docs/cli.md"
VERBATIM = "\b"
"""Begins a paragraph of a help text that must keep its line breaks."""


def cli_markdown() -> str:
    """Return docs/cli.md."""
    sections = "\n".join(_section(command, context) for command, context in _commands(_context(cli, None)))
    return f"""# Command line

<!-- Generated from the commands; write it anew with
{REGENERATE} -->

`python cli.py` from a checkout, `python -m accupoison` and, once installed, `accupoison` are the same program.
Bad input ends with one line on standard error and exit code 2. Ctrl-C, SIGTERM and SIGHUP stop a command with exit code
130, 143 or 129: `burnin`, `online` and `sweep` first save where they are (a second signal stops at once, and the last
save stays), and every command says how to go on. For clusters that restart jobs there is `--resume-or-start`.

{sections}"""


def _context(command: click.Command, parent: click.Context | None) -> click.Context:
    name = "accupoison" if parent is None else command.name
    return click.Context(command, parent, info_name=name, **command.context_settings)


def _commands(context: click.Context) -> Iterator[tuple[click.Command, click.Context]]:
    """Yield a command with its context, and then those below it, in the order of the help."""
    command = context.command
    yield command, context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            if child is not None and not child.hidden:
                yield from _commands(_context(child, context))


def _section(command: click.Command, context: click.Context) -> str:
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    parts = [f"## {context.command_path}", f"```\n{usage}\n```", *_paragraphs(command.help or "")]
    if isinstance(command, click.Group):
        parts.append(_table("command", _children(command, context)))
    options = [parameter.get_help_record(context) for parameter in command.get_params(context)]
    parts.append(_table("option", [record for record in options if record is not None]))
    return "\n\n".join(part for part in parts if part) + "\n"


def _children(group: click.Group, context: click.Context) -> list[tuple[str, str]]:
    found = ((name, group.get_command(context, name)) for name in group.list_commands(context))
    return [(name, child.get_short_help_str(200)) for name, child in found if child is not None and not child.hidden]


def _paragraphs(text: str) -> Iterator[str]:
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        lines = paragraph.splitlines()
        yield "\n".join(["```", *lines[1:], "```"]) if lines[:1] == [VERBATIM] else paragraph


def _table(title: str, rows: list[tuple[str, str]]) -> str:
    escaped = [[cell.replace("\n", " ").replace("|", r"\|") for cell in row] for row in rows]
    lines = [f"| `{name}` | {meaning} |" for name, meaning in escaped]
    return "\n".join([f"| {title} | meaning |", "|---|---|", *lines]) if lines else ""
