"""Exceptions that stand for bad input, and for components that break their word, rather than for a bug here."""

import difflib
from collections.abc import Iterable


class InputError(Exception):
    """Something the user gave cannot be used.

    The message is one sentence that names the value and the fix; the command line prints it and exits with code 2.
    """


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


def did_you_mean(value: str, choices: Iterable[str]) -> str:
    """Return ``"; did you mean X?"`` for the closest of ``choices``, or the list of them when none is close."""
    known = sorted(set(choices))
    folded = {name.lower(): name for name in known}
    close = difflib.get_close_matches(value.lower(), folded, n=1, cutoff=0.5)
    return f"; did you mean {folded[close[0]]}?" if close else f"; choose from {', '.join(known)}"
