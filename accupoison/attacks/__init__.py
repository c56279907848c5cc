"""Attacks on the stream, by name in :data:`ATTACKS`; every module of this folder is loaded."""

import importlib
import pkgutil

from accupoison.attacks.accumulative import Accumulative
from accupoison.attacks.base import ATTACKS, Attack
from accupoison.attacks.greedy import Direct
from accupoison.attacks.noise import Noise
from accupoison.attacks.none import Clean
from accupoison.attacks.pixel import PixelAttack

__all__ = ["ATTACKS", "Accumulative", "Attack", "Clean", "Direct", "Noise", "PixelAttack"]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
