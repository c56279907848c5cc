"""The command group."""

import errno
import os
import shlex
import shutil
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

import accupoison
from accupoison.config.flags import CHECKPOINTS as CHECKPOINTS
from accupoison.config.flags import LOGS as LOGS
from accupoison.errors import InputError
from accupoison.records.files import is_text
from accupoison.runs.interrupt import exit_code, raise_on_signals


def started(path: str) -> str:
    """Return what starts the program at ``path``, the first word of ``sys.argv``, once more, quoted for the shell."""
    match Path(path).parts[-2:]:
        case ("accupoison", "__main__.py"):
            return "python -m accupoison"
        case (*_, "accupoison" | "accupoison.exe"):
            return "accupoison" if shutil.which("accupoison") else shlex.quote(path)
        case (*_, "cli.py"):
            return f"python {shlex.quote(path)}"
    return "python cli.py"


PROGRAM = started(sys.argv[0])
"""How this command line was started, for commands that it proposes."""


def command_line(*words: object) -> str:
    """Return a command of this program as a shell takes it."""
    return f"{PROGRAM} {shlex.join(map(str, words))}"


LONGEST = 2000
"""Characters of an error message; what is longer quotes a value of that length, of which the ends are enough."""
MEMORY = "there is not enough memory for this; use smaller batches, a smaller width, fewer steps or fewer --jobs"


class Failure(click.ClickException):
    """Bad input: one sentence, exit code 2."""

    exit_code = 2

    def format_message(self) -> str:
        """Return the sentence on one line that a terminal can show."""
        text = one_line(self.message)
        return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"


def one_line(text: str) -> str:
    """Return ``text`` with control characters and halves of characters escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


class RenamingGroup(click.Group):
    """A group whose commands answer to the names that they had before, too, and say the new one on standard error.

    Args:
        renamed: New names of commands by old ones.
    """

    def __init__(self, *args: Any, renamed: Mapping[str, str] | None = None, **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(*args, **kwargs)
        self._renamed = dict(renamed or {})

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:  # noqa: ANN401
        """Return the command that the first of ``args`` names."""
        if args and args[0] in self._renamed:
            new = self._renamed[args[0]]
            click.echo(f"{args[0]} is now called {new}", err=True)
            args = [new, *args[1:]]
        return super().resolve_command(ctx, args)


class CommandGroup(click.Group):
    """A group that turns bad input into one line."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Refuse what no file can be called or no terminal can show, before anything is started."""
        for argument in args:
            if not is_text(argument):
                raise Failure(f"the argument {argument!r} is no text in UTF-8; rename the file or write another word")
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except click.NoSuchOption as error:
            raise _without_old_names(error) from None
        except KeyboardInterrupt as error:
            with suppress(OSError):  # the terminal may be what has gone
                click.echo("interrupted; the same command goes on with what is left", err=True)
            ctx.exit(exit_code(error))
        except InputError as error:
            from accupoison.cli.options import option_names  # which imports this module

            raise Failure(error.text(PROGRAM, option_names())) from error
        except (OSError, RecursionError, MemoryError, RuntimeError, UnicodeError) as error:
            if (sentence := _said(error)) is None:
                raise
            raise Failure(sentence) from error


def _without_old_names(error: click.NoSuchOption) -> click.NoSuchOption:
    """Return the same error without options that are hidden among those that it suggests."""
    params = error.ctx.command.params if error.ctx else []
    hidden = {name for option in params if getattr(option, "hidden", False) for name in option.opts}
    shown = [name for name in error.possibilities or () if name not in hidden]
    return click.NoSuchOption(error.option_name, error.message, shown, error.ctx)


def _said(error: Exception) -> str | None:
    """Return one sentence for what the system refuses wherever it is met, or None for what only a bug can be."""
    match error:
        case OSError() if error.errno == errno.EPIPE or error.strerror is None:
            return None  # whoever read the output has gone; click knows what to do
        case OSError():
            where, fixes = error.filename or "a file", {errno.ENAMETOOLONG: "give a shorter name"}
            fix = fixes.get(error.errno or 0, "check the path and its permissions, or choose another")
            name = os.fsdecode(where) if isinstance(where, bytes) else where
            return f"{name} may not be used ({error.strerror}); {fix}"
        case RecursionError():
            return "the input has too many tables or lists in each other; write it flatter"
        case MemoryError():
            return MEMORY
        case RuntimeError() if "allocate memory" in str(error) or "out of memory" in str(error):
            return MEMORY  # torch has no type of its own for it on CPUs
        case UnicodeError():
            return f"a text is not UTF-8 ({error}); rename the file, or write its contents in UTF-8"
    return None


HELP = f"""Poison a model that learns from a stream, defend it, and measure both.

\b
First a base model, then a poisoned stream, then the curves:
  {command_line("burnin")}
  {command_line("online", "--med", "OURS")}
  tensorboard --logdir {LOGS}

\b
Or defences side by side, with what is missing made first:
  {command_line("compare", "--med", "ST,OURS")}
"""


@click.group(
    cls=CommandGroup,
    help=HELP,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(accupoison.__version__, prog_name="accupoison")
def cli() -> None:
    """Be the command line."""


def _thread_failed(failure: threading.ExceptHookArgs) -> None:
    """Keep quiet about a full disk in TensorBoard's own thread: the main thread meets the same error and says it."""
    if not isinstance(failure.exc_value, OSError):
        threading.__excepthook__(failure)


def main() -> None:
    """Run the command line."""
    raise_on_signals()
    threading.excepthook = _thread_failed
    here = str(Path.cwd())
    if here not in sys.path:  # a script that pip installed does not have it there, and --model may need it
        sys.path.insert(0, here)
    cli.main(prog_name=PROGRAM)
