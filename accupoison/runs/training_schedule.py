"""Batch size and learning rate of each step of a burn-in."""

from accupoison.config.schema import TrainSettings
from accupoison.data import Splits
from accupoison.errors import InputError


def batch_size(train: TrainSettings, epoch: int) -> int:
    """Return the batch size of an epoch, counted from 0."""
    return train.last_batch_size if epoch >= train.epochs - train.last_epochs else train.batch_size


def learning_rate(train: TrainSettings, step: int, total: int, epoch: int) -> float:
    """Return the learning rate of a step.

    Args:
        train: The schedule, and its rates.
        step: From 0.
        total: Steps in all.
        epoch: Of the step, from 0.
    """
    done, rise = (step + 0.5) / total, 0.2
    rising = min(1.0, done / rise)
    match train.schedule:
        case "linear":
            return _fall(train, done, 0.5)
        case "warmup":
            return rising * train.lr if rising < 1 else _fall(train, done, rise)
        case "onecycle":
            return train.lr * min(rising, (1 - done) / (1 - rise))
        case "step":
            return train.lr * train.decay ** sum(epoch >= milestone for milestone in train.milestones)
        case _:
            return train.lr


def _fall(train: TrainSettings, done: float, start: float) -> float:
    """Return a rate that falls to the final one from ``start`` on, until the last epochs begin.

    Where they begin before that, in a burn-in of an epoch or two, it falls over half of what is left.
    """
    end = 1 - train.last_epochs / train.epochs
    end = end if end > start else (1 + start) / 2
    fallen = min(1.0, max(0.0, (done - start) / (end - start)))
    return train.lr + fallen * (train.final_lr - train.lr)


def check_sizes(train: TrainSettings, splits: Splits) -> int:
    """Return the smallest batch size of a burn-in.

    Args:
        train: The schedule.
        splits: Who is trained on, and what accuracy is followed on.

    Raises:
        InputError: A batch is larger than the burn-in part, or there is nothing to follow accuracy on.
    """
    sizes = {batch_size(train, epoch) for epoch in (0, train.epochs - 1)}
    if (largest := max(sizes)) > len(splits.burnin):
        raise InputError(
            f"a batch of {largest} images is larger than the burn-in part of {len(splits.burnin)}; "
            "use a smaller train.batch_size or more images"
        )
    if not len(splits.monitor):
        raise InputError("the monitor split is empty and accuracy is followed on it; give data.monitor 1 or more")
    return min(sizes)
