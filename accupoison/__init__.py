"""Simulate poisoning of models that learn from a stream, defend against it, and measure both.

What is listed here is loaded when it is first asked for, so that ``import accupoison`` costs nothing:

>>> import accupoison as ap
>>> base = ap.burn_in(recipe="demo", epochs=2, out="checkpoints/two", resume=True)
>>> run = ap.online(base, preset="demo", med="ST", steps=2, out="logs/ST")
>>> run.accuracy("start") == base.accuracy, run.accuracy("after") < 1
(True, True)
"""

from typing import TYPE_CHECKING

__version__ = "0.2.0"

if TYPE_CHECKING:
    from accupoison.api import Base as Base
    from accupoison.api import Loop as Loop
    from accupoison.api import Run as Run
    from accupoison.api import audit_run as audit_run
    from accupoison.api import burn_in as burn_in
    from accupoison.api import craft as craft
    from accupoison.api import online as online
    from accupoison.api import open_run as open_run
    from accupoison.api import report as report
    from accupoison.api import steps as steps
    from accupoison.attacks import ATTACKS as ATTACKS
    from accupoison.attacks import Attack as Attack
    from accupoison.attacks import PixelAttack as PixelAttack
    from accupoison.data import DataSet as DataSet
    from accupoison.defenses import DEFENSES as DEFENSES
    from accupoison.defenses import Defense as Defense
    from accupoison.errors import InputError as InputError
    from accupoison.release import Release as Release
    from accupoison.types import Batch as Batch
    from accupoison.types import Context as Context
    from accupoison.types import ModelView as ModelView
    from accupoison.types import Step as Step

_ROOMS = {
    "api": ("Base", "Loop", "Run", "audit_run", "burn_in", "craft", "online", "open_run", "report", "steps"),
    "attacks": ("ATTACKS", "Attack", "PixelAttack"),
    "data": ("DataSet",),
    "defenses": ("DEFENSES", "Defense"),
    "errors": ("InputError",),
    "release": ("Release",),
    "types": ("Batch", "Context", "ModelView", "Step"),
}
_HOMES = {name: room for room, names in _ROOMS.items() for name in names}
__all__ = sorted(_HOMES)  # each is listed once


if not TYPE_CHECKING:  # which would take any name for one of ours

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
