"""Networks by name; every one takes images in [0, 1] and normalises them itself."""


def __getattr__(name: str) -> object:
    """Give ``ModelSpec`` and ``build_model`` without loading the networks for those who ask for something else."""
    if name in ("ModelSpec", "build_model"):
        from accupoison.models import factory

        return getattr(factory, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
