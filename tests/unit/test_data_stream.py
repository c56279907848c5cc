import pytest
import torch

from accupoison.data import DataSet, DataStream, Shift, Splits, make_stream
from accupoison.data.stream import STREAMS
from accupoison.errors import InputError
from accupoison.types import Batch
from tests.messages import refuses, says


def world() -> tuple[DataSet, Splits]:
    """Return 60 train images whose pixels equal their id, 20 of them to stream and 6 to trigger with."""
    x = torch.arange(70, dtype=torch.uint8).view(70, 1, 1, 1).expand(70, 3, 8, 8).contiguous()
    y = torch.arange(70) % 5
    data = DataSet("world", x[:60], y[:60], x[60:], y[60:], tuple("abcde"), flip=True)
    ids, none = torch.arange(60), torch.empty(0, dtype=torch.int64)
    return data, Splits(ids[:30], ids[30:50], ids[50:56], none, none, none, torch.arange(60, 70))


def stream(kind: str = "iid", *, batch_size: int = 4, length: int = 5, seed: int = 0) -> DataStream:
    data, splits = world()
    return make_stream(kind, data, splits, batch_size=batch_size, length=length, seed=seed)


def same(a: Batch, b: Batch) -> bool:
    return torch.equal(a.x, b.x) and torch.equal(a.y, b.y) and torch.equal(a.ids, b.ids)


def all_ids(of: DataStream) -> list[int]:
    return torch.cat([of.ids(t) for t in range(len(of))]).tolist()


def test_iid_draws_without_repeats() -> None:
    ids = all_ids(stream())
    assert sorted(ids) == list(range(30, 50))
    assert ids != sorted(ids)
    shorter = all_ids(stream(length=3))
    assert shorter == ids[:12]  # the horizon does not change what came before


@pytest.mark.parametrize("kind", STREAMS.names())
def test_a_batch_depends_on_seed_and_step_alone(kind: str) -> None:
    forward, backward = stream(kind), stream(kind)
    batches = [backward[t] for t in (4, 2, 0, 3, 1)]
    for t, batch in zip((4, 2, 0, 3, 1), batches, strict=True):
        assert same(forward[t], batch)
        assert torch.equal(forward.ids(t), batch.ids)
    assert all_ids(stream(kind, seed=1)) != all_ids(forward)


@pytest.mark.parametrize("kind", ["iid", "cycling", "released_stream"])
def test_batches_carry_the_images_of_their_ids(kind: str) -> None:
    for batch in (stream(kind)[3], stream(kind).trigger(3)):
        assert torch.equal(batch.x, (batch.ids.float() / 255).view(-1, 1, 1, 1).expand(-1, 3, 8, 8))
        assert torch.equal(batch.y, batch.ids % 5)


def test_a_stream_can_be_iterated_over() -> None:
    made = stream()
    assert len(list(made)) == len(made) == 5  # type: ignore[call-overload]
    for t in (-1, 5):
        with refuses(f"0 4 {t}", IndexError):
            made[t]
        with refuses("stream steps 0 4", IndexError):
            made.ids(t)


@pytest.mark.parametrize("batch_size", [1, 3, 4, 6])
def test_cycling_sees_every_image_once_a_pass(batch_size: int) -> None:
    passes = 6
    ids = all_ids(stream("cycling", batch_size=batch_size, length=passes * 20 // batch_size))
    turns = [ids[i * 20 : (i + 1) * 20] for i in range(passes)]
    assert all(sorted(turn) == list(range(30, 50)) for turn in turns)
    assert len({tuple(turn) for turn in turns}) == passes
    assert turns[0] == all_ids(stream("iid"))


def test_released_stream_repeats_one_batch_which_is_the_trigger_too() -> None:
    made = stream("released_stream", length=100)
    assert same(made[0], made[99])
    assert same(made[0], made.trigger(100))
    assert set(made.ids(0).tolist()) < set(range(30, 50))
    assert (
        len(stream("released_stream", batch_size=7).trigger(0)) == 7
    )  # more than the trigger split, which it leaves alone


@pytest.mark.parametrize("kind", ["iid", "cycling", "shift:blur"])
def test_trigger_comes_from_its_own_split(kind: str) -> None:
    made = stream(kind)
    ids = made.trigger(5).ids.tolist()
    assert len(set(ids)) == 4
    assert set(ids) < set(range(50, 56))
    assert made.trigger(0).ids.tolist() == ids
    others = [stream(kind, seed=seed).trigger(0).ids.tolist() for seed in range(1, 5)]
    assert any(other != ids for other in others)


def test_shift_changes_images_and_nothing_else() -> None:
    plain, shifted = stream("iid", length=5), stream("shift:brightness", length=5)
    assert plain.shift is None
    assert shifted.shift == Shift("brightness", 0, 5)
    assert same(plain[0], shifted[0])
    for t in range(1, 5):
        assert torch.equal(shifted.ids(t), plain.ids(t))
        assert torch.equal(shifted[t].x, shifted.shift(plain[t].x, plain[t].ids, t))
        assert not torch.equal(shifted[t].x, plain[t].x)
    assert torch.equal(shifted.trigger(5).x, shifted.shift(plain.trigger(5).x, plain.trigger(5).ids, 5))
    assert not torch.equal(shifted.trigger(5).x, plain.trigger(5).x)


@pytest.mark.parametrize("kind", ["lid", "shift", "shift:", "shift:smoke"])
def test_unknown_kinds_list_the_choices(kind: str) -> None:
    with refuses(f"stream.kind {kind!r}"):
        stream(kind)


@pytest.mark.parametrize(
    ("kind", "batch_size", "length", "words"),
    [
        ("iid", 0, 5, "batch size stream 0 1"),
        ("cycling", 4, 0, "length stream 0 1"),
        ("cycling", 7, 5, "batch 7 images larger 6 6"),
        ("released_stream", 21, 5, "batch 21 images larger 20 20"),
        (
            "iid", 4, 6,
            "stream.kind=iid 24 (6 batches of 4, before, at and after the trigger) 20 5 3 stream.kind=cycling",
        ),
        ("shift:fog", 5, 5, "stream split 20 4 4"),
        ("iid", 1, 21, "stream split 20 20 stream.kind=cycling"),
    ],
)  # fmt: skip
def test_too_few_images(kind: str, batch_size: int, length: int, words: str) -> None:
    with pytest.raises(InputError) as caught:
        stream(kind, batch_size=batch_size, length=length)
    says(caught.value, words)


@pytest.mark.parametrize("name", ["stream", "trigger"])
def test_empty_splits(name: str) -> None:
    data, splits = world()
    parts = {**vars(splits), name: torch.empty(0, dtype=torch.int64)}
    with refuses(f"the {name} split empty 4"):
        make_stream("iid", data, Splits(**parts), batch_size=4, length=2, seed=0)


@pytest.mark.parametrize("kind", ["iid", "cycling"])
def test_a_stream_of_burn_in_images_keeps_its_trigger_for_itself(kind: str) -> None:
    data, splits = world()
    made = make_stream(kind, data, splits, batch_size=4, length=6, seed=0, pool="burnin")
    ids, trigger = all_ids(made), made.trigger(0).ids.tolist()
    assert set(ids) | set(trigger) <= set(range(30))
    assert len(set(ids)) == len(ids) == 24
    assert not set(ids) & set(trigger)
    with refuses("32 30 6"):
        make_stream("iid", data, splits, batch_size=4, length=7, seed=0, pool="burnin")
    with refuses("stream.pool 'all'"):
        make_stream("iid", data, splits, batch_size=4, length=2, seed=0, pool="all")
