"""Read runs back from their directories."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from accupoison.config.layers import plain
from accupoison.config.schema import OnlineConfig, online_config
from accupoison.config.threat_model import online_threat
from accupoison.errors import InputError
from accupoison.records.files import Wanted, expect, flatten, read_json
from accupoison.records.recorder import read_metrics
from accupoison.records.run_directory import CONFIG, ENV
from accupoison.records.tags import METRICS, SUMMARY, THREAT
from accupoison.registry import Component

BUDGET = ("eps", "steps")
"""Settings that a protocol sets for all components; they are not part of a label."""
REPLICATION = ("start.seed", "start.checkpoint", "start.reference", "run.", "evaluate.", "data.dir", "data.offline")
"""Settings that replicates may differ in: base model, seed, and how the run was carried out and watched."""
ENDED = ("finished", "diverged")
MARK: dict[Any, Wanted] = {"acc": float, str: float}
RECORDED: dict[Any, Wanted] = {
    "status": str,
    "threat_model": str,
    "horizon": int,
    "clean_ids": str,
    "start": MARK,
    "before?": MARK,
    "branches": {str: {str: MARK}},
    "means": {str: float},
}
"""What a report reads of a summary; see :func:`accupoison.records.files.expect`."""

KNOWN = ("objective", "stage", "ids", "note")
"""Parts of a threat model that do not depend on whether the data are images."""


@dataclass(frozen=True)
class Run:
    """A run that has ended.

    Attributes:
        path: Its directory.
        config: Its settings.
        summary: What it found.
        burnin: Which base model it started from: a digest of the checkpoint.
        model: What network that is.
        data: A digest of the data set; "" in runs of older versions.
        stored_threat: What ``threat.json`` holds; None in runs of older versions.
        computed: In which precision, on what; "" in runs of older versions.
    """

    path: Path
    config: OnlineConfig
    summary: Mapping[str, Any]
    burnin: str
    model: str = ""
    data: str = ""
    stored_threat: Mapping[str, Any] | None = None
    computed: str = ""

    @property
    def attack(self) -> str:
        """The attack's label: its name and what differs from its defaults."""
        return label(self.config.attack)

    @property
    def defense(self) -> str:
        """The defence's label."""
        name = label(self.config.defense)
        clip = self.config.update.clip_norm
        return f"{name} + clip {clip:g}" if clip < float("inf") else name

    @property
    def threat(self) -> Mapping[str, Any]:
        """The threat model as data; of a run that has not stored it, what its settings say."""
        if self.stored_threat is not None:
            return self.stored_threat
        made = online_threat(self.config).as_dict()
        return {"line": self.summary["threat_model"], **{key: made[key] for key in KNOWN}}

    @property
    def pair(self) -> tuple[str, int, str, str]:
        """What runs must share to be compared one to one: base model, seed, the clean images, and how it learns."""
        stream = replace(self.config.stream, replay=None)  # the same clean images
        return self.burnin, self.config.run.seed, f"{stream} {self.config.optim}", str(self.summary["clean_ids"])

    @property
    def experiment(self) -> dict[str, Any]:
        """The settings, by "section.key", that replicates share."""
        leaves = flatten(plain(self.config))
        settings = {key: value for key, value in leaves if not key.startswith((*REPLICATION, "model."))}
        anew = "anew at every step" if "optimised" in self.config.trigger.types else "once"
        derived = {"model": self.model, "stream.replay": self.config.stream.replay is not None, "trigger crafted": anew}
        return settings | derived

    @property
    def shifts(self) -> bool:
        """Whether its images change as the stream goes on."""
        return self.config.stream.kind.startswith("shift:")

    @property
    def accuracy_now(self) -> str:
        """The name of the accuracy on images as they are then, under the corruption if there is one."""
        return "shifted_acc" if self.shifts else "acc"

    def followed(self, trigger: str) -> str:
        """Return the path of this run to set beside ``trigger``: the clean trigger, on a clean stream that has it."""
        clean = self.config.attack.name == "none" and "clean" in self.config.trigger.types
        return "clean" if clean else trigger

    @property
    def distance_from_start(self) -> float | None:
        """How far the weights have moved before the trigger; ``drift`` in older runs."""
        before = self.summary.get("before", {})
        return before.get("distance_from_start", before.get("drift"))  # type: ignore[no-any-return]

    def after(self, trigger: str, key: str = "acc") -> float | None:
        """Return a measure right after the trigger, or None where this run has none."""
        return self._mark(trigger, "after", key)

    def end(self, trigger: str, key: str = "acc") -> float | None:
        """Return a measure at the end of the recovery after a trigger, or None."""
        return self._mark(trigger, "end", key)

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """Everything measured: one row a step, with ``step``, ``branch`` (the trigger, or "") and values by tag.

        Raises:
            InputError: The metrics are missing or damaged.
        """
        return read_metrics(self.path / METRICS, self.summary.get("metrics_digest"))

    def accuracy(self, mark: str, trigger: str | None = None) -> float:
        """Return a test accuracy, in [0, 1].

        Args:
            mark: "start", "before" (the trigger), "after" it, or "end" (of the recovery).
            trigger: Of which path, for "after" and "end"; None is the last one.

        Raises:
            InputError: The run has no such mark.
        """
        branches = self.summary["branches"]
        name = next(reversed(branches), "") if trigger is None else trigger
        values = self.summary.get(mark) if mark in ("start", "before") else branches.get(name, {}).get(mark)
        if not isinstance(values, Mapping):
            raise InputError(
                f"{self.path} has no accuracy {mark!r} of the trigger {name!r}; choose start, before, after or end, "
                f"and one of {', '.join(branches)}"
            )
        return float(values["acc"])

    def curve(self, tag: str, trigger: str) -> list[tuple[int, float]]:
        """Return (step, accuracy) along the path that ends with ``trigger``.

        Raises:
            InputError: The metrics are missing or damaged.
        """
        points = [(row["step"], row[tag]) for row in self.metrics if tag in row and row["branch"] in ("", trigger)]
        if not points or any(value < 0 or value > 1 for _, value in points):
            raise InputError(f"{self.path / METRICS} has no {tag} in [0, 1]; restore a copy or run again")
        return points

    def _mark(self, trigger: str, mark: str, key: str) -> float | None:
        value = self.summary["branches"].get(trigger, {}).get(mark, {}).get(key)
        return None if value is None else float(value)


