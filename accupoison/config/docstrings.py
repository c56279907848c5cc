"""What docstrings, and the comments that files begin with, say of settings and of things by name."""

import inspect
import re

ENTRY = re.compile(r"^    (\w+): (.+(?:\n {8,}.+)*)", re.MULTILINE)
ROLE = re.compile(r":\w+:`~?(?:[\w.]+\.)?([^`.]+)`|``([^`]*)``")
"""Markup of Sphinx: a reference, whose last name is enough, or code."""
SENTENCE = re.compile(r"(.+?)\.(?=\s+[A-Z]|\s*$)", re.DOTALL)


def attributes(cls: type) -> dict[str, str]:
    """Return what the docstrings of a class and of those that it derives from say under ``Attributes:``, by name."""
    texts: dict[str, str] = {}
    for kind in reversed(cls.__mro__):
        _, _, section = inspect.cleandoc(kind.__doc__ or "").partition("Attributes:\n")
        texts |= {name: " ".join(text.split()) for name, text in ENTRY.findall(section.partition("\n\n")[0])}
    return texts


def gist(text: str | None, code: str = "") -> str:
    """Return the first sentence of a docstring or a comment, without its full stop.

    Args:
        text: The whole.
        code: What stands on both sides of names in code: nothing on a terminal, a backtick in Markdown.
    """
    words = marked(" ".join((text or "").split()), code)
    found = SENTENCE.match(words)
    return found[1] if found else words


def marked(text: str, code: str) -> str:
    """Return ``text`` with ``code`` on both sides of what Sphinx takes for names in code."""
    return ROLE.sub(lambda match: f"{code}{match[1] or match[2]}{code}", text)


def comment(text: str) -> str:
    """Return the comment that a TOML file begins with, on one line, up to a command that is indented in it."""
    lines = re.match(r"(?:# \S.*\n)*", text)
    return " ".join(line[2:] for line in (lines[0] if lines else "").splitlines())
