"""Settings of studies of releases: who gets which samples, what is judged, and what is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from accupoison.audit.releases.rows import rows_of
from accupoison.audit.releases.settings import (
    PartSettings,
    PrivateSettings,
    StudySettings,
    divide,
    releases_config,
)
from accupoison.audit.releases.stages import training
from accupoison.config.layers import plain, preset, presets
from accupoison.data import load
from accupoison.data.npz import read_npz
from accupoison.models.factory import ModelSpec, build_model
from accupoison.updates import DPSGD
from tests.messages import refuses

SMALL = PartSettings(
    members="0:7", defense_nonmembers="7:10", nonmembers="10:14", shadow_members="14:16", shadow_nonmembers="17:20"
)


@pytest.mark.parametrize("order", [np.arange(23) % 3, np.arange(23) // 8])
def test_ranges_are_of_the_order_of_the_file(order: np.ndarray, tmp_path: Path) -> None:
    """Whatever the division by place, or by place within each class where classes come in turn."""
    x = np.arange(23)[:, None] / 22
    np.savez(tmp_path / "a.npz", x=x, y=order)
    data = read_npz(tmp_path / "a.npz", name="a")
    assert data.file_ids is not None
    assert sorted(data.file_ids.tolist()) == list(range(23))
    parts = divide(data, replace(SMALL, order="file"), seed=5)
    for name, (first, end) in SMALL.ranges().items():
        batch = data.batch(parts[name])
        assert (batch.x[:, 0] * 22).round().int().tolist() == list(range(first, end))
        assert batch.y.tolist() == order[first:end].tolist()


def test_a_divided_set_has_its_own_order_and_seeds_shuffle() -> None:
    data = load("digits")
    parts = divide(data, replace(SMALL, order="file"), seed=0)
    assert parts["nonmembers"].tolist() == [10, 11, 12, 13]
    shuffled = [divide(data, SMALL, seed) for seed in (0, 0, 1)]
    assert all(torch.equal(shuffled[0][name], shuffled[1][name]) for name in parts)
    assert not torch.equal(shuffled[0]["members"], shuffled[2]["members"])
    every = torch.cat(list(shuffled[0].values()))
    assert len(set(every.tolist())) == len(every) == 19


def test_the_preset_has_the_documented_settings() -> None:
    config = releases_config([preset("releases", "location30")])
    ranges = {
        "members": (0, 1000),
        "defense_nonmembers": (1000, 2000),
        "nonmembers": (2000, 3000),
        "shadow_members": (3000, 3500),
        "shadow_nonmembers": (4000, 4500),
    }
    assert config.parts.order == "file"
    assert config.parts.ranges() == ranges
    assert (config.train.epochs, config.train.batch_size, config.train.lr) == (200, 64, 0.01)
    assert (config.train.milestones, config.train.decay, config.train.momentum) == ((150,), 0.1, 0.0)
    assert (config.neural.epochs, config.neural.lr, config.neural.milestones) == (400, 0.01, (300,))
    spec = ModelSpec(name=str(config.model.name), width=128, num_classes=30, mean=(0.5,) * 446, std=(0.5,) * 446)
    units = [p.shape[0] for name, p in build_model(spec).named_parameters() if p.ndim == 2]
    assert units == [1024, 512, 256, 128, 30]
    budgets = [row.budget for row in rows_of(config.study) if row.family == "defenmi"]
    assert budgets == [1, 0.7, 0.5, 0.3, 0.1, 0]
    assert plain(releases_config([plain(config)])) == plain(config)


def test_budgets_are_for_releases_that_have_one_and_do_not_say_which() -> None:
    names = ("memguard:epochs=2", "defenmi:budget=0.3", "round:2", "round:2")
    rows = rows_of(StudySettings(releases=names, budgets=(1.0, 0.25)))
    assert [row.name for row in rows] == [
        "identity",
        "memguard:epochs=2,budget=1",
        "memguard:epochs=2,budget=0.25",
        "defenmi:budget=0.3",
        "round:2",
    ]
    assert [row.budget for row in rows] == [None, 1.0, 0.25, 0.3, None]
    assert len({row.fitted_as for row in rows}) == 4
    assert rows[2].release.settings["epochs"] == 2


def test_private_models_differ_in_what_their_section_says_alone() -> None:
    config = releases_config([preset("releases", "location30")])
    plainly, private = training(config, 3, None), training(config, 3, 0.5)
    assert plainly.train == config.train
    assert isinstance(private.update, DPSGD)
    assert (private.update.noise_multiplier, private.update.delta) == (0.5, config.private.delta)
    assert (private.model.name, private.train.epochs, private.train.lr) == ("shallow-mlp", 20, 0.5)
    assert private.data == plainly.data
    assert training(replace(config, private=PrivateSettings()), 3, 0.1).model == replace(config.model, norm="group")


@pytest.mark.parametrize(
    ("section", "key", "value", "words"),
    [
        ("parts", "members", "5", "parts.members '5' FIRST:END"),
        ("parts", "members", "9:9", "parts.members 9:9 FIRST:END"),
        ("parts", "nonmembers", "999:1001", "parts.nonmembers parts.members overlap"),
        ("parts", "order", "files", "parts.order 'files' file"),
        ("study", "seeds", 0, "study.seeds 0"),
        ("study", "releases", [], "study.releases empty"),
        ("study", "budgets", [3.0], "study.budgets 3.0"),
        ("neural", "epochs", 0, "neural.epochs 0"),
        ("neural", "hidden", [0], "neural.hidden units"),
        ("private", "noise_multipliers", [1.0, 1.0], "private.noise_multipliers twice"),
        ("private", "accuracy_loss", 2.0, "private.accuracy_loss 2.0"),
    ],
)
def test_what_does_not_fit_is_refused(section: str, key: str, value: object, words: str) -> None:
    with refuses(words):
        releases_config([{section: {key: value}}])


def test_ranges_beyond_the_data_are_refused() -> None:
    with refuses("parts.shadow_nonmembers 1700:2000 1797 digits smaller"):
        divide(load("digits"), replace(SMALL, shadow_nonmembers="1700:2000"), 0)


@pytest.mark.parametrize("name", presets("releases"))
def test_presets_say_how_models_are_trained(name: str) -> None:
    settings = preset("releases", name)
    config = releases_config([settings])
    assert {"batch_size", "lr", "schedule", "label_smoothing", "last_epochs"} <= set(settings["train"])
    assert config.private.noise_multipliers
    assert {row.name for row in rows_of(config.study)} >= {
        "identity",
        "memguard:budget=1",
        "defenmi:budget=1",
        "round:2",
    }
