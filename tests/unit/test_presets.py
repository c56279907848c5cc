"""The flags and presets that ship, and the defaults that they are said to be."""

import math

import pytest

from accupoison.attacks import ATTACKS
from accupoison.audit.offline.shadow_models import offline_config
from accupoison.cli import cli
from accupoison.cli.options import FLAGS
from accupoison.config.layers import Layer, plain, preset, presets
from accupoison.config.schema import BurninConfig, OnlineConfig, burnin_config, online_config
from accupoison.defenses import DEFENSES
from accupoison.records.files import as_json
from tests.messages import refuses

PLACE = ["--out", "--resume", "--resume-or-start", "--config", "--set", "--dry-run"]
OUTPUT = ["--quiet", "--json"]
UPDATE = ["--update", "--noise-multiplier", "--max-grad-norm"]
SHARED = [
    *UPDATE,
    "--data",
    "--data-dir",
    "--offline",
    "--model",
    "--width",
    "--norm",
    "--seed",
    "--device",
    *PLACE,
    *OUTPUT,
]
ENGINE = ["--jobs", "--engine", "--address", "--gpus-per-run", "--cpus-per-run"]
STREAM = [
    "--med",
    "--attack",
    "--eps",
    "--trigger",
    "--stream",
    "--steps",
    "--recovery-steps",
    "--bn-mode",
    "--clip-norm",
]
CLI_FLAGS: dict[str, list[str]] = {
    "compare": [
        *(flag for flag in SHARED if flag not in ("--seed", "--resume", "--resume-or-start", "--json")),
        *STREAM,
        *ENGINE,
        *("--seeds", "--burnins", "--recipe", "--epochs", "--checkpoint"),
        *("--reference", "--release", "--preset", "--audit-every"),
    ],
    "ladder": [
        *(flag for flag in SHARED if flag not in ("--seed", "--resume", "--resume-or-start", "--json")),
        *(flag for flag in STREAM if flag != "--attack"),
        *ENGINE,
        *("--seeds", "--burnins", "--recipe", "--epochs", "--checkpoint"),
        *("--reference", "--preset", "--audit-every", "--floor"),
    ],
    "audit": ["--run", "--out", "--attack", "--release", "--seed", "--json"],
    "burnin": [*SHARED, "--recipe", "--epochs", "--attack", "--med"],
    "online": [
        *SHARED,
        *STREAM,
        "--checkpoint",
        "--reference",
        "--release",
        "--preset",
        "--audit-every",
        "--save-batches",
        "--detectors",
        "--replay",
    ],
    "demo": ["--jobs", "--quiet"],
    "doctor": ["--data-dir", "--json"],
    "list": ["--json"],
    "report": ["--claims", "--format", "--out", "--trigger", "--json"],
    "sweep": [
        *ENGINE,
        *("--set", "--data-dir", "--device", "--out", "--burnins", "--seeds", "--dry-run", "--trial", "--quiet"),
    ],
}
OFFLINE_FLAGS = ["--size", "--shadows", "--target-models", "--leave-one-out"]
"""Every flag of every command. A new one needs a reason that ``--set`` does not meet."""


def test_flags_are_frozen() -> None:
    found = {
        name: sorted(
            p.opts[0] if p.opts[0].startswith("--") else p.opts[1]
            for p in command.params
            if p.param_type_name == "option" and not getattr(p, "hidden", False)
        )
        for name, command in cli.commands.items()
    }
    assert found == {name: sorted(flags) for name, flags in CLI_FLAGS.items()}


def test_every_flag_stands_for_a_setting_that_exists() -> None:
    private = {"update": {"name": "dpsgd"}}
    sections = {**plain(burnin_config([])), **plain(online_config([private])), **plain(offline_config([private]))}
    for flag, (section, key) in FLAGS.items():
        assert key in sections[section], flag
        assert any(f"--{flag.replace('_', '-')}" in flags for flags in [*CLI_FLAGS.values(), OFFLINE_FLAGS])


@pytest.mark.parametrize("name", presets("online"))
@pytest.mark.parametrize("attack", ATTACKS.names())
@pytest.mark.parametrize("defense", DEFENSES.names())
def test_every_preset_resolves_for_every_pair_and_comes_back(name: str, attack: str, defense: str) -> None:
    chosen: Layer = {"attack": {"name": attack}, "defense": {"name": defense}, "update": {"clip_norm": 2.0}}
    made = online_config([preset("online", name), chosen])
    assert (made.attack.name, made.defense.name) == (attack, defense)
    assert online_config([plain(made)]) == made
    assert online_config([as_json(plain(made))]) == made
    assert set(made.attack.settings) == set(ATTACKS.settings(attack))


@pytest.mark.parametrize("name", presets("burnin"))
def test_every_recipe_resolves_and_comes_back(name: str) -> None:
    made = burnin_config([preset("burnin", name), {"train": {"snapshots": "1,2"}}])
    assert made.train.recipe == name
    assert made.train.snapshots == (1, 2)
    assert burnin_config([as_json(plain(made))]) == made


def test_infinity_survives_its_storage() -> None:
    made = online_config([])
    assert made.update.clip_norm == math.inf
    assert online_config([as_json(plain(made))]) == made


def test_the_default_presets_are_the_defaults() -> None:
    made, coast = online_config([]), {"trigger": {"types": "coast,adversarial"}}
    assert made == OnlineConfig(attack=made.attack)
    assert online_config([preset("online", "fresh")]) == online_config([coast]), "a control that costs a few steps"
    assert burnin_config([preset("burnin", "online_ready")]) == burnin_config([]) == BurninConfig()


def test_the_released_protocol_is_what_the_paper_ran() -> None:
    made = online_config([preset("online", "released"), {"defense": {"name": "OURS"}}])
    assert (made.stream.kind, made.stream.batch_size, made.stream.steps) == ("released_stream", 100, 100)
    assert (made.attack.settings["eps"], made.attack.settings["steps"]) == (0.2, 2)
    assert (made.defense.settings["threshold"], made.defense.settings["slope"]) == (0.5, 0.02)
    assert (made.optim.lr, made.optim.momentum, made.optim.weight_decay) == (0.1, 0.9, 0.0)
    trained = burnin_config([preset("burnin", "released")]).train
    assert (trained.epochs, trained.batch_size, trained.lr, trained.early_epoch) == (40, 256, 0.1, 20)


def test_no_recipe_but_the_default_depends_on_the_defaults() -> None:
    needed = {"batch_size", "lr", "schedule", "label_smoothing", "last_epochs"}
    for command, name in [*(("burnin", name) for name in presets("burnin")), ("audit", "offline")]:
        assert needed <= set(preset(command, name)["train"]), name
    old = burnin_config([preset("burnin", "step_down")]).train
    assert (old.batch_size, old.lr, old.final_lr, old.last_epochs, old.label_smoothing) == (128, 0.1, 0.05, 2, 0)


def test_presets_are_found_by_name() -> None:
    assert {"fresh", "released", "demo"} <= set(presets("online"))
    with refuses("preset 'relased' released"):
        preset("online", "relased")
    with refuses("preset 'fresh'"):
        preset("burnin", "fresh")


@pytest.mark.parametrize(("epochs", "early", "epoch"), [(40, None, 20), (1, None, 1), (7, None, 3), (7, 7, 7)])
def test_the_early_snapshot_is_half_way(epochs: int, early: int | None, epoch: int) -> None:
    assert burnin_config([{"train": {"epochs": epochs, "early": early}}]).train.early_epoch == epoch
