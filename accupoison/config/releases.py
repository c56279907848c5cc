"""A release from its spec, with settings checked like those of a configuration."""

from dataclasses import dataclass, field

from accupoison.config.layers import resolve
from accupoison.release import RELEASES, Identity, Release
from accupoison.release.spec import settings_of


@dataclass(frozen=True, kw_only=True)
class _Only:
    """A configuration with this one section."""

    release: Release = field(default_factory=Identity)


def parse_release(text: str) -> Release:
    """Return the release that a spec names.

    Args:
        text: Such as ``identity``, ``round:2`` or ``defenmi:budget=0.5``; see :mod:`accupoison.release.spec`.

    Raises:
        InputError: There is no such release or setting (with the closest one), or a value does not fit.
    """
    return resolve(_Only, [{"release": settings_of(text)}], {"release": RELEASES}).release
