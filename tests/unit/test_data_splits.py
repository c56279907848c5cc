from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor

from accupoison.data import DataSet, Splits, SplitSizes, split
from tests.messages import refuses

PARTS = ("burnin", "stream", "trigger", "val", "trusted", "monitor")
SMALL = SplitSizes(burnin=40, stream=20, trigger=5, val=6, trusted=7, monitor=8)


def blank(train: int, test: int) -> DataSet:
    def x(n: int) -> Tensor:
        return torch.zeros(n, 3, 1, 1, dtype=torch.uint8)

    def y(n: int) -> Tensor:
        return torch.zeros(n, dtype=torch.int64)

    return DataSet("blank", x(train), y(train), x(test), y(test), ("a",), flip=True)


def counts(splits: Splits) -> dict[str, int]:
    return {name: len(getattr(splits, name)) for name in PARTS}


def joined(splits: Splits) -> list[int]:
    return torch.cat([getattr(splits, name) for name in PARTS]).tolist()


def equal(a: Splits, b: Splits) -> bool:
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in (*PARTS, "test"))


def test_defaults_are_those_of_cifar() -> None:
    assert [getattr(SplitSizes(), f.name) for f in fields(SplitSizes)] == [40_000, 5_000, 500, 500, 2_000, 2_000]
    splits = split(blank(50_000, 10))
    assert sorted(joined(splits)) == list(range(50_000))
    assert splits.note == ""


def test_fresh_parts_are_disjoint_train_images() -> None:
    splits = split(blank(100, 9), sizes=SMALL)
    assert counts(splits) == {"burnin": 40, "stream": 20, "trigger": 5, "val": 6, "trusted": 7, "monitor": 8}
    ids = joined(splits)
    assert len(set(ids)) == len(ids) == 86
    assert set(ids) < set(range(100))
    assert splits.test.tolist() == list(range(100, 109))
    assert all(getattr(splits, name).dtype == torch.int64 for name in (*PARTS, "test"))
    assert splits.note == ""
    assert ids != sorted(ids)


@pytest.mark.parametrize("protocol", ["fresh", "released_split"])
def test_only_the_seed_decides(protocol: str) -> None:
    data = blank(100, 50)
    first = split(data, protocol=protocol, seed=3, sizes=SMALL)
    torch.rand(7)  # the global generator has no say
    assert equal(first, split(data, protocol=protocol, seed=3, sizes=SMALL))
    assert not equal(first, split(data, protocol=protocol, seed=4, sizes=SMALL))


def test_small_sets_scale_and_say_so() -> None:
    splits = split(blank(1547, 250))
    assert counts(splits) == {
        "burnin": 1237, "stream": 154, "trigger": 15, "val": 15, "trusted": 61, "monitor": 61
    }  # fmt: skip
    assert len(set(joined(splits))) == 1543
    assert splits.note == (
        "blank has 1547 train images for 50000 wanted, so sizes were scaled to burnin 1237, stream 154, trigger 15, "
        "val 15, trusted 61, monitor 61."
    )


@pytest.mark.parametrize("train", [6, 7, 10, 20, 49])
def test_tiny_sets_leave_no_part_empty(train: int) -> None:
    splits = split(blank(train, 1))
    assert min(counts(splits).values()) == 1
    ids = joined(splits)
    assert len(set(ids)) == len(ids) <= train


def test_a_part_nobody_wants_stays_empty() -> None:
    splits = split(blank(20, 1), sizes=SplitSizes(burnin=30, stream=10, trigger=0, val=0, trusted=0, monitor=0))
    assert counts(splits) == {"burnin": 15, "stream": 5, "trigger": 0, "val": 0, "trusted": 0, "monitor": 0}


def test_released_parts_overlap_as_released() -> None:
    splits = split(blank(100, 30), protocol="released_split", sizes=SMALL)
    everything, test = list(range(100)), set(range(100, 130))
    assert splits.burnin.tolist() == splits.stream.tolist() == splits.trigger.tolist() == everything
    assert counts(splits) == {"burnin": 100, "stream": 100, "trigger": 100, "val": 6, "trusted": 7, "monitor": 8}
    for name, pool in {"val": test, "monitor": test, "trusted": set(everything)}.items():
        ids = getattr(splits, name).tolist()
        assert len(set(ids)) == len(ids)
        assert set(ids) < pool
    assert set(splits.test.tolist()) == test
    assert splits.note == ""


def test_released_cuts_to_what_there_is() -> None:
    splits = split(blank(100, 5), protocol="released_split", sizes=SMALL)
    assert sorted(splits.val.tolist()) == sorted(splits.monitor.tolist()) == [100, 101, 102, 103, 104]
    assert splits.note == "blank has fewer images than wanted, so sizes were cut to val 5, monitor 5."


def test_bad_input() -> None:
    with refuses("protocol 'frsh' fresh"):
        split(blank(10, 1), protocol="frsh")
    with refuses("blank 5 train images 6 6"):
        split(blank(5, 1))
    with refuses("data.val -1 0"):
        SplitSizes(val=-1)


def classes_of(count: int) -> DataSet:
    """Return 100 training and 10 test samples of ``count`` classes in turn."""
    data, names = blank(100, 10), tuple(str(i) for i in range(count))
    return replace(data, train_y=torch.arange(100) % count, test_y=torch.arange(10) % count, classes=names)


@pytest.mark.parametrize("protocol", ["fresh", "released_split"])
def test_classes_held_out_of_the_burn_in(protocol: str) -> None:
    data = classes_of(4)
    usual, without = (split(data, protocol=protocol, sizes=SMALL, novel_classes=held) for held in ((), (1, 3)))
    kept = usual.burnin[usual.burnin % 2 == 0]
    assert torch.equal(without.burnin, kept)
    assert all(torch.equal(getattr(usual, name), getattr(without, name)) for name in PARTS[1:])
    assert without.note.endswith(f"The burn-in has no images of 1, 3: {len(kept)} of {len(usual.burnin)} are left.")
    assert bool((data.labels(without.stream) % 2).any())


@pytest.mark.parametrize(
    ("held_out", "words"),
    [((4,), "class 4 0 3"), ((-1,), "class -1"), ((0, 1, 2, 3), "without a single image")],
)
def test_classes_that_cannot_be_held_out(held_out: tuple[int, ...], words: str) -> None:
    with refuses(words):
        split(classes_of(4), sizes=SMALL, novel_classes=held_out)
