"""Who stands in for whom in the worlds of an audit."""

from dataclasses import dataclass

import torch
from torch import Tensor

from accupoison.config.schema import OnlineConfig
from accupoison.data import DataSet, DataStream, Splits, make_stream
from accupoison.errors import InputError
from accupoison.rng import generator


@dataclass(frozen=True, eq=False)
class Pairs:
    """The audited samples: each of the stream's with one that was held out, of the same class.

    Attributes:
        inside: Ids in the run's stream, int64 [n].
        outside: Ids of their partners, int64 [n].
    """

    inside: Tensor
    outside: Tensor

    @property
    def ids(self) -> Tensor:
        """All audited ids [2 n]; signals are in this order."""
        return torch.cat([self.inside, self.outside])

    def coins(self, seed: int, world: int) -> Tensor:
        """Return where the partner stands in, bool [n]; worlds 2k and 2k + 1 are complementary."""
        rng = generator(seed, "world", world // 2)
        return torch.randint(2, (len(self.inside),), generator=rng).bool() ^ bool(world % 2)

    def swap(self, size: int, coins: Tensor) -> Tensor:
        """Return, for each of ``size`` ids, who comes in its place."""
        places = torch.arange(size)
        places[self.inside[coins]] = self.outside[coins]
        return places


def pair(config: OnlineConfig, data: DataSet, splits: Splits) -> Pairs:
    """Pair the samples of the steps before the trigger with samples of their class that the stream never reaches.

    Raises:
        InputError: The stream is one of burn-in images, or hardly anybody is left to stand in.
    """
    s = config.stream
    if s.pool == "burnin" or config.data.splits == "released_split":
        raise InputError(
            "the stream's samples were trained on in the burn-in, so nobody can tell who was in the stream; audit a "
            "run with stream.pool=stream and data.splits=fresh"
        )
    length = s.steps + 1 + s.recovery_steps
    stream = make_stream(s.kind, data, splits, batch_size=s.batch_size, length=length, seed=config.run.seed)
    before, after = (_distinct(stream, steps) for steps in (range(s.steps), range(s.steps + 1, length)))
    if config.trigger.types[-1] not in ("none", "coast"):
        after = torch.cat([after, stream.trigger(s.steps).ids.cpu()])
    inside, taken = before[~torch.isin(before, after)], torch.cat([before, after])
    free = splits.stream[~torch.isin(splits.stream, taken)]
    free = free[torch.randperm(len(free), generator=generator(config.run.seed, "partners"))]
    labels, of_free = (data.labels(ids).cpu() for ids in (inside, free))
    mine, its = list[Tensor](), list[Tensor]()
    for label in range(data.num_classes):
        count = min(int((labels == label).sum()), int((of_free == label).sum()))
        mine.append(inside[labels == label][:count])
        its.append(free[of_free == label][:count])
    pairs = Pairs(torch.cat(mine), torch.cat(its))
    if len(pairs.inside) < 10:
        raise InputError(
            f"only {len(pairs.inside)} samples of the stream have a partner of their class that was never streamed; "
            "give data.stream more samples than the stream takes"
        )
    return pairs


def _distinct(stream: DataStream, steps: range) -> Tensor:
    return torch.tensor(sorted({i for t in steps for i in stream.ids(t).tolist()}), dtype=torch.int64)
