"""Who stands in for whom: pairs of a class, complementary replays, the same slots."""

from dataclasses import replace

import pytest
import torch

from accupoison.attacks.planned import PlannedAttack
from accupoison.audit.online.pairs import pair
from accupoison.audit.online.replays import ReplaySettings
from accupoison.config.layers import Layer
from accupoison.config.schema import OnlineConfig, online_config
from accupoison.data import DataSet, Splits, make_stream, split
from accupoison.runs.base_model import open_data
from accupoison.runs.population import stream_population
from accupoison.types import Access
from tests.messages import refuses

SIZES = {"name": "digits", "burnin": 200, "stream": 300, "trigger": 20, "val": 20, "trusted": 20, "monitor": 20}


def config(**stream: object) -> OnlineConfig:
    return online_config([{"data": SIZES, "stream": {"batch_size": 10, "steps": 8, "after": 2, **stream}}])


def opened(made: OnlineConfig) -> tuple[DataSet, Splits]:
    return open_data(made.data, torch.device("cpu"))


def test_partners_are_of_the_class_and_never_streamed() -> None:
    made = config()
    data, splits = opened(made)
    pairs = pair(made, data, splits)
    stream = make_stream("iid", data, splits, batch_size=10, length=11, seed=0)
    streamed = torch.cat([stream.ids(t) for t in (*range(8), 9, 10)])  # at 8 the trigger comes instead
    before = torch.cat([stream.ids(t) for t in range(8)])
    assert torch.isin(pairs.inside, before).all()
    assert not torch.isin(pairs.outside, streamed).any()
    assert torch.isin(pairs.outside, splits.stream).all()
    assert torch.equal(data.labels(pairs.inside), data.labels(pairs.outside))
    assert len(set(pairs.ids.tolist())) == len(pairs.ids)
    assert len(pairs.inside) >= 60  # of 80; a class may run short of partners


def test_each_replay_holds_exactly_one_of_a_pair_in_the_same_place() -> None:
    made = config()
    data, splits = opened(made)
    pairs = pair(made, data, splits)
    plain = make_stream("iid", data, splits, batch_size=10, length=11, seed=0)
    for number in range(4):
        assignment = pairs.assignment(0, number)
        assert torch.equal(assignment, ~pairs.assignment(0, number ^ 1))  # complementary
        assert 0.25 < float(assignment.float().mean()) < 0.75
        swapped = make_stream(
            "iid", data, splits, batch_size=10, length=11, seed=0, swap=pairs.swap(data.size, assignment)
        )
        ids = torch.cat([swapped.ids(t) for t in range(8)])
        assert torch.equal(torch.isin(pairs.inside, ids), ~assignment)
        assert torch.equal(torch.isin(pairs.outside, ids), assignment)
        partner = dict(zip(pairs.inside.tolist(), pairs.outside.tolist(), strict=True))
        for t in range(11):
            for old, new in zip(plain.ids(t).tolist(), swapped.ids(t).tolist(), strict=True):
                assert new in (old, partner.get(old))
        assert torch.equal(swapped.trigger(8).ids, plain.trigger(8).ids)
    assert not torch.equal(pairs.assignment(0, 0), pairs.assignment(0, 2))


@pytest.mark.parametrize(
    ("stream", "data", "words"),
    [
        ({"pool": "burnin"}, {}, "trained burn-in"),
        ({}, {"splits": "released_split"}, "trained burn-in"),
        ({"steps": 57, "batch_size": 5}, {}, "partner class never streamed"),
    ],
)
def test_streams_without_anybody_to_stand_in(stream: dict[str, object], data: dict[str, object], words: str) -> None:
    made = config(**stream)
    made = replace(made, data=replace(made.data, **data))  # type: ignore[arg-type]
    images, parts = opened(made) if not data else (opened(config())[0], split(opened(config())[0]))
    with refuses(words):
        pair(made, images, parts)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"count": 6}, "6 number 8"),
        ({"count": 9}, "9 number"),
        ({"poison": "transfr"}, "poison of replays 'transfr' transfer"),
        ({"burnin": "mine"}, "burn-in of replays 'mine'"),
        ({"queries": ("flop",)}, "query 'flop'"),
        ({"queries": ("flip",)}, "must begin with plain"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, object], words: str) -> None:
    with refuses(words):
        ReplaySettings(**settings)  # type: ignore[arg-type]


def test_victims_of_an_attack_are_never_exchanged() -> None:
    poison: Layer = {
        "attack": {"name": "dirty-label", "target_class": "none", "ratio": 0.3},
        "trigger": {"types": "none"},
    }
    made = online_config([{"data": SIZES, "stream": {"batch_size": 10, "steps": 8}}, poison])
    data, splits = opened(made)
    plain, poisoned = pair(config(), data, splits), pair(made, data, splits)
    attack = made.attack.fresh()
    assert isinstance(attack, PlannedAttack)
    val, people = data.batch(splits.val), stream_population(made, data, splits)
    attack.access = Access(val, val, crafted=False, reoptimise=False, population=people)
    victims = attack.relabelling()[0]
    assert len(victims) == 24
    assert torch.isin(plain.inside, victims).any()
    assert not torch.isin(poisoned.ids, victims).any()
