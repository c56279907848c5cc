"""Read runs back from their directories."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from accupoison.config import Component
from accupoison.errors import InputError
from accupoison.files import read_json
from accupoison.recorder import read_metrics
from accupoison.rundir import CONFIG, ENV, RunDirectory
from accupoison.settings import REGISTRIES, OnlineConfig, online_config
from accupoison.tags import METRICS, SUMMARY

BUDGET = ("eps", "steps")
"""Settings that a protocol sets for all components; they are not part of a label."""


@dataclass(frozen=True)
class Run:
    """A run that has ended.

    Attributes:
        path: Its directory.
        config: Its settings.
        summary: What it found.
        burnin: Which base model it started from: a digest of the checkpoint.
        model: What network that is.
    """

    path: Path
    config: OnlineConfig
    summary: Mapping[str, Any]
    burnin: str
    model: str = ""

    @property
    def attack(self) -> str:
        """The attack's label: its name and what differs from its defaults."""
        return label("attack", self.config.attack)

    @property
    def defense(self) -> str:
        """The defence's label."""
        name = label("defense", self.config.defense)
        return f"{name} + clip {self.config.optim.clip_norm:g}" if self.config.optim.clip_norm < float("inf") else name

    @property
    def pair(self) -> tuple[str, int, str, str]:
        """What runs must share to be compared one to one: base model, seed, the clean images, and how it learns."""
        learning = replace(self.config.optim, clip_norm=float("inf"))  # clipping is a defence
        stream = replace(self.config.stream, replay=None)  # the same clean images
        return self.burnin, self.config.run.seed, f"{stream} {learning}", str(self.summary["clean_ids"])

    def followed(self, trigger: str) -> str:
        """Return the path of this run to set beside ``trigger``: the clean trigger, on a clean stream that has it."""
        clean = self.config.attack.name == "none" and "clean" in self.config.trigger.deliver
        return "clean" if clean else trigger

    def after(self, trigger: str, key: str = "acc") -> float | None:
        """Return a measure right after the trigger, or None where this run has none."""
        return self._mark(trigger, "after", key)

    def end(self, trigger: str, key: str = "acc") -> float | None:
        """Return a measure at the end of the recovery after a trigger, or None."""
        return self._mark(trigger, "end", key)

    def curve(self, tag: str, trigger: str) -> list[tuple[int, float]]:
        """Return (step, value) along the path that ends with ``trigger``."""
        rows = read_metrics(self.path / METRICS)
        return [(row["step"], row[tag]) for row in rows if tag in row and row["branch"] in ("", trigger)]

    def _mark(self, trigger: str, mark: str, key: str) -> float | None:
        value = self.summary["branches"].get(trigger, {}).get(mark, {}).get(key)
        return None if value is None else float(value)


def label(section: str, component: Component) -> str:
    """Return a component's name with the settings that differ from its defaults, budgets aside."""
    registry = REGISTRIES[section]
    usual = registry.build(component.name, {})
    differing = [
        f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in component.settings.items()
        if key not in BUDGET and value != getattr(usual, key)
    ]
    return f"{component.name} ({', '.join(differing)})" if differing else component.name


def collect(paths: Sequence[Path]) -> list[Run]:
    """Return the ended runs in ``paths`` and in the directories right below them.

    Raises:
        InputError: None of them holds a run that has ended.
    """
    candidates = sorted({folder for path in paths for folder in (path, *path.glob("*")) if folder.is_dir()})
    runs = []
    for folder in candidates:
        if RunDirectory.holds_run(folder) and (folder / SUMMARY).exists():
            summary, stored = read_json(folder / SUMMARY), read_json(folder / CONFIG)
            if summary["status"] in ("finished", "diverged") and "stream" in stored:
                env = read_json(folder / ENV)
                runs.append(Run(folder, online_config([stored]), summary, env["checkpoint"], env.get("model", "")))
    if not runs:
        raise InputError(
            f"no run has ended in {', '.join(str(path) for path in paths)}; give directories of online runs"
        )
    return runs
