"""Settings: from layers of text to frozen, checked dataclasses."""


def __getattr__(name: str) -> object:
    """Give what scripts ask of this package most, without loading it for those who ask for something else."""
    if name in ("preset", "read_toml", "resolve"):
        from accupoison.config import layers

        return getattr(layers, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
