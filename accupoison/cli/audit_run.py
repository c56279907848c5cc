"""What ``audit --run`` writes and prints, of a run and of a burn-in."""

from collections.abc import Mapping
from math import isnan
from pathlib import Path
from typing import Any

import click

from accupoison.cli.group import CHECKPOINTS
from accupoison.cli.output import change_text, json_text, percent, table
from accupoison.errors import InputError


def audit_directory(run: Path, folder: Path, release: str | None, seed: int, as_json: bool, *, twins: bool) -> None:
    """Audit an online run or a burn-in: write its tables and figures, and print them.

    Args:
        run: The directory.
        folder: The one to write.
        release: What the answers go through; None is the run's own.
        seed: Of the calibration half and the neural attack.
        as_json: Print JSON and nothing else.
        twins: Ask about the twin of each sample as well.

    Raises:
        InputError: It has not ended, or a release of a burn-in's answers is asked for.
    """
    from accupoison.audit.offline.burnin import is_burnin

    if not is_burnin(run):
        _audit_run(run, folder, release, seed, as_json, twins)
    elif release is not None:
        raise InputError(f"--release {release} is of an online run, and {run} is a burn-in; drop it")
    else:
        _audit_burnin(run, folder, seed, as_json, twins)


def _audit_burnin(run: Path, folder: Path, seed: int, as_json: bool, twins: bool) -> None:
    from accupoison.audit.attack_suite import audit_samples, right, single_controls
    from accupoison.audit.focus import others_of
    from accupoison.audit.offline.burnin import audit_burnin
    from accupoison.audit.writers import write_results
    from accupoison.records.files import write_json

    audited = audit_burnin(run, twins=twins)
    everything: dict[str, Any] = {"run": str(run), "epochs": audited.epochs, "groups": {}, "accuracy": {}}
    everything["controls"] = {}
    text = []
    for name, samples in audited.groups.items():
        found = audit_samples(samples, others_of(name, audited.groups), seed=seed)
        controls = {"blind": [audited.blind[name]], **single_controls(found)}
        content, rows = write_results(folder / name.replace(" ", "-"), found, controls)
        everything["controls"][name] = content["controls"]
        shares = right(samples)
        everything["groups"][name], everything["accuracy"][name] = content["attacks"], shares
        accuracy = f"right on {percent(shares['members'])} of members, {percent(shares['others'])} of others"
        text += [f"{name} members against test images ({len(samples.labels)} samples); {accuracy}", table(rows)]
        text += [controls_text(content), ""]
    write_json(folder / "audit.json", everything)
    if as_json:
        click.echo(json_text(everything))
        return
    parties = f"attack {audited.config.attack.name}, defence {audited.config.defense.name}"
    click.echo(
        "\n".join(
            [*text, f"{parties}, {audited.epochs} epochs; thresholds from a half, or from others. Wrote {folder}"]
        )
    )


def _audit_run(run: Path, folder: Path, release: str | None, seed: int, as_json: bool, twins: bool) -> None:
    from accupoison.audit.attack_suite import audit_released, audit_samples, single_controls
    from accupoison.audit.focus import others_of
    from accupoison.audit.online.recency import SCORES
    from accupoison.audit.online.run import audit_run
    from accupoison.audit.samples import change
    from accupoison.audit.writers import write_recency, write_released, write_results
    from accupoison.config.releases import parse_release
    from accupoison.records.files import write_json

    given = None if release is None else parse_release(release)
    audited = audit_run(run, CHECKPOINTS, release=given, twins=twins, blind=True)
    groups: dict[str, Any] = {}
    controls: dict[str, Any] = {}
    attackers: dict[str, Any] = {}
    text = []
    for name, samples in audited.groups.items():
        blind = {"blind": [audited.blind[name]]}
        if own := audited.undefended.get(name):
            known = [others_of(name, groups) for groups in (audited.groups, audited.undefended)]
            shadows = None if known[0] is None or known[1] is None else (known[0], known[1])
            of_three = audit_released(samples, own, shadows, seed=seed)
            facts = {"spec": audited.release, **change(samples, own)}
            content, rows = write_released(
                folder / name.replace(" ", "-"), of_three, facts, blind | single_controls(of_three["undefended"])
            )
            attackers[name] = content["attackers"] | {"release": facts}
            text.append(change_text(facts))
        else:
            found = audit_samples(samples, others_of(name, audited.groups), seed=seed)
            content, rows = write_results(folder / name.replace(" ", "-"), found, blind | single_controls(found))
        groups[name], controls[name] = content["attacks"], content["controls"]
        text += [f"{name} members against never-learnt images ({content['samples']} samples)", table(rows)]
        text += [controls_text(content), ""]
    by_recency = {score: audited.by_recency(score) for score in SCORES}
    write_recency(folder, by_recency)
    everything: dict[str, Any] = {"run": str(run), "trigger": audited.branch, "steps": audited.steps}
    everything |= {"groups": groups, "controls": controls, "by_recency": by_recency}
    everything |= {"release": audited.release, "attackers": attackers} if attackers else {}
    write_json(folder / "audit.json", everything)
    if as_json:
        click.echo(json_text(everything))
        return
    rows = _recency_rows(by_recency)
    click.echo("\n".join([*text, "AUC by recency: steps since a stream member was learnt last", table(rows)]))
    after = f"the model after trigger {audited.branch}, {audited.steps} steps"
    click.echo(f"\n{after}; thresholds from a half. Wrote {folder}")


def controls_text(content: Mapping[str, Any]) -> str:
    """Return the controls of the contents of an ``audit.json`` as a table, and a line for each that fails."""
    from accupoison.audit.writers import all_rows

    flagged = [f"FLAGGED: {sentence}" for sentence in content["controls"]["flags"]]
    return "\n".join(["", table(all_rows(content)), *flagged])


def show_models(folder: Path, content: dict[str, Any], rows: list[dict[str, str]], as_json: bool, models: str) -> None:
    """Print the audit of several models.

    Args:
        folder: Where it was written.
        content: Of its ``audit.json``.
        rows: Of its table.
        as_json: Print JSON and nothing else.
        models: What they are, in words.
    """
    if as_json:
        attacks = {row["attack"]: row for row in content["attacks"]}
        click.echo(json_text({"out": str(folder), **content, "attacks": attacks}))
        return
    speed = f"{content['images_per_second']:.0f} images/s"
    if not isnan(content["share_of_ceiling"]):
        speed += f", {content['share_of_ceiling']:.0%} of what matrix products reach"
    click.echo(f"{table(rows)}\n{controls_text(content)}")
    click.echo(f"\nmeans and standard deviations over {models}; {speed}. Wrote {folder}")


def _recency_rows(by_recency: Mapping[str, list[dict[str, Any]]]) -> list[dict[str, str]]:
    """Return one row for each recency, the AUC of each score with its interval."""
    from accupoison.audit.results import interval_text

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
