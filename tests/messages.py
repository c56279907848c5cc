"""What error messages are held to: the value that is named and the fix, not the prose between them."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from accupoison.errors import InputError


def says(message: object, words: str) -> None:
    """Hold that a message is one line that has the space-separated ``words``, whole and in this order."""
    line = str(message).strip()
    assert "\n" not in line
    assert "Traceback" not in line
    at = 0
    for word in words.split():
        left, right = r"(?<!\w)" * word[0].isalnum(), r"(?!\w)" * word[-1].isalnum()
        hit = re.compile(left + re.escape(word) + right).search(line, at)
        assert hit, f"no {word!r} of {words!r}, or not in its place: {line}"
        at = hit.end()


@contextmanager
def refuses(words: str, error: type[Exception] = InputError) -> Iterator["pytest.ExceptionInfo[Exception]"]:
    """Expect an error that says ``words``."""
    with pytest.raises(error) as caught:
        yield caught
    says(caught.value, words)
