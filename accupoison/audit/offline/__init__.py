"""Audits of a way of training, with shadow models."""


def __getattr__(name: str) -> object:
    """Give what scripts ask of this package most, without loading it for those who ask for something else."""
    if name == "signals":
        from accupoison.audit.signals import signals

        return signals
    if name in ("offline_config", "run_offline"):
        from accupoison.audit.offline import shadow_models

        return getattr(shadow_models, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
