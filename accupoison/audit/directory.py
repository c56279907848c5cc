"""The whole audit of a directory: a run or a burn-in, each group of members with all attacks, written and returned."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accupoison.audit.attack_suite import audit_released, audit_samples, right, single_controls
from accupoison.audit.focus import others_of
from accupoison.audit.offline.burnin import audit_burnin, is_burnin
from accupoison.audit.online.recency import SCORES
from accupoison.audit.online.run import RunAudit, audit_run
from accupoison.audit.results import interval_text
from accupoison.audit.samples import change
from accupoison.audit.writers import all_rows, write_recency, write_released, write_results
from accupoison.config.releases import parse_release
from accupoison.errors import InputError
from accupoison.records.files import write_json


@dataclass(frozen=True)
class Outcome:
    """What an audit has found.

    Attributes:
        content: All of it, as in ``audit.json``.
        tables: Rows by what stands above them; the rows of a table have the same keys.
        about: A few words on what was audited.
        flags: A sentence for each control that fails.
    """

    content: dict[str, Any]
    tables: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    about: str = ""
    flags: list[str] = field(default_factory=list)

    def add(self, name: str, title: str, content: dict[str, Any], rows: list[dict[str, str]]) -> None:
        """Take in what was found of a group of members.

        Args:
            name: The group.
            title: What stands above its table.
            content: Of its ``audit.json``.
            rows: Of its table.
        """
        self.content.setdefault("groups", {})[name] = content["attacks"]
        self.content.setdefault("controls", {})[name] = content["controls"]
        self.tables[title] = rows
        self.tables[f"controls of the audit of {name} members"] = all_rows(content)
        self.flags.extend(f"{name} members: {sentence}" for sentence in content["controls"]["flags"])


def audit_directory(
    run: Path, folder: Path, root: Path, *, release: str | None = None, seed: int = 0, twins: bool = False
) -> Outcome:
    """Audit an online run or a burn-in, and write tables and figures.

    Args:
        run: The directory.
        folder: The one to write.
        root: The directory of checkpoints.
        release: What the answers go through; None is the run's own.
        seed: Of the calibration half and the neural attack.
        twins: Ask about the twin of each sample as well.

    Raises:
        InputError: It has not ended, or a release of a burn-in's answers is asked for.
    """
    if not is_burnin(run):
        return _of_run(run, folder, root, release, seed, twins)
    if release is not None:
        raise InputError(f"--release {release} is of an online run, and {run} is a burn-in; drop it")
    return _of_burnin(run, folder, seed, twins)


def _of_burnin(run: Path, folder: Path, seed: int, twins: bool) -> Outcome:
    audited = audit_burnin(run, twins=twins)
    parties = f"attack {audited.config.attack.name}, defence {audited.config.defense.name}"
    content: dict[str, Any] = {"run": str(run), "epochs": audited.epochs, "accuracy": {}}
    outcome = Outcome(content, {}, f"{parties}, {audited.epochs} epochs; thresholds from a half, or from others")
    for name, samples in audited.groups.items():
        found = audit_samples(samples, others_of(name, audited.groups), seed=seed)
        controls = {"blind": [audited.blind[name]], **single_controls(found)}
        written, rows = write_results(folder / name.replace(" ", "-"), found, controls)
        content["accuracy"][name] = shares = right(samples)
        accuracy = f"right on {shares['members']:.1%} of members, {shares['others']:.1%} of others"
        title = f"{name} members against test images ({len(samples.labels)} samples); {accuracy}"
        outcome.add(name, title, written, rows)
    write_json(folder / "audit.json", content)
    return outcome


def _of_run(run: Path, folder: Path, root: Path, release: str | None, seed: int, twins: bool) -> Outcome:
    given = None if release is None else parse_release(release)
    audited = audit_run(run, root, release=given, twins=twins, blind=True)
    about = f"the model after trigger {audited.branch}, {audited.steps} steps; thresholds from a half"
    outcome = Outcome({"run": str(run), "trigger": audited.branch, "steps": audited.steps}, {}, about)
    attackers: dict[str, Any] = {}
    for name in audited.groups:
        content, rows = _group(audited, name, folder / name.replace(" ", "-"), seed)
        if "attackers" in content:
            attackers[name] = content["attackers"] | {"release": content["release"]}
        outcome.add(name, f"{name} members against never-learnt images ({content['samples']} samples)", content, rows)
    by_recency = {score: audited.by_recency(score) for score in SCORES}
    write_recency(folder, by_recency)
    outcome.tables["AUC by recency: steps since a stream member was learnt last"] = _recency_rows(by_recency)
    outcome.content["by_recency"] = by_recency
    if attackers:
        outcome.content.update(release=audited.release, attackers=attackers)
    write_json(folder / "audit.json", outcome.content)
    return outcome


def _group(audited: RunAudit, name: str, folder: Path, seed: int) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """Return what the attacks on one group of members find, and its table."""
    samples, own = audited.groups[name], audited.undefended.get(name)
    if own is None:
        found = audit_samples(samples, others_of(name, audited.groups), seed=seed)
        return write_results(folder, found, {"blind": [audited.blind[name]], **single_controls(found)})
    known = [others_of(name, groups) for groups in (audited.groups, audited.undefended)]
    shadows = None if known[0] is None or known[1] is None else (known[0], known[1])
    of_three = audit_released(samples, own, shadows, seed=seed)
    controls = {"blind": [audited.blind[name]], **single_controls(of_three["undefended"])}
    return write_released(folder, of_three, {"spec": audited.release, **change(samples, own)}, controls)


def _recency_rows(by_recency: Mapping[str, list[dict[str, Any]]]) -> list[dict[str, str]]:
    """Return one row for each recency, the AUC of each score with its interval."""
    return [
        {
            "recency": str(points[0]["recency"]),
            **{
                score: interval_text(point["auc"], point["interval"])
                for score, point in zip(by_recency, points, strict=True)
            },
            "members": str(points[0]["members"]),
        }
        for points in zip(*by_recency.values(), strict=True)
    ]
