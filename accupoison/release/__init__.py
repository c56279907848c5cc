"""What leaves a model in place of its probabilities, by name in :data:`RELEASES`; every module here is loaded."""

import importlib
import pkgutil

from accupoison.release.base import RELEASES, Identity, Release

__all__ = ["RELEASES", "Identity", "Release"]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
