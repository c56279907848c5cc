"""Who can be recognised as a member: ``audit``."""

from dataclasses import asdict
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from accupoison.cli.group import CHECKPOINTS, LOGS, cli
from accupoison.cli.options import (
    FROM_ZERO,
    JOBS,
    WHOLE,
    common_options,
    data_options,
    data_place,
    layers,
    model_options,
    update_options,
)
from accupoison.cli.output import json_text, percent, progress_bar

if TYPE_CHECKING:  # takes seconds to load, which --help can do without
    from accupoison.audit.samples import AttackResult

PATH = click.Path(path_type=Path)
SEED = click.option(
    "--seed", type=FROM_ZERO, default=0, show_default=True, help="Of the calibration half and the neural attack."
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print the results as JSON and nothing else.")
ACCURACIES = (("test accuracy", "test_accuracy"), ("accuracy on members", "train_accuracy"))
AGED = ("loss", "loss_change")
"""The scores whose AUC is followed by age."""


@cli.group(invoke_without_command=True)
@click.option("--run", type=PATH, help="A finished online run, such as logs/RUN.")
@click.option("--out", type=PATH, help="The directory to write.  [default: RUN/audit]")
@SEED
@JSON
@click.pass_context
def audit(ctx: click.Context, run: Path | None, out: Path | None, seed: int, as_json: bool) -> None:
    """Measure how well an outsider can tell who was in the training set.

    With --run: members of the burn-in and of the stream, each against test images that were never learnt from, asked
    of the run's last model; thresholds are set on a random half, and the other half is reported. Also the AUC by age:
    steps since a stream member was learnt last. Writes audit.json, and tables and figures for each group.
    """
    if ctx.invoked_subcommand is None:
        if run is None:
            raise click.UsageError(
                "give a run with --run logs/RUN, or a command: predictions, offline, worlds, ages or challenge"
            )
        _audit_run(run, out or run / "audit", seed, as_json)
        return
    for name in ctx.params:  # they would be ignored
        if ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            option = "--json" if name == "as_json" else f"--{name}"
            raise click.UsageError(f"{option} belongs to audit --run; give it after {ctx.invoked_subcommand}")


def _audit_run(run: Path, folder: Path, seed: int, as_json: bool) -> None:
    from accupoison.audit.online.run import audit_run
    from accupoison.audit.samples import audit_samples
    from accupoison.audit.writers import write_ages, write_results
    from accupoison.records.files import write_json

    found = audit_run(run, CHECKPOINTS)
    ages = {name: found.by_age(name) for name in AGED}
    groups: dict[str, Any] = {}
    text = []
    for name, samples in found.groups.items():
        scores, reported, results = audit_samples(samples, None, seed=seed)
        write_results(folder / name, results, scores, reported)
        groups[name] = [one.as_dict() for one in results]
        text += [f"{name} members against never-learnt images ({len(reported.labels)} samples)", _table(results), ""]
    write_ages(folder, ages)
    by_age = {
        name: [
            {"age": age, "auc": one.auc, "interval": one.intervals["auc"], "members": one.members} for age, one in rows
        ]
        for name, rows in ages.items()
    }
    everything = {"run": str(run), "trigger": found.branch, "steps": found.steps, "groups": groups, "by_age": by_age}
    write_json(folder / "audit.json", everything)
    if as_json:
        click.echo(json_text(everything))
        return
    click.echo("\n".join(text) + "AUC by steps since a stream member was learnt last")
    for row in zip(*by_age.values(), strict=True):
        shown = (
            f"{name} {one['auc']:.3f} [{one['interval'][0]:.3f}, {one['interval'][1]:.3f}]"
            for name, one in zip(by_age, row, strict=True)
        )
        click.echo(f"  {row[0]['age']:3}  {'  '.join(shown)}  ({row[0]['members']} members)")
    click.echo(f"\nthe model after trigger {found.branch}, {found.steps} steps; thresholds from a half. Wrote {folder}")


@audit.command()
@click.argument("file", type=PATH)
@click.option("--out", type=PATH, help="The directory to write.  [default: FILE without .npz, or FILE-audit]")
@SEED
@JSON
def predictions(file: Path, out: Path | None, seed: int, as_json: bool) -> None:
    """Audit a file of predictions, whatever program made it.

    FILE is an .npz with probs [N, C], labels [N], member [N] and, where the attacker has a shadow model,
    shadow_probs, shadow_labels and shadow_member. Thresholds are set on the shadow, or else on a random half of the
    samples, and the other half is reported. Writes audit.json, audit.csv, roc.png (log-log) and scores.png.
    """
    from accupoison.audit.samples import audit_samples, read_predictions
    from accupoison.audit.writers import write_results

    samples, shadow = read_predictions(file)
    scores, reported, results = audit_samples(samples, shadow, seed=seed)
    beside = file.with_suffix("")  # which is FILE itself where that has no suffix
    folder = out or (file.with_name(f"{file.name}-audit") if beside.is_file() else beside)
    write_results(folder, results, scores, reported)
    if as_json:
        click.echo(json_text({"out": str(folder), "attacks": [one.as_dict() for one in results]}))
        return
    click.echo(_table(results))
    where = "the shadow model" if shadow else "a calibration half"
    click.echo(f"\n{len(reported.labels)} samples, thresholds from {where}; intervals are 95%. Wrote {folder}")
    for level, reason in results[0].roc.withheld.items():
        click.echo(f"TPR at {level:.1%} FPR is withheld: {reason}")


@audit.command()
@data_options
@model_options
@click.option("--epochs", type=WHOLE, help="Passes of each model over its samples.  [default: 100]")
@update_options
@click.option("--size", type=WHOLE, help="Training samples of each model.  [default: 20000]")
@click.option("--shadows", type=WHOLE, help="Models of the attacker.  [default: 20]")
@click.option("--victims", type=WHOLE, help="Models that are attacked.  [default: 4]")
@common_options
@click.option("--out", type=PATH, help="The directory to write, or to go on with.  [default: logs/offline-...]")
@click.option("--jobs", "-j", type=JOBS, default=1, show_default=True, help="Processes at once.")
@click.option("--quiet", "-q", is_flag=True, help="No progress bar.")
@JSON
def offline(
    out: Path | None,
    jobs: int,
    file: Path | None,
    pairs: tuple[str, ...],
    dry_run: bool,
    quiet: bool,
    as_json: bool,
    **flags: Any,  # noqa: ANN401
) -> None:
    """Audit a way of training with shadow models: all attacks, LiRA among them, side by side.

    The training set is divided into two pools. Each victim learns from samples of the first, each shadow from samples
    of the second, and both from a random half of the test set, whose membership is then to be told. Interrupt it at
    will: the same command goes on. Writes audit.json, audit.csv and what each model said.
    """
    import torch

    from accupoison.audit.attack_suite import attack_victims
    from accupoison.audit.offline.shadow_models import offline_config, run_offline
    from accupoison.audit.writers import write_victims
    from accupoison.config.layers import plain, preset
    from accupoison.runs.base_model import open_data
    from accupoison.study.tables import markdown

    config = offline_config([data_place(), preset("audit", "offline"), *layers(file, pairs, flags)])
    if dry_run:
        click.echo(json_text(plain(config)))
        return
    model = f"{config.model.name or 'resnet18'}-w{config.model.width or 64}"
    folder = out or LOGS / f"offline-{config.data.name.replace(':', '-').replace('/', '-')}-{model}"
    with progress_bar("models", hidden=quiet or as_json) as show:
        run_offline(config, folder, jobs=jobs, report=show)
    outcomes, facts = attack_victims(config, folder, open_data(config.data, torch.device("cpu"))[0])
    rows = write_victims(folder, outcomes, facts)
    if as_json:
        click.echo(json_text({"out": str(folder), **facts, "attacks": {one.attack: asdict(one) for one in outcomes}}))
        return
    click.echo(markdown(list(rows[0]), [list(row.values()) for row in rows]))
    said = ", ".join(f"{name} {percent(sum(facts[key]) / len(facts[key]))}" for name, key in ACCURACIES)
    click.echo(
        f"\nmeans and standard deviations over {config.shadows.victims} victims, {config.shadows.shadows} shadows; "
        f"{said}; {_speed(facts)}. Wrote {folder}"
    )


@audit.command()
@click.option("--run", type=PATH, required=True, help="A finished online run, such as logs/RUN.")
@click.option("--worlds", "count", type=WHOLE, default=16, show_default=True, help="Replays, an even number.")
@click.option("--poison", default="per-world", show_default=True, help="per-world, or transfer: as RUN has sent it.")
@click.option("--burnin", default="shared", show_default=True, help="shared: RUN's base model; own: one a world.")
@click.option("--queries", default="plain,flip", show_default=True, help="plain, flip, up, down, left, right.")
@click.option("--out", type=PATH, help="The directory to write, or to go on with.  [default: RUN/worlds-...]")
@click.option("--jobs", "-j", type=JOBS, default=1, show_default=True, help="Processes at once.")
@click.option("--quiet", "-q", is_flag=True, help="No progress bar.")
@JSON
def worlds(
    run: Path,
    count: int,
    poison: str,
    burnin: str,
    queries: str,
    out: Path | None,
    jobs: int,
    quiet: bool,
    as_json: bool,
) -> None:
    """Audit the stream of a run with replays of it as shadows.

    In each world a coin decides, for every sample of the stream, whether it comes itself or one of its class that was
    held out, in the same place; worlds come in complementary pairs. Every world is attacked by all other pairs, and the
    run by all worlds. Interrupt it at will: the same command goes on. Writes audit.json, audit.csv and the worlds.
    """
    from accupoison.audit.online.replays import Task, WorldSettings, audit_worlds, run_worlds
    from accupoison.audit.writers import write_victims
    from accupoison.study.tables import markdown

    settings = WorldSettings(count=count, poison=poison, burnin=burnin, queries=tuple(queries.split(",")))
    folder = out or run / f"worlds-{count}-{poison}-{burnin}"
    task = Task(run, CHECKPOINTS, folder, settings)
    with progress_bar("worlds", hidden=quiet or as_json) as show:
        run_worlds(task, jobs=jobs, report=show)
    outcomes, alone, facts = audit_worlds(task)
    rows = write_victims(folder, outcomes, {**facts, "run": {one.attack: asdict(one) for one in alone}})
    if as_json:
        click.echo(json_text({"out": str(folder), **facts, "attacks": {one.attack: asdict(one) for one in outcomes}}))
        return
    of_run = {one.attack: one for one in alone}
    for row in rows:
        row["AUC of the run"] = f"{of_run[row['attack']].auc[0]:.3f}"
    click.echo(markdown(list(rows[0]), [list(row.values()) for row in rows]))
    knows = "the weights before the stream" if burnin == "shared" else "nothing of the run's base model"
    click.echo(
        f"\nmeans and standard deviations over {count} worlds of {facts['pairs']} pairs; the auditor knows {knows}; "
        f"{_speed(facts)}. Wrote {folder}"
    )


def _speed(facts: "dict[str, Any]") -> str:
    share, said = facts["share_of_ceiling"], f"{facts['images_per_second']:.0f} images/s"
    return said if isnan(share) else f"{said}, {share:.0%} of what matrix products reach"


def _table(results: "list[AttackResult]") -> str:
    from accupoison.audit.samples import table
    from accupoison.study.tables import markdown

    rows = table(results)
    return markdown(list(rows[0]), [list(row.values()) for row in rows])
