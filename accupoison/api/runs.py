"""A burn-in and an online run from Python: to the end, or step by step."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Unpack

from torch import nn

from accupoison.api.keywords import BurninKeywords, OnlineKeywords, Settings, Watched, keyword_layers, say, told
from accupoison.api.objects import checkpoint, model_name
from accupoison.config.flags import CHECKPOINTS, LOGS
from accupoison.config.layers import Layer, preset
from accupoison.config.schema import OnlineConfig, burnin_config, online_config
from accupoison.errors import InputError
from accupoison.measure.accuracy import evaluate
from accupoison.measure.evaluator import Evaluator
from accupoison.records.run_directory import RunDirectory, next_free
from accupoison.runs.build import Built, build_simulation
from accupoison.runs.burnin import run_burnin
from accupoison.runs.online import OnlineRun
from accupoison.runs.places import default_place, division_of, run_name
from accupoison.study.collect import Run, read_run
from accupoison.types import Step

__all__ = ["Base", "Loop", "Run", "burn_in", "online", "open_run", "steps"]


@dataclass(frozen=True)
class Base:
    """A base model: what a burn-in has left.

    Attributes:
        path: Its directory, with ``final.pt``.
        summary: What the burn-in has found.
    """

    path: Path
    summary: Mapping[str, Any] = field(repr=False)

    @property
    def accuracy(self) -> float:
        """Test accuracy, in [0, 1]."""
        return float(self.summary["test_acc"])


Start = Base | str | Path | nn.Module
"""What a stream goes on from: a burn-in or its directory, a file of weights, or a network with its weights."""


def burn_in(
    *,
    recipe: str = "online_ready",
    out: str | Path | None = None,
    resume: bool = False,
    settings: Settings | None = None,
    progress: Watched = False,
    **keywords: Unpack[BurninKeywords],
) -> Base:
    """Train a base model, as the command ``burnin`` does.

    Args:
        recipe: All training options.
        out: The directory to write; None is the default place under ``checkpoints``.
        resume: Go on with what is there; a burn-in that is over is returned as it is.
        settings: Any setting by "section.key".
        progress: True writes a line to standard error; a function is told (steps done, steps in all, a few words).
        **keywords: The words of the command's options. ``data`` may be arrays, (x, y) or (train_x, train_y, test_x,
            test_y); ``model`` a module, or what makes one when called with ``num_classes``; ``med``, ``attack`` and
            ``update`` classes or instances.

    Returns:
        The base model.

    Raises:
        InputError: Something given cannot be used.

    Example:
        >>> import accupoison as ap
        >>> base = ap.burn_in(recipe="demo", epochs=2, out="checkpoints/two", resume=True)
        >>> 0 < base.accuracy < 1
        True
    """
    own = keyword_layers(keywords, settings, BurninKeywords)
    config = burnin_config([preset("burnin", recipe, say), *own], say)
    train, seed = config.train, config.run.seed
    usual = default_place(CHECKPOINTS, config.data.name, config.model, train.recipe, seed, config.parties, train.epochs)
    place = usual if out is None else Path(out)
    again = resume and RunDirectory.holds_run(place)
    return Base(place, run_burnin(config, place, resume=again, progress=told(progress)))


def online(
    base: Start | None = None,
    *,
    preset: str = "fresh",
    out: str | Path | None = None,
    resume: bool = False,
    settings: Settings | None = None,
    progress: Watched = False,
    **keywords: Unpack[OnlineKeywords],
) -> Run:
    """Run a poisoned stream to its end, as the command ``online`` does, and return what it has found.

    Args:
        base: The model that the stream goes on from, with the data and the division of its burn-in; of a module,
            ``data`` says them. None is the default place of the keywords.
        preset: A whole protocol.
        out: The directory to write; None is a new one under ``logs``.
        resume: Go on with the run that is in ``out``, if there is one; one that is over is returned as it is.
        settings: Any setting by "section.key".
        progress: As in :func:`burn_in`.
        **keywords: The words of the command's options; see :func:`burn_in`.

    Raises:
        InputError: Something given cannot be used.

    Example:
        >>> import accupoison as ap
        >>> base = ap.burn_in(recipe="demo", epochs=2, out="checkpoints/two", resume=True)
        >>> run = ap.online(base, preset="demo", med="CLIP", steps=2, out="logs/clip", resume=True)
        >>> len(run.metrics), run.accuracy("start") == base.accuracy
        (6, True)
    """
    config = _config(base, preset, keywords, settings)
    med = keywords.get("med")
    usual = LOGS / run_name(config, med if isinstance(med, str) else None)
    place = Path(out) if out is not None else usual if resume else next_free(usual)
    again = resume and RunDirectory.holds_run(place)
    OnlineRun(config, CHECKPOINTS, place, resume=again).run(told(progress))
    return open_run(place)


def open_run(path: str | Path) -> Run:
    """Return a run that has ended, from its directory.

    Raises:
        InputError: There is none.
    """
    if (run := read_run(Path(path))) is None:
        raise InputError(f"no run has ended in {path}; check the path, or go on with it by online(..., resume=True)")
    return run


class Loop:
    """An online run in memory: iterate over its steps; nothing is written.

    Attributes:
        simulation: The loop itself: learner, stream, attack, defence.
        data: The samples.
        splits: Who gets which.
    """

    def __init__(self, config: OnlineConfig, built: Built) -> None:
        self.simulation, self.data, self.splits = built.simulation, built.data, built.splits
        parts = (built.simulation, built.data, built.splits, config.evaluate, config.stop, config.data.novel_classes)
        self._evaluator = Evaluator(*parts)

    @property
    def model(self) -> nn.Module:
        """The network, with the weights that it has now."""
        return self.simulation.learner.model

    def accuracy(self) -> float:
        """Return the test accuracy, in [0, 1], of the model that users meet now, such as the average of EMA."""
        return evaluate(self.simulation.served.view(), self.data, self.splits.test)[0]

    def __iter__(self) -> Iterator[Step]:
        """Yield each step once it is done; its metrics are those that a run records."""
        if not self._evaluator.summary.steps:
            self._evaluator.start()
        for step in self.simulation.run():
            step.metrics |= self._evaluator.measure(step)
            yield step


def steps(
    base: Start | None = None,
    *,
    preset: str = "fresh",
    settings: Settings | None = None,
    **keywords: Unpack[OnlineKeywords],
) -> Loop:
    """Return an online run to iterate over, step by step, with its batches and its model; nothing is written.

    Args:
        base: As in :func:`online`.
        preset: A whole protocol.
        settings: Any setting by "section.key".
        **keywords: The words of the command's options.

    Raises:
        InputError: Something given cannot be used.

    Example:
        >>> import accupoison as ap
        >>> base = ap.burn_in(recipe="demo", epochs=2, out="checkpoints/two", resume=True)
        >>> loop = ap.steps(base, preset="demo", attack="noise", trigger="clean", steps=2)
        >>> [(step.t, step.phase.value, bool((step.sent.x != step.clean.x).any())) for step in loop][:4]
        [(0, 'ordinary', True), (1, 'ordinary', True), (2, 'fire', False), (3, 'recover', False)]
    """
    config = _config(base, preset, keywords, settings)
    return Loop(config, build_simulation(config, CHECKPOINTS))


def _config(base: Start | None, protocol: str, keywords: OnlineKeywords, settings: Settings | None) -> OnlineConfig:
    own = keyword_layers(keywords, settings, OnlineKeywords)
    first = [preset("online", protocol, say), *([] if base is None else [_started(base)])]
    return online_config([*first, division_of(online_config([*first, *own], say), CHECKPOINTS), *own], say)


def _started(base: Start) -> Layer:
    """Return the settings that name a base model."""
    if isinstance(base, nn.Module):
        return {"start": {"checkpoint": str(checkpoint(base))}, "model": {"name": model_name(base)}}
    return {"start": {"checkpoint": str(base.path if isinstance(base, Base) else base)}}
