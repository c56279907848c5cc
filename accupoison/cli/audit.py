"""Who can be recognised as a member: ``audit``."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from accupoison.cli.group import CHECKPOINTS, LOGS, cli
from accupoison.cli.options import common_options, data_options, data_place, layers, model_options, update_options
from accupoison.cli.output import json_text, percent, progress_bar

if TYPE_CHECKING:  # takes seconds to load, which --help can do without
    from accupoison.audit import AttackResult

PATH = click.Path(path_type=Path)
SEED = click.option(
    "--seed", type=int, default=0, show_default=True, help="Of the calibration half and the neural attack."
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
            raise click.UsageError("give a run with --run logs/RUN, or a command: predictions, offline or challenge")
        _audit_run(run, out or run / "audit", seed, as_json)
        return
    for name in ctx.params:  # they would be ignored
        if ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            option = "--json" if name == "as_json" else f"--{name}"
            raise click.UsageError(f"{option} belongs to audit --run; give it after {ctx.invoked_subcommand}")


def _audit_run(run: Path, folder: Path, seed: int, as_json: bool) -> None:
    from accupoison.audit import audit_samples, write_ages, write_results
    from accupoison.audit.run import audit_run
    from accupoison.files import write_json

    found = audit_run(run, CHECKPOINTS)
    ages = {name: found.by_age(name) for name in AGED}
    groups: dict[str, Any] = {}
    text = []
    for name, samples in found.groups.items():
        scores, reported, results = audit_samples(samples, None, seed=seed)
        write_results(folder / name, results, scores, reported)
        groups[name] = [one.as_dict() for one in results]
        text += [f"{name} members against never-learnt images ({len(reported.labels)} samples)", _table(results), ""]
    write_ages(folder / "age.png", ages)
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
@click.option("--out", type=PATH, help="The directory to write.  [default: FILE without .npz]")
@SEED
@JSON
def predictions(file: Path, out: Path | None, seed: int, as_json: bool) -> None:
    """Audit a file of predictions, whatever program made it.

    FILE is an .npz with probs [N, C], labels [N], member [N] and, where the attacker has a shadow model,
    shadow_probs, shadow_labels and shadow_member. Thresholds are set on the shadow, or else on a random half of the
    samples, and the other half is reported. Writes audit.json, audit.csv, roc.png (log-log) and scores.png.
    """
    from accupoison.audit import audit_samples, read_predictions, write_results

    samples, shadow = read_predictions(file)
    scores, reported, results = audit_samples(samples, shadow, seed=seed)
    folder = out or file.with_suffix("")
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
@click.option("--epochs", type=int, help="Passes of each model over its samples.  [default: 100]")
@update_options
@click.option("--size", type=int, help="Training samples of each model.  [default: 20000]")
@click.option("--shadows", type=int, help="Models of the attacker.  [default: 20]")
@click.option("--victims", type=int, help="Models that are attacked.  [default: 4]")
@common_options
@click.option("--out", type=PATH, help="The directory to write, or to go on with.  [default: logs/offline-...]")
@click.option("--jobs", "-j", type=click.IntRange(1), default=1, show_default=True, help="Processes at once.")
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

    from accupoison.audit.offline import offline_config, run_offline
    from accupoison.audit.output import write_victims
    from accupoison.audit.victims import attack_victims
    from accupoison.config import plain, preset
    from accupoison.open_data import open_data
    from accupoison.report.table import markdown

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
        click.echo(json_text({"out": str(folder), **facts, "attacks": {one.attack: vars(one) for one in outcomes}}))
        return
    click.echo(markdown(list(rows[0]), [list(row.values()) for row in rows]))
    said = ", ".join(f"{name} {percent(sum(facts[key]) / len(facts[key]))}" for name, key in ACCURACIES)
    click.echo(
        f"\nmeans and standard deviations over {config.shadows.victims} victims, {config.shadows.shadows} shadows; "
        f"{said}; {facts['images_per_second']:.0f} images/s. Wrote {folder}"
    )


class _Rooted(click.Group):
    """A group whose first word, where it is no command of its own, is what its main command is about."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:  # noqa: ANN401
        if args and args[0] not in self.commands:
            return super().resolve_command(ctx, ["attack", *args])
        return super().resolve_command(ctx, args)


