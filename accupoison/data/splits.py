"""Who is trained on, streamed, attacked with and measured on."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import accumulate

import torch
from torch import Generator, Tensor

from accupoison.data.dataset import DataSet
from accupoison.errors import InputError, check_choice, check_least
from accupoison.rng import generator

PROTOCOLS = ("fresh", "released_split")


@dataclass(frozen=True, kw_only=True)
class SplitSizes:
    """How many images each part gets; the defaults are for CIFAR-10.

    Attributes:
        burnin: Images the base model is trained on.
        stream: Images that online batches are drawn from.
        trigger: Images that trigger batches are drawn from.
        val: The attacker's own images.
        trusted: Images the defender may calibrate on.
        monitor: Images that accuracy is followed on while a run goes on.

    Raises:
        InputError: A size is negative.
    """

    burnin: int = 40_000
    stream: int = 5_000
    trigger: int = 500
    val: int = 500
    trusted: int = 2_000
    monitor: int = 2_000

    def __post_init__(self) -> None:
        for field in fields(SplitSizes):  # a subclass may have more
            check_least(f"data.{field.name}", getattr(self, field.name), 0, "0 or more")


@dataclass(frozen=True, eq=False)
class Splits:
    """The parts of a data set, each as int64 ids [N] on the CPU.

    Attributes:
        burnin: Images the base model is trained on.
        stream: Images that online batches are drawn from.
        trigger: Images that trigger batches are drawn from.
        val: The attacker's own images.
        trusted: Images the defender may calibrate on.
        monitor: Images that accuracy is followed on.
        test: All test images.
        note: One sentence that says how sizes were scaled, or "".
    """

    burnin: Tensor
    stream: Tensor
    trigger: Tensor
    val: Tensor
    trusted: Tensor
    monitor: Tensor
    test: Tensor
    note: str = ""


def split(
    data: DataSet,
    *,
    protocol: str = "fresh",
    seed: int = 0,
    sizes: SplitSizes = SplitSizes(),
    novel_classes: Sequence[int] = (),
) -> Splits:
    """Divide ``data`` into the parts of a protocol.

    Args:
        data: The data set.
        protocol: ``fresh``: disjoint parts of the train half, all scaled by one factor where it is too small.
            ``released_split``: as the released code does it, with overlapping parts: the attacker's images and
            the monitor come from the test half, everything else from the whole train half.
        seed: Decides who is in which part.
        sizes: The sizes wanted. The released split uses those of ``val``, ``trusted`` and ``monitor``, and takes at
            most the half they come from.
        novel_classes: Classes whose images the burn-in part loses; nobody else gets them in its place.

    Raises:
        InputError: The protocol or a class is unknown, the train half has fewer images than there are parts, or the
            burn-in is left without an image.
    """
    check_choice("protocol", protocol, PROTOCOLS)
    rng = generator(seed, "split")
    parts = _released(data, sizes, rng) if protocol == "released_split" else _fresh(data, sizes, rng)
    return _without(parts, data, novel_classes) if novel_classes else parts


def _without(parts: Splits, data: DataSet, classes: Sequence[int]) -> Splits:
    """Return ``parts`` with no image of ``classes`` in the burn-in."""
    for label in classes:
        if not 0 <= label < data.num_classes:
            raise InputError(
                f"data.novel_classes has class {label}; {data.name} has the classes 0 to {data.num_classes - 1}"
            )
    keep = ~torch.isin(data.labels(parts.burnin).cpu(), torch.tensor(classes))
    if not keep.any():
        raise InputError(
            f"data.novel_classes leaves the burn-in of {data.name} without a single image; name fewer classes"
        )
    names = ", ".join(data.classes[label] for label in classes)
    note = f"The burn-in has no images of {names}: {int(keep.sum())} of {len(keep)} are left."
    return replace(parts, burnin=parts.burnin[keep], note=f"{parts.note} {note}".strip())


def _fresh(data: DataSet, sizes: SplitSizes, rng: Generator) -> Splits:
    wanted: dict[str, int] = {f.name: getattr(sizes, f.name) for f in fields(SplitSizes)}  # a subclass may have more
    counts = _scale(wanted, data)
    order = torch.randperm(data.num_train, generator=rng)
    ends = accumulate(counts.values())
    parts = {name: order[end - counts[name] : end] for name, end in zip(counts, ends, strict=True)}
    note = ""
    if counts != wanted:
        got = ", ".join(f"{name} {count}" for name, count in counts.items())
        total = sum(wanted.values())
        note = f"{data.name} has {data.num_train} train images for {total} wanted, so sizes were scaled to {got}."
    return Splits(**parts, test=torch.arange(data.num_train, data.size), note=note)


def _scale(wanted: dict[str, int], data: DataSet) -> dict[str, int]:
    """Return sizes that fit the train half: one factor for all, rounded down, but no wanted part left empty."""
    total, room = sum(wanted.values()), data.num_train
    if total <= room:
        return wanted
    used = sum(count > 0 for count in wanted.values())
    if room < used:
        raise InputError(f"{data.name} has {room} train images for {used} splits; give at least {used}")
    counts = {name: max(count * room // total, min(count, 1)) for name, count in wanted.items()}
    while sum(counts.values()) > room:  # parts lifted to one image: the largest part makes room
        counts[max(counts, key=lambda name: counts[name])] -= 1
    return counts


def _released(data: DataSet, sizes: SplitSizes, rng: Generator) -> Splits:
    train, test = torch.arange(data.num_train), torch.arange(data.num_train, data.size)
    val = test[torch.randperm(len(test), generator=rng)[: sizes.val]]
    trusted = train[torch.randperm(len(train), generator=rng)[: sizes.trusted]]
    monitor = test[torch.randperm(len(test), generator=rng)[: sizes.monitor]]
    got = {"val": len(val), "trusted": len(trusted), "monitor": len(monitor)}
    short = [f"{name} {count}" for name, count in got.items() if count < getattr(sizes, name)]
    note = f"{data.name} has fewer images than wanted, so sizes were cut to {', '.join(short)}." if short else ""
    return Splits(
        burnin=train, stream=train, trigger=train, val=val, trusted=trusted, monitor=monitor, test=test, note=note
    )
