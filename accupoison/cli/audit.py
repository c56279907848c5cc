"""Who can be recognised as a member: ``audit``."""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from accupoison.cli.audit_run import controls_text, say_withheld, show_models
from accupoison.cli.group import CHECKPOINTS, LOGS, RenamingGroup, cli
from accupoison.cli.options import (
    FROM_ZERO,
    PATH,
    WHOLE,
    common_options,
    data_options,
    data_place,
    engine_options,
    layers,
    model_options,
    output_options,
    renamed_option,
    training_options,
    update_options,
)
from accupoison.cli.output import change_text, gather, json_text, note, percent, progress_bar, table

if TYPE_CHECKING:
    from accupoison.runs.engines import Engine

SEED = click.option(
    "--seed", type=FROM_ZERO, default=0, show_default=True, help="Seed of the calibration half and the neural attack."
)
RELEASE = click.option(
    "--release", metavar="SPEC", help="What leaves the model, such as round:2.  [default: as it was]"
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print the results as JSON and nothing else.")


@cli.group(cls=RenamingGroup, renamed={"ages": "recency", "worlds": "shadow-replays"}, invoke_without_command=True)
@click.option("--run", type=PATH, help="A finished online run, such as logs/RUN, or a burn-in's directory.")
@click.option("--out", type=PATH, help="The directory to write.  [default: RUN/audit]")
@click.option(
    "--attack",
    type=click.Choice(["twin"]),
    help="Ask about each sample's twin as well: the attacker who put them into the training code (attack code).",
)
@RELEASE
@SEED
@JSON
@click.pass_context
def audit(
    ctx: click.Context,
    run: Path | None,
    out: Path | None,
    attack: str | None,
    release: str | None,
    seed: int,
    as_json: bool,
) -> None:
    """Measure how well an outsider can recognise training samples.

    With --run: members of the burn-in and of the stream, each against test images that were never learnt from, asked
    of the run's last model; thresholds are set on a random half, and the other half is reported. Also the AUC by
    recency: steps since a stream member was learnt last. Writes audit.json, and tables and figures for each group.
    Of a burn-in, its members against test images. Where samples were poisoned, these are left out, and the class or the
    targets that the attack was after are groups of their own. Where the run, or --release, releases something else than
    probabilities: attackers unaware of it, adaptive, and of labels alone, side by side.
    """
    if ctx.invoked_subcommand is None:
        from accupoison.cli.audit_run import show_audit

        if run is None:
            commands = ", ".join(sorted(audit.commands))
            raise click.UsageError(f"give a run with --run logs/RUN, or a command: {commands}")
        show_audit(run, out or run / "audit", release, seed, as_json, twins=attack == "twin")
        return
    for name in ctx.params:  # they would be ignored
        if ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            option = "--json" if name == "as_json" else f"--{name}"
            raise click.UsageError(f"{option} belongs to audit --run; give it after {ctx.invoked_subcommand}")


@audit.command()
@click.argument("file", type=PATH)
@click.option("--out", type=PATH, help="The directory to write.  [default: FILE without .npz, or FILE-audit]")
@RELEASE
@SEED
@JSON
def predictions(file: Path, out: Path | None, release: str | None, seed: int, as_json: bool) -> None:
    """Audit a file of predictions, whatever program made it.

    FILE is an .npz with probs [N, C], labels [N], member [N] and, where the attacker has a shadow model,
    shadow_probs, shadow_labels and shadow_member. Thresholds are set on the shadow, or else on a random half of the
    samples, and the other half is reported. Writes audit.json, audit.csv, controls.csv, roc.png (log-log) and
    scores.png. --release takes what needs no model: round, top-k, label-only, temperature.
    """
    from accupoison.audit.attack_suite import audit_released, audit_samples, single_controls
    from accupoison.audit.controls import blind_of_classes
    from accupoison.audit.samples import change, read_predictions, released
    from accupoison.audit.writers import write_released, write_results
    from accupoison.config.releases import parse_release

    samples, shadow = read_predictions(file)
    given = parse_release(release or "identity")
    beside = file.with_suffix("")  # which is FILE itself where that has no suffix
    folder = out or (file.with_name(f"{file.name}-audit") if beside.is_file() else beside)
    blind = {"blind": [blind_of_classes(samples)]}
    if given.name == "identity":
        found = audit_samples(samples, shadow, seed=seed)
        content, rows = write_results(folder, found, blind | single_controls(found, shadow))
    else:
        mine, shadows = released(samples, given), None if shadow is None else (released(shadow, given), shadow)
        attackers = audit_released(mine, samples, shadows, seed=seed)
        controls = blind | single_controls(attackers["undefended"], shadow)
        content, rows = write_released(folder, attackers, {"spec": given.spec, **change(mine, samples)}, controls)
    if as_json:
        click.echo(json_text({"out": str(folder), **{key: content[key] for key in content if key != "samples"}}))
        return
    click.echo(f"{table(rows)}\n{controls_text(content)}")
    if "release" in content:
        click.echo(f"\n{change_text(content['release'])}")
    where = "the shadow model" if shadow else "a calibration half"
    click.echo(f"\n{content['samples']} samples, thresholds from {where}; intervals are 95%. Wrote {folder}")
    say_withheld(content["attacks"][0]["roc"])


@audit.command()
@click.argument("runs", nargs=-1, required=True, type=PATH)
@click.option("--out", type=PATH, help="The directory to write.  [default: logs/recency]")
@output_options
def recency(runs: tuple[Path, ...], out: Path | None, quiet: bool, as_json: bool) -> None:
    """Pool the membership AUC of RUNS by group and recency.

    Recency is the number of steps since a sample was learnt last. Members of the burn-in, members of the stream and
    images that never came, each against test images never learnt, by the loss and by its change during the stream. Runs
    that differ in base model and seed alone are replicates: mean and 95% interval over base models. RUNS are
    directories of runs, or of sweeps; runs that have learnt nothing are left out. Beside them the accuracy that was
    lost. Writes recency.json, recency.csv, recency.png, harms.csv.
    """
    from accupoison.audit.online.recency import both_harms, pool_recency, write_pooled

    folder = out or LOGS / "recency"
    collected = gather(runs)
    with progress_bar("runs", hidden=quiet or as_json) as show:
        pooled, skipped = pool_recency(collected, CHECKPOINTS, show)
    for sentence in skipped:
        note(sentence)
    harms = both_harms(collected, pooled)
    rows = write_pooled(folder, pooled, harms)
    if as_json:
        aucs = [vars(entry) | {"auc": vars(entry.auc)} for entry in pooled]
        click.echo(json_text({"out": str(folder), "aucs": aucs, "harms": harms}))
        return
    click.echo(
        f"{table(rows)}\n\nboth harms: accuracy lost before the trigger, members told by the loss\n{table(harms)}"
    )
    where = folder / "recency.csv"
    click.echo(f"\n95% intervals over base models, or over streams where there is one; by recency in {where}")


@audit.command()
@data_options
@model_options
@click.option("--epochs", type=WHOLE, help="Passes of each model over its samples.  [default: 100]")
@training_options
@update_options
@click.option("--size", type=WHOLE, help="Training samples of each model.  [default: 20000]")
@click.option("--shadows", type=WHOLE, help="Models of the attacker.  [default: 20]")
@click.option("--target-models", type=WHOLE, help="Models that are attacked.  [default: 4]")
@renamed_option("--victims", "--target-models")
@click.option("--leave-one-out", is_flag=True, default=None, help="Attack each shadow by the others, no target model.")
@common_options
@click.option("--out", type=PATH, help="The directory to write, or to go on with.  [default: logs/offline-...]")
@engine_options
@output_options
def offline(
    out: Path | None,
    engine: "Engine",
    dry_run: bool,
    quiet: bool,
    as_json: bool,
    **flags: Any,  # noqa: ANN401
) -> None:
    """Audit a way of training, by shadow models.

    All attacks, LiRA among them, stand side by side.
    The training set is divided into two pools. Each target model learns from samples of the first, each shadow from
    samples of the second, and both from a random half of the test set, whose membership is then to be told. Interrupt
    it at will: the same command goes on. Writes audit.json, audit.csv, controls.csv and what each model said.
    """
    import torch

    from accupoison.audit.offline.results import audit_offline
    from accupoison.audit.offline.shadow_models import offline_config, run_offline
    from accupoison.audit.writers import write_models
    from accupoison.config.layers import plain, preset
    from accupoison.runs.base_model import open_data

    config = offline_config([data_place(), preset("audit", "offline"), *layers(flags)], cache(note))
    if dry_run:
        click.echo(json_text(plain(config)))
        return
    model = f"{config.model.name or 'resnet18'}-w{config.model.width or 64}"
    folder = out or LOGS / f"offline-{config.data.name.replace(':', '-').replace('/', '-')}-{model}"
    with progress_bar("models", hidden=quiet or as_json) as show:
        run_offline(config, folder, engine=engine, report=show)
    found, facts = audit_offline(config, folder, open_data(config.data, torch.device("cpu"))[0])
    crossed = config.shadows.leave_one_out
    content, rows = write_models(folder, found[""][0], facts, found.pop("")[1], crossed=crossed)
    for group, (results, controls) in found.items():
        of_group, table_of_group = write_models(
            folder / group.replace(" ", "-"), results, facts["focus"][group], controls, crossed=crossed
        )
        content.setdefault("groups", {})[group] = {row["attack"]: row for row in of_group["attacks"]}
        if not as_json:
            click.echo(
                f"{group}, which {config.attack.name} is after\n{table(table_of_group)}\n{controls_text(of_group)}\n"
            )
    means = (("test accuracy", facts["test_accuracy"]), ("accuracy on members", facts["train_accuracy"]))
    accuracies = ", ".join(f"{name} {percent(sum(values) / len(values))}" for name, values in means)
    count = f"{config.shadows.target_models} target models, {config.shadows.shadows} shadows"
    if config.shadows.leave_one_out:
        count = f"{config.shadows.shadows} models, each attacked by the others"
    show_models(folder, content, rows, as_json, f"{count}; {accuracies}")


@audit.command()
@click.option("--run", type=PATH, required=True, help="A finished online run, such as logs/RUN.")
@click.option("--replays", "count", type=WHOLE, default=16, show_default=True, help="An even number.")
@renamed_option("--worlds", "--replays")
@click.option("--poison", default="per-replay", show_default=True, help="per-replay, or transfer: as RUN has sent it.")
@click.option("--burnin", default="shared", show_default=True, help="shared: RUN's base model; own: one a replay.")
@click.option("--queries", default="plain,flip", show_default=True, help="plain, flip, up, down, left, right.")
@click.option("--out", type=PATH, help="The directory to write, or to go on with.  [default: RUN/shadow-replays-...]")
@engine_options
@output_options
def shadow_replays(
    run: Path,
    out: Path | None,
    engine: "Engine",
    quiet: bool,
    as_json: bool,
    queries: str,
    **settings: Any,  # noqa: ANN401
) -> None:
    """Audit a stream, by replays of it as shadow models.

    In each replay a coin decides, for every sample of the stream, whether it comes itself or one of its class that was
    held out, in the same place; replays come in complementary pairs. Every replay is attacked by all other pairs, and
    the run by all replays. Interrupt it at will: the same command goes on. Writes audit.json, audit.csv, controls.csv
    and what each model said.
    """
    from accupoison.audit.online.replays import ReplayAudit, ReplaySettings, audit_replays, make_replays
    from accupoison.audit.online.run import config_of
    from accupoison.audit.results import by_attack, run_columns
    from accupoison.audit.writers import write_models

    if settings["poison"] == "per-world":
        note("per-world is now called per-replay")
        settings["poison"] = "per-replay"
    made = ReplaySettings(queries=tuple(queries.split(",")), **settings)
    if (spec := config_of(run).release.spec) != "identity":
        note(f"the models themselves are asked: {spec}, which {run} releases its answers by, plays no part here")
    name = f"{made.count}-{made.poison}-{made.burnin}"
    older = run / f"worlds-{name.replace('per-replay', 'per-world')}"
    folder = out or (older if older.exists() else run / f"shadow-replays-{name}")
    replays = ReplayAudit(run, CHECKPOINTS, folder, made)
    with progress_bar("replays", hidden=quiet or as_json) as show:
        make_replays(replays, engine=engine, report=show)
    found, facts = audit_replays(replays)
    tables = {}
    for group, (results, of_run, controls) in found.items():
        attacks = {row["attack"]: row for row in by_attack([of_run])}
        columns = {name: run_columns(result) for name, result in of_run.items()}
        place = folder / group.replace(" ", "-")
        about = {**(facts if not group else {}), "run": attacks}
        tables[group] = write_models(place, results, about, controls, crossed=True, columns=columns)
    content, rows = tables.pop("")
    for group, (written, rows_of_group) in tables.items():
        content.setdefault("groups", {})[group] = {row["attack"]: row for row in written["attacks"]}
        if not as_json:
            click.echo(f"{group}, which the run's attack is after\n{table(rows_of_group)}\n{controls_text(written)}\n")
    knows = "the weights before the stream" if made.burnin == "shared" else "nothing of the run's base model"
    show_models(
        folder, content, rows, as_json, f"{made.count} replays of {facts['pairs']} pairs; the auditor knows {knows}"
    )
