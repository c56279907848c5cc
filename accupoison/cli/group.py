"""The command group."""

import sys
import threading
from pathlib import Path

import click

import accupoison
from accupoison.errors import InputError
from accupoison.interrupt import exit_code, raise_on_signals
from accupoison.memory import keep_freed_memory

CHECKPOINTS, LOGS = Path("checkpoints"), Path("logs")


class Failure(click.ClickException):
    """Bad input: one sentence, exit code 2."""

    exit_code = 2


class Group(click.Group):
    """A group that turns bad input into one line."""

    def invoke(self, ctx: click.Context) -> object:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            click.echo("interrupted; the same command goes on with what is left", err=True)
            ctx.exit(exit_code(error))
        except InputError as error:
            raise Failure(str(error)) from error
        except PermissionError as error:  # a directory that may not be searched, met before anything is opened
            where = error.filename or "a file"
            raise Failure(
                f"{where} may not be used ({error.strerror}); check its permissions or choose another"
            ) from error


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(accupoison.__version__, prog_name="accupoison")
def cli() -> None:
    """Poison a model that learns from a stream, defend it, and measure both.

    \b
    First a base model, then a poisoned stream, then the curves:
      python cli.py burnin
      python cli.py online --med OURS
      tensorboard --logdir logs
    """  # noqa: D301


def _thread_failed(failure: threading.ExceptHookArgs) -> None:
    """Keep quiet about a full disk in TensorBoard's own thread: the main thread meets the same error and says it."""
    if not isinstance(failure.exc_value, OSError):
        threading.__excepthook__(failure)


def main() -> None:
    """Run the command line."""
    raise_on_signals()
    threading.excepthook = _thread_failed
    keep_freed_memory()
    here = str(Path.cwd())
    if here not in sys.path:  # a script that pip installed does not have it there, and --model may need it
        sys.path.insert(0, here)
    cli.main(prog_name="accupoison")
