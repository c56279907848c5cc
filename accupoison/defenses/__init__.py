"""Defences that intercept each batch before the update, by name in :data:`DEFENSES`; every module here is loaded."""

import importlib
import pkgutil

from accupoison.defenses.at import AdversarialTraining
from accupoison.defenses.base import DEFENSES, Defense
from accupoison.defenses.clip import Clip
from accupoison.defenses.dsc import DiscrepancyCorrection
from accupoison.defenses.freeze import Freeze
from accupoison.defenses.trades import Trades

__all__ = ["DEFENSES", "AdversarialTraining", "Clip", "Defense", "DiscrepancyCorrection", "Freeze", "Trades"]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
