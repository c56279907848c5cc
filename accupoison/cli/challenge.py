"""The membership inference challenge of 2022: ``audit challenge``."""

from functools import cache
from pathlib import Path
from typing import Any

import click

from accupoison.cli.audit import JSON, audit
from accupoison.cli.group import command_line
from accupoison.cli.options import PATH, WHOLE, common_options, data_options, data_place, layers
from accupoison.cli.output import json_text, note, progress_bar, table


class _Rooted(click.Group):
    """A group whose first word, where it is no command of its own, is what its main command is about."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:  # noqa: ANN401
        if args and args[0] not in self.commands:
            return super().resolve_command(ctx, ["attack", *args])
        return super().resolve_command(ctx, args)


@audit.group(cls=_Rooted)
def challenge() -> None:
    """Answer the membership inference challenge of 2022.

    With audit challenge ROOT [OPTIONS]; make makes a small one.
    """


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
@click.option(
    "--truth",
    type=PATH,
    help="Where DATASET_MODEL.npy says who of the test samples is a member.  [default: ROOT/truth]",
)
@JSON
def attack(root: Path, out: Path | None, networks: tuple[str, ...], truth: Path | None, as_json: bool) -> None:
    """Score every cell under ROOT and write the answers.

    ROOT has datasets/{eval,test}/DATASET_MODEL.p and models/MODEL_DATASET.pth for some of resnet34, vgg16, mobilenetv2
    on cifar10, cifar100, tinyimagenet. The metric with the best cross-validated accuracy answers tasks 1 and 2,
    whether the network is right answers task 3. Nothing in the pickles is executed. Where the truth is known, the
    answers are held to it: scored.csv, and a directory for each cell that report draws.
    """
    from accupoison.audit.challenge.answer import NETWORKS, attack_cells, write_challenge
    from accupoison.audit.challenge.truth import write_scored
    from accupoison.errors import InputError, check_choice

    factories = {}
    for entry in networks:
        name, equals, factory = entry.partition("=")
        if not equals or ":" not in factory:
            raise InputError(f"--network {entry!r} is not of the form NAME=package.module:factory")
        check_choice("network of the challenge", name, NETWORKS)
        factories[name] = factory
    folder = out or root / "results"
    cells = list(attack_cells(root, factories, truth))
    result, scored = write_challenge(folder, cells), write_scored(folder, cells)
    if as_json:
        held = {f"{c.model}_{c.dataset}": {n: r.as_dict() for n, r in c.held.items()} for c in cells if c.held}
        click.echo(json_text({"out": str(folder), "result": result, **({"truth": held} if held else {})}))
        return
    rows = [
        {
            "model": cell.model,
            "data set": cell.dataset,
            "metric": name,
            "max accuracy": f"{metric.max_acc:.4f}",
            "cross-validated": f"{metric.cross_validated:.4f}",
            "threshold": f"{metric.threshold:.4g}",
        }
        for cell in cells
        for name, metric in cell.metrics.items()
    ]
    click.echo(table(rows))
    if scored:
        click.echo(f"\nheld to the truth, with 95% intervals\n{table(scored)}")
    click.echo(f"\nanswers of the best metric in {folder}")


@challenge.command()
@click.argument("root", type=PATH)
@data_options
@click.option("--networks", default="resnet34,vgg16,mobilenetv2", show_default=True, help="Which of the challenge's.")
@click.option("--width", type=WHOLE, help="Channels of the first stage (wrn28-10: a tenth).  [default: 64]")
@click.option("--epochs", type=WHOLE, help="Passes over the members.")
@click.option(
    "--size", type=WHOLE, default=2000, show_default=True, help="Samples of known membership; as many to tell."
)
@common_options
@click.option("--quiet", "-q", is_flag=True, help="No progress bar.")
def make(
    root: Path,
    networks: str,
    size: int,
    dry_run: bool,
    quiet: bool,
    **flags: Any,  # noqa: ANN401
) -> None:
    """Make a small challenge under ROOT.

    It has networks trained on half of the samples, and the truth in truth/.
    """
    from accupoison.audit.challenge.make import make_cell
    from accupoison.config.layers import plain, preset
    from accupoison.config.schema import burnin_config

    settings = [data_place(), preset("burnin", "released"), *layers(flags)]
    if dry_run:
        click.echo(json_text(plain(burnin_config(settings, cache(note)))))
        return
    names = networks.split(",")
    with progress_bar("networks", hidden=quiet) as show:
        for done, name in enumerate(names, start=1):
            show(done, len(names), make_cell(root, name, settings, size))
    click.echo(f"wrote {root}; answer it with: {command_line('audit', 'challenge', root)}")
