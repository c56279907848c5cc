"""Who can be recognised as a member: ``audit``."""

from pathlib import Path

import click

from accupoison.cli.group import cli
from accupoison.cli.output import json_text


@cli.group()
def audit() -> None:
    """Measure how well an outsider can tell who was in the training set."""


@audit.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="The directory to write.  [default: FILE without .npz]")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the calibration half and the neural attack.")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON and nothing else.")
def predictions(file: Path, out: Path | None, seed: int, as_json: bool) -> None:
    """Audit a file of predictions, whatever program made it.

    FILE is an .npz with probs [N, C], labels [N], member [N] and, where the attacker has a shadow model,
    shadow_probs, shadow_labels and shadow_member. Thresholds are set on the shadow, or else on a random half of the
    samples, and the other half is reported. Writes audit.json, audit.csv, roc.png (log-log) and scores.png.
    """
    from accupoison.audit import audit_samples, read_predictions, table, write_results
    from accupoison.report.table import markdown

    samples, shadow = read_predictions(file)
    scores, reported, results = audit_samples(samples, shadow, seed=seed)
    folder = out or file.with_suffix("")
    write_results(folder, results, scores, reported)
    if as_json:
        click.echo(json_text({"out": str(folder), "attacks": [one.as_dict() for one in results]}))
        return
    rows = table(results)
    click.echo(markdown(list(rows[0]), [list(row.values()) for row in rows]))
    where = "the shadow model" if shadow else "a calibration half"
    click.echo(f"\n{len(reported.labels)} samples, thresholds from {where}; intervals are 95%. Wrote {folder}")
    for level, reason in results[0].roc.withheld.items():
        click.echo(f"TPR at {level:.1%} FPR is withheld: {reason}")
