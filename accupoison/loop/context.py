"""What a hook of an attack, defence or update rule receives."""

from torch import Generator

from accupoison.rng import generator


class StepContext:
    """The :class:`~accupoison.types.Context` of one hook in one step."""

    def __init__(self, seed: int, role: str, t: int, metrics: dict[str, float]) -> None:
        self._seed, self._role, self._t, self._metrics = seed, role, t, metrics

    @property
    def t(self) -> int:
        """The step."""
        return self._t

    def rng(self, *names: str) -> Generator:
        """Return a generator for this hook, step and purpose."""
        return generator(self._seed, self._role, self._t, *names)

    def log(self, tag: str, value: float) -> None:
        """Add a scalar to the step's metrics."""
        self._metrics[tag] = value