def label(component: Component) -> str:
    """Return a component's name with the settings that differ from its defaults, budgets aside."""
    usual = type(component)().settings
    differing = [
        f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in component.settings.items()
        if key not in BUDGET and value != usual[key]
    ]
    return f"{component.name} ({', '.join(differing)})" if differing else component.name


def collect(paths: Sequence[Path], leave_out: Callable[[str], None], *, needed: bool = True) -> list[Run]:
    """Return the ended runs in ``paths`` and in the directories right below them, each once.

    Args:
        paths: Directories.
        leave_out: Told, in a sentence, of every run that cannot be used, and of one that is another one made again.
        needed: There must be one.

    Raises:
        InputError: A path is no directory, or none of them holds a run that has ended and one is needed.
    """
    for path in paths:
        if not path.is_dir():
            raise InputError(f"there is no directory {path}; give directories of online runs")
    folders = {folder.resolve(): folder for path in paths for folder in (path, *path.glob("*"))}
    collected = []
    ended = 0
    for folder in sorted(folders.values()):
        try:
            if (run := read_run(folder)) is not None:
                collected.append(run)
                ended += 1
        except (InputError, OSError) as error:
            ended += 1
            leave_out(f"{folder} is left out: {error}")
    if needed and not ended:
        raise InputError(
            f"no run has ended in {', '.join(str(path) for path in paths)}; give directories of online runs"
        )
    return _once(collected, leave_out)


def read_run(folder: Path) -> Run | None:
    """Return the ended run in ``folder``, or None where there is none.

    Raises:
        InputError: It is damaged.
    """
    if not (folder / SUMMARY).exists():
        return None
    stored, summary = read_json(folder / CONFIG), read_json(folder / SUMMARY)
    if ("train" in stored and "stream" not in stored) or summary.get("status") == "interrupted":
        return None  # a burn-in, or a run that goes on
    expect(folder / SUMMARY, summary, RECORDED)
    if summary["status"] not in ENDED:
        raise InputError(f"{folder / SUMMARY} has the status {summary['status']!r}; restore a copy or run again")
    if summary["branches"]:
        expect(folder / SUMMARY, summary, {"before": MARK})
    env = read_json(folder / ENV)
    known = {"model?": str, "data?": str, "precision?": str, "device_name?": str}
    expect(folder / ENV, env, {"checkpoint": str, **known})
    config, threat = online_config([stored]), read_threat(folder)
    computed = f"{env['precision']} on {env['device_name']}" if env.keys() >= {"precision", "device_name"} else ""
    return Run(folder, config, summary, env["checkpoint"], env.get("model", ""), env.get("data", ""), threat, computed)


def read_threat(folder: Path) -> dict[str, Any] | None:
    """Return the threat model that a run, or a burn-in, has stored; None where there is none.

    Raises:
        InputError: The file is damaged.
    """
    path = folder / THREAT
    if not path.exists():
        return None
    threat = read_json(path)
    expect(path, threat, {"line": str, "objective": list, "stage": str, "ids": list, "note": str})
    for one in threat["ids"]:
        expect(path, one, {"id": str, "name": str, "source": str, "version": str, "because": str})
    return threat


def _once(runs: Sequence[Run], leave_out: Callable[[str], None]) -> list[Run]:
    """Return ``runs`` without those that are another one made again: the same replicate counts once."""
    by_settings: dict[str, Run] = {}
    for run in runs:
        key = json.dumps([run.experiment, run.burnin, run.config.run.seed, run.summary["clean_ids"]], sort_keys=True)
        first = by_settings.setdefault(key, run)
        if first is not run:
            outcome = "the same outcome" if _agree(first, run) else "another outcome (another machine or commit?)"
            leave_out(
                f"{run.path} is left out: it has the settings, base model and seed of {first.path}, and {outcome}"
            )
    return list(by_settings.values())


def _agree(run: Run, other: Run) -> bool:
    """Return whether two runs found the same, wherever both of them measured."""
    names = ("status", "horizon", "start", "before", "branches")
    first, second = (dict(flatten({name: r.summary.get(name, {}) for name in names})) for r in (run, other))
    return all(repr(first[key]) == repr(second[key]) for key in first.keys() & second.keys())
