"""The offline protocol: who gets which samples, what is asked, and that the attacks see members."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from accupoison.audit.offline.results import audit_offline
from accupoison.audit.offline.shadow_models import (
    OfflineConfig,
    ShadowSettings,
    divide,
    members_of,
    model_name,
)
from accupoison.audit.results import by_attack
from accupoison.audit.signals import QUERIES, signals, signals_path
from accupoison.data import DataSet
from accupoison.models.view import view_of
from tests.messages import refuses

RNG = np.random.default_rng(0)


def images(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(256, (count, 3, 8, 8), generator=torch.Generator().manual_seed(seed)).byte()


def data(train: int = 120, test: int = 40) -> DataSet:
    x, y = images(train + test), torch.arange(train + test) % 3
    return DataSet("made", x[:train], y[:train], x[train:], y[train:], ("a", "b", "c"), flip=True)


SETTINGS = ShadowSettings(size=50, shadows=5, target_models=2, population=10)


def test_pools_population_and_audited_samples_are_apart() -> None:
    division = divide(data(), SETTINGS, 0)
    parts = [division.audited, division.population, *division.pools.values()]
    ids = torch.cat(parts).tolist()
    assert len(set(ids)) == len(ids)
    assert [len(part) for part in parts] == [40, 10, 55, 55]
    assert division.audited.tolist() == list(range(120, 160))


def test_members_are_half_of_the_audited_samples_and_some_of_the_pool() -> None:
    division = divide(data(), SETTINGS, 0)
    found = {}
    for pool in ("target_models", "shadows"):
        for number in range(3):
            members, keep = members_of(division, SETTINGS, pool, number, 0)
            assert len(set(members.tolist())) == len(members) == 50
            assert int(keep.sum()) == 20
            assert torch.equal(torch.isin(division.audited, members), keep)
            own = members[members < 120]
            assert torch.isin(own, division.pools[pool]).all()
            found[pool, number] = tuple(keep.tolist())
    assert len(set(found.values())) == 6
    again, _ = members_of(division, SETTINGS, "target_models", 0, 0)
    assert torch.equal(again, members_of(division, SETTINGS, "target_models", 0, 0)[0])


def test_samples_with_a_duplicate_are_not_audited_and_trained_on_once() -> None:
    made = data()
    x = made.test_x.clone()
    x[0], x[5] = made.train_x[7], x[6]  # one across the halves, one within the test half
    train = made.train_x.clone()
    train[30] = train[31]
    division = divide(replace(made, train_x=train, test_x=x), SETTINGS, 0)
    assert sorted(set(range(120, 160)) - set(division.audited.tolist())) == [120, 125, 126]
    trained = torch.cat([division.population, *division.pools.values()]).tolist()
    assert 30 in trained or 31 not in trained
    assert not {30, 31} <= set(trained)
    assert division.dropped == 3


@pytest.mark.parametrize("size", [19, 76])
def test_sizes_that_do_not_fit_are_refused(size: int) -> None:
    with refuses(f"shadows.size {size} 40 20 75"):
        divide(data(), replace(SETTINGS, size=size), 0)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"shadows": 4}, "shadows.shadows 4 5"),
        ({"queries": ("plain", "mirror")}, "query 'mirror'"),
        ({"queries": ("flip",)}, "must begin with plain"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, object], words: str) -> None:
    with refuses(words):
        ShadowSettings(**settings)  # type: ignore[arg-type]


def test_signals_are_the_logits_of_each_question() -> None:
    made = data()
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 3)).eval()
    ids = torch.tensor([121, 3, 150])
    phi, probs = signals(view_of(model), made, ids, QUERIES)
    assert (phi.shape, probs.shape) == ((3, 6), (3, 3))
    batch = made.batch(ids)
    up, right = nn.functional.pad(batch.x[:, :, 1:], (0, 0, 0, 1)), nn.functional.pad(batch.x[..., :-1], (1, 0))
    moved = {"plain": batch.x, "flip": batch.x.flip(3), "up": up, "right": right}
    with torch.no_grad():
        for query, x in moved.items():
            p = model(x).softmax(1)[torch.arange(3), batch.y].double()
            np.testing.assert_allclose(phi[:, QUERIES.index(query)], torch.log(p / (1 - p)), rtol=1e-4, atol=1e-5)


def write_models(
    folder: Path, config: OfflineConfig, made: DataSet, *, told: float, target: float | None = None
) -> None:
    """Write signals in which a member's logit is higher by ``told`` than a non-member's, of targets by ``target``."""
    division = divide(made, config.shadows, config.run.seed)
    labels = made.labels(division.audited).numpy()
    hard = RNG.normal(0, 2, len(labels))
    for pool, count in (("shadows", config.shadows.shadows), ("target_models", config.shadows.target_models)):
        for number in range(count):
            _, keep = members_of(division, config.shadows, pool, number, config.run.seed)
            higher = told if target is None or pool == "shadows" else target
            logit = hard + higher * keep.numpy() + RNG.normal(0, 1, len(labels))
            p = 1 / (1 + np.exp(-logit))
            probs = np.repeat((1 - p)[:, None] / 2, 3, axis=1)
            probs[np.arange(len(labels)), labels] = p
            others = np.full((len(division.population), 3), 1 / 3)
            path = signals_path(folder, model_name(pool, number))
            path.parent.mkdir(parents=True, exist_ok=True)
            facts = {"seconds": 2.0, "images": 100.0, "epsilon": np.inf}
            np.savez(path, phi=logit[:, None], probs=probs, keep=keep.numpy(), population=others, **facts)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def protocol() -> tuple[OfflineConfig, DataSet]:
    shadows = ShadowSettings(size=1000, shadows=12, target_models=3, population=10)
    return OfflineConfig(shadows=shadows), data(train=220, test=1900)


def test_the_attacks_find_what_is_there(protocol: tuple[OfflineConfig, DataSet], tmp_path: Path) -> None:
    write_models(tmp_path, *protocol, told=2.0)
    found, facts = audit_offline(protocol[0], tmp_path, protocol[1])
    models, controls = found[""]
    assert controls["loss_ratio"]["flagged"] is False
    assert not any(one["flagged"] for one in (*controls["null"].values(), *controls["blind"]))
    assert controls["shadows"]["count"] == 12
    auc = {name: float(np.mean([model[name].roc.auc for model in models])) for name in models[0]}
    ideal = 0.921  # Phi(2 / sqrt 2): two unit Gaussians at distance 2
    assert ideal - 0.04 < auc["lira_online_fixed_variance"] < ideal + 0.02
    assert ideal - 0.05 < auc["lira_offline_fixed_variance"] < ideal + 0.02
    assert auc["loss"] < auc["lira_online_fixed_variance"] - 0.1  # hard samples drown the metric attacks
    best = [model["lira_online_fixed_variance"] for model in models]
    assert all(0.8 < result.accuracy < 0.86 for result in best)  # Phi(1) = 0.841
    assert len(best) == 3
    assert by_attack(models)[0]["auc"] == [model["correctness"].roc.auc for model in models]
    assert facts["images_per_second"] == 50
    assert facts["audited"] == 1900


def test_the_attacks_find_nothing_where_nothing_is(protocol: tuple[OfflineConfig, DataSet], tmp_path: Path) -> None:
    write_models(tmp_path, *protocol, told=0.0)
    models = audit_offline(protocol[0], tmp_path, protocol[1])[0][""][0]
    for one in by_attack(models):
        assert abs(float(np.mean(one["auc"])) - 0.5) < 4 * 0.0132 / 3**0.5  # the AUC's deviation at 950 and 950
        assert abs(float(np.mean(one["accuracy"])) - 0.5) < 0.04


def test_targets_that_were_trained_longer_are_flagged(protocol: tuple[OfflineConfig, DataSet], tmp_path: Path) -> None:
    write_models(tmp_path, *protocol, told=1.0, target=3.0)
    assert audit_offline(protocol[0], tmp_path, protocol[1])[0][""][1]["loss_ratio"]["flagged"] is True


def test_missing_and_damaged_signals_are_said(protocol: tuple[OfflineConfig, DataSet], tmp_path: Path) -> None:
    write_models(tmp_path, *protocol, told=1.0)
    path = signals_path(tmp_path, "target_models-001")
    with np.load(path) as stored:
        sound = dict(stored)
    for change in (
        {"phi": sound["phi"][:-1]},
        {"keep": sound["keep"].astype(int)},
        {"probs": np.full_like(sound["probs"], np.nan)},
        {"population": sound["population"][:, :1]},
        {"seconds": np.ones(2)},
        {name: sound[name][1:] for name in ("phi", "probs", "keep")},
    ):
        np.savez(path, **{**sound, **change})
        with refuses("target_models-001.npz samples"):
            audit_offline(protocol[0], tmp_path, protocol[1])
    path.write_bytes(path.read_bytes()[:200])
    with refuses("target_models-001.npz readable"):
        audit_offline(protocol[0], tmp_path, protocol[1])
    path.unlink()
    with refuses("no target_models-001.npz"):
        audit_offline(protocol[0], tmp_path, protocol[1])