@audit.group(cls=_Rooted)
def challenge() -> None:
    """Answer the membership inference challenge of 2022: audit challenge ROOT [OPTIONS], or make a small one."""


@challenge.command()
@click.argument("root", type=PATH)
@click.option("--out", type=PATH, help="The directory to write.  [default: ROOT/results]")
@click.option(
    "--network",
    "networks",
    multiple=True,
    metavar="NAME=FACTORY",
    help="Whose the weights are: package.module:factory.",
)
@JSON
def attack(root: Path, out: Path | None, networks: tuple[str, ...], as_json: bool) -> None:
    """Score every cell under ROOT and write the answers.

    ROOT has datasets/{eval,test}/DATASET_MODEL.p and models/MODEL_DATASET.pth for some of resnet34, vgg16, mobilenetv2
    on cifar10, cifar100, tinyimagenet. The metric with the best cross-validated accuracy answers tasks 1 and 2,
    whether the network is right answers task 3. Nothing in the pickles is executed.
    """
    from accupoison.audit.challenge import NETWORKS, attack_cells
    from accupoison.audit.output import write_challenge
    from accupoison.errors import InputError, did_you_mean
    from accupoison.report.table import markdown

    factories = {}
    for entry in networks:
        name, equals, factory = entry.partition("=")
        if not equals or ":" not in factory:
            raise InputError(f"--network {entry!r} is not of the form NAME=package.module:factory")
        if name not in NETWORKS:
            raise InputError(f"the challenge has no network {name!r}{did_you_mean(name, NETWORKS)}")
        factories[name] = factory
    folder, found = out or root / "results", list(attack_cells(root, factories))
    result = write_challenge(folder, found)
    if as_json:
        click.echo(json_text({"out": str(folder), "result": result}))
        return
    rows = [
        [cell.model, cell.dataset, name, f"{m.max_acc:.4f}", f"{m.cross_validated:.4f}", f"{m.threshold:.4g}"]
        for cell in found
        for name, m in cell.metrics.items()
    ]
    click.echo(markdown(["model", "data set", "metric", "max accuracy", "cross-validated", "threshold"], rows))
    click.echo(f"\nanswers of the best metric in {folder}")


@challenge.command()
@click.argument("root", type=PATH)
@data_options
@click.option("--networks", default="resnet34,vgg16,mobilenetv2", show_default=True, help="Which of the challenge's.")
@click.option("--width", type=int, help="Channels of the first stage.  [default: 64]")
@click.option("--epochs", type=int, help="Passes over the members.")
@click.option("--size", type=int, default=2000, show_default=True, help="Samples of known membership; as many to tell.")
@common_options
@click.option("--quiet", "-q", is_flag=True, help="No progress bar.")
def make(
    root: Path,
    networks: str,
    size: int,
    file: Path | None,
    pairs: tuple[str, ...],
    dry_run: bool,
    quiet: bool,
    **flags: Any,  # noqa: ANN401
) -> None:
    """Make a small challenge under ROOT: networks trained on half of the samples, and the truth in truth/."""
    from accupoison.audit.challenge_make import make_cell
    from accupoison.config import plain, preset
    from accupoison.settings import burnin_config

    settings = [data_place(), preset("burnin", "official"), *layers(file, pairs, flags)]
    if dry_run:
        click.echo(json_text(plain(burnin_config(settings))))
        return
    names = networks.split(",")
    with progress_bar("networks", hidden=quiet) as show:
        for done, name in enumerate(names, start=1):
            show(done, len(names), make_cell(root, name, settings, size))
    click.echo(f"wrote {root}; answer it with: python cli.py audit challenge {root}")


def _table(results: "list[AttackResult]") -> str:
    from accupoison.audit import table
    from accupoison.report.table import markdown

    rows = table(results)
    return markdown(list(rows[0]), [list(row.values()) for row in rows])
