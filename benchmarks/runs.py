"""Runs that a benchmark makes once and finds again."""

from pathlib import Path

import click

from accupoison.config.layers import Layer
from accupoison.config.schema import BurninConfig, OnlineConfig, changes, online_config
from accupoison.records.run_directory import RunDirectory
from accupoison.records.tags import SUMMARY
from accupoison.runs.online import OnlineRun


def check_settings(out: Path, config: BurninConfig | OnlineConfig) -> None:
    """Raise ClickException if ``out`` holds a run of other settings: figures would have the wrong name."""
    if RunDirectory.holds_run(out) and (changed := changes(config, out)):
        raise click.ClickException(f"{out} was made with other settings ({changed[0]}); choose another --folder")


def run_stream(out: Path, checkpoint: Path, data_dir: str | None, own: Layer) -> str:
    """Run a stream on the CPU from ``checkpoint`` under the settings ``own``, unless it is there; return its name."""
    start: Layer = {"data": {"dir": data_dir}, "start": {"checkpoint": str(checkpoint)}, "run": {"device": "cpu"}}
    config = online_config([start, own])
    check_settings(out, config)
    if not (out / SUMMARY).exists():
        OnlineRun(config, out.parent, out, resume=RunDirectory.holds_run(out)).run(lambda *_: None)
    return out.name
