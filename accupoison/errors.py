"""Exceptions that stand for bad input, and for components that break their word, rather than for a bug here."""

import difflib
import re
import shlex
from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType

SETTING = re.compile(
    r"<((?:data|model|train|start|stream|attack|trigger|defense|optim|update|stop|evaluate|run|shadows|release)\.[a-z_]+)>"
)


class InputError(Exception):
    """Something the user gave cannot be used.

    The command line prints one sentence, which names the value and the fix, and exits with code 2.

    Args:
        message: The sentence; a setting in angle brackets, such as ``<data.name>``, becomes an option where there is
            one.
        command: The command that mends it, which then ends the sentence, such as "burnin".
        options: Settings ("section.key") and flags ("resume") of that command.
    """

    def __init__(self, message: str, command: str = "", options: Mapping[str, object] = MappingProxyType({})) -> None:
        super().__init__(message, command, dict(options))

    def __str__(self) -> str:
        return self.text("accupoison", {})

    def text(self, program: str, flags: Mapping[str, str]) -> str:
        """Return the sentence.

        Args:
            program: How the command line is called, such as "python cli.py".
            flags: The option of a setting, by "section.key"; those without are named as they are.
        """
        message, command, options = self.args
        sentence = SETTING.sub(lambda match: flags.get(match[1], match[1]), message)
        if not command:
            return sentence
        words = [program, command]
        for name, value in options.items():
            flag = flags.get(name, f"--{name}" if "." not in name else "")
            words += [flag, str(value)] if flag else ["--set", f"{name}={value}"]
        return f"{sentence}: {' '.join(words[:2])} {shlex.join(words[2:])}".rstrip()


class ComponentError(Exception):
    """An attack or a defence returned a batch that no step can go on with: who, and what is wrong with it.

    Other exceptions in the code of a component pass on with their traceback: they are bugs, and their authors want it.
    """


class RangeError(ValueError):
    """Inputs are not in the range that they must be in, or not of the type: what is wrong, a semicolon, and the fix."""

    @property
    def what(self) -> str:
        """What is wrong; the fix is for who makes a batch by hand."""
        return str(self).partition(";")[0]


def first_line(error: BaseException, *, named: bool = False) -> str:
    """Return the first line of what an exception says, or its type where it says nothing; ``named``: after its type."""
    name = type(error).__name__
    return (f"{name}: {error}" if named else str(error).strip() or name).splitlines()[0]


def did_you_mean(value: str, choices: Iterable[str]) -> str:
    """Return ``"; did you mean X?"`` for the closest of ``choices``, or the list of them when none is close."""
    known = sorted(set(choices))
    folded = {name.lower(): name for name in known}
    close = difflib.get_close_matches(value.lower(), folded, n=1, cutoff=0.5)
    return f"; did you mean {folded[close[0]]}?" if close else f"; choose from {', '.join(known)}"


def check_choice(what: str, value: str, choices: Collection[str]) -> None:
    """Raise InputError, with the closest of ``choices``, unless ``value`` is one of them.

    Args:
        what: What is chosen, such as ``stream.pool``.
        value: What was given.
        choices: What there is.

    Raises:
        InputError: ``value`` is none of ``choices``.
    """
    if value not in choices:
        raise InputError(f"unknown {what} {value!r}{did_you_mean(value, choices)}")


def check_least(what: str, value: float | None, least: int, fix: str) -> None:
    """Raise InputError if ``value`` is below ``least``.

    Args:
        what: What is given, such as ``attack.steps``.
        value: What was given; None is always fine.
        least: The smallest value.
        fix: What to give instead.

    Raises:
        InputError: ``value`` is too small.
    """
    if value is not None and value < least:
        raise InputError(f"{what} {value} is {f'below {least}' if least else 'negative'}; give {fix}")
