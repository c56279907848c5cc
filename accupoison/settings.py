"""The old name of :mod:`accupoison.config.schema`, for scripts that have it."""

from accupoison.config.schema import BurninConfig, OnlineConfig, burnin_config, online_config

__all__ = ["BurninConfig", "OnlineConfig", "burnin_config", "online_config"]
