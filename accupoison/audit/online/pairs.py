"""Who stands in for whom in the shadow replays of a run."""

from dataclasses import dataclass

import torch
from torch import Tensor

from accupoison.attacks.planned import PlannedAttack
from accupoison.config.schema import OnlineConfig
from accupoison.data import DataSet, DataStream, Splits
from accupoison.errors import InputError
from accupoison.rng import generator
from accupoison.runs.population import stream_population
from accupoison.runs.streams import stream_of
from accupoison.types import Access


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

    def assignment(self, seed: int, replay: int) -> Tensor:
        """Draw where the partner stands in.

        Args:
            seed: Of the run.
            replay: Number of the replay; 2k and 2k + 1 are complementary.

        Returns:
            True where the partner comes, bool [n].
        """
        rng = generator(seed, "world", replay // 2)  # the word of the first version, so that audits go on as they began
        return torch.randint(2, (len(self.inside),), generator=rng).bool() ^ bool(replay % 2)

    def swap(self, size: int, assignment: Tensor) -> Tensor:
        """Return who comes in the place of each id.

        Args:
            size: Ids of the data set.
            assignment: Where the partner comes, bool [n].

        Returns:
            Ids, int64 [size].
        """
        places = torch.arange(size)
        places[self.inside[assignment]] = self.outside[assignment]
        return places


def pair(config: OnlineConfig, data: DataSet, splits: Splits) -> Pairs:
    """Pair the samples of the steps before the trigger with samples of their class that the stream never reaches.

    Args:
        config: Settings of the run.
        data: Its data set.
        splits: Whose samples are whose.

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
    stream = stream_of(config, data, splits)
    before, after = (_distinct(stream, steps) for steps in (range(s.steps), range(s.steps + 1, length)))
    if config.trigger.types[-1] not in ("none", "coast"):
        after = torch.cat([after, stream.trigger(s.steps).ids.cpu()])
    inside = before[~torch.isin(before, after)]
    inside = inside[~torch.isin(inside, _victims(config, data, splits))]  # else replays would have less poison
    free = splits.stream[~torch.isin(splits.stream, torch.cat([before, after]))]
    free = free[torch.randperm(len(free), generator=generator(config.run.seed, "partners"))]
    inside_labels, free_labels = (data.labels(ids).cpu() for ids in (inside, free))
    samples = []
    partners = []
    for label in range(data.num_classes):
        of_class, free_of_class = inside[inside_labels == label], free[free_labels == label]
        count = min(len(of_class), len(free_of_class))
        samples.append(of_class[:count])
        partners.append(free_of_class[:count])
    pairs = Pairs(torch.cat(samples), torch.cat(partners))
    if len(pairs.inside) < 10:
        raise InputError(
            f"only {len(pairs.inside)} samples of the stream have a partner of their class that was never streamed; "
            "give data.stream more samples than the stream takes"
        )
    return pairs


def _victims(config: OnlineConfig, data: DataSet, splits: Splits) -> Tensor:
    """Return the samples of the stream that the run's attack relabels, int64 [n]."""
    attack = config.attack.fresh()
    if not isinstance(attack, PlannedAttack):
        return splits.stream[:0]
    val, people = data.batch(splits.val), stream_population(config, data, splits)
    attack.access = Access(val, val, crafted=False, reoptimise=False, population=people)
    return attack.relabelling()[0]


def _distinct(stream: DataStream, steps: range) -> Tensor:
    return torch.tensor(sorted({i for t in steps for i in stream.ids(t).tolist()}), dtype=torch.int64)
