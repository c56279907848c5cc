"""The old name of :mod:`accupoison.runs.base_model`, for scripts that have it."""

from accupoison.runs.base_model import BaseModel

__all__ = ["BaseModel"]
