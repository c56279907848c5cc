"""A release in one word, such as ``defenmi:budget=0.5``, ``round:2`` or ``label-only``."""

import re

from accupoison.errors import InputError
from accupoison.release.base import RELEASES


def settings_of(text: str) -> dict[str, str]:
    """Return the ``name`` of a release and its settings, as text, in the form of a section of the configuration.

    Args:
        text: ``NAME``, ``NAME:VALUE`` with the value of its first setting, or ``NAME:KEY=VALUE,KEY=VALUE``.
            NAME may be a path, ``package.module:CLASS``.

    Raises:
        InputError: There is no such release, or a setting is not of this form or given twice.
    """
    name, colon, rest = text.strip().partition(":")
    if colon and RELEASES.is_path(path := f"{name}:{rest.partition(':')[0].strip()}"):
        name, colon, rest = path, *rest.partition(":")[1:]
    name = RELEASES.canonical(name.strip())
    found = {"name": name}
    if not colon:
        return found
    known = list(RELEASES.settings(name))
    for number, part in enumerate(re.split(r",(?=[^,=]*=)", rest)):  # a list has commas of its own
        key, equals, value = (word.strip() for word in part.partition("="))
        if not equals and not number and known:
            key, value = known[0], key
        elif not equals and not number:
            raise InputError(f"the release {name} has no settings, and {text!r} gives it some; give {name} alone")
        if not key or not value:
            example = f"{name}:{known[0]}=VALUE" if known else name
            raise InputError(f"the release {text!r} is not of the form NAME:KEY=VALUE; write it like {example}")
        if key in found:
            raise InputError(f"the release {text!r} gives {key} twice; drop one")
        found[key] = value
    return found
