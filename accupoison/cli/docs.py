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
    sections = "\n".join(map(_section, _contexts(_context(cli, None))))
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


def _contexts(context: click.Context) -> Iterator[click.Context]:
    """Yield the context of a command, and then those of the commands below it, in the order of the help."""
    yield context
    for child in _children(context):
        yield from _contexts(child)


def _children(context: click.Context) -> list[click.Context]:
    group = context.command
    if not isinstance(group, click.Group):
        return []
    commands = [group.get_command(context, name) for name in group.list_commands(context)]
    return [_context(command, context) for command in commands if command is not None and not command.hidden]


def _section(context: click.Context) -> str:
    command = context.command
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    parts = [f"## {context.command_path}", f"```\n{usage}\n```", *_paragraphs(command.help or "")]
    commands = [(str(child.info_name), child.command.get_short_help_str(200)) for child in _children(context)]
    options = [parameter.get_help_record(context) for parameter in command.get_params(context)]
    parts += [_table("command", commands), _table("option", [record for record in options if record is not None])]
    return "\n\n".join(part for part in parts if part) + "\n"


def _paragraphs(text: str) -> Iterator[str]:
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        lines = paragraph.splitlines()
        yield "\n".join(["```", *lines[1:], "```"]) if lines[:1] == [VERBATIM] else paragraph


def _table(title: str, rows: list[tuple[str, str]]) -> str:
    escaped = [[cell.replace("\n", " ").replace("|", r"\|") for cell in row] for row in rows]
    lines = [f"| `{name}` | {meaning} |" for name, meaning in escaped]
    return "\n".join([f"| {title} | meaning |", "|---|---|", *lines]) if lines else ""
