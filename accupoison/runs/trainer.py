"""The training of a base model: where it is, and one step on."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from accupoison.config.schema import BurninConfig, TrainSettings
from accupoison.data import DataSet, Splits, crop_flip
from accupoison.data.dataset import Stats
from accupoison.device import resolve_device
from accupoison.errors import InputError
from accupoison.learner import Learner
from accupoison.measure.dp_accountant import epsilon_of
from accupoison.models.factory import ModelSpec, build_model
from accupoison.rng import derive, generator, global_seed
from accupoison.runs.base_model import BaseModel, data_identity, open_data, place, spec_for
from accupoison.runs.model_check import check_images
from accupoison.types import Batch, Forward, Grads
from accupoison.updates import DPSGD, check_private, private_gradients


@dataclass
class Burnin:
    """A burn-in under way; the position counts steps, so it can stop and go on anywhere.

    Attributes:
        config: All settings.
        data: The images.
        splits: Their parts; training uses ``burnin``.
        spec: The network.
        learner: The network with its optimiser.
        step: Steps taken.
        sums: Of loss and accuracy over the batches of the current epoch, and their number.
        best: Highest accuracy on the monitor images so far, and the epoch after which it was.
        name: What the message calls it if it diverges.
    """

    config: BurninConfig
    data: DataSet
    splits: Splits
    spec: ModelSpec
    learner: Learner
    step: int = 0
    sums: tuple[float, float, int] = (0.0, 0.0, 0)
    best: tuple[float, int] = (-1.0, 0)
    name: str = "the burn-in"

    @classmethod
    def prepare(
        cls,
        config: BurninConfig,
        members: Tensor | None = None,
        stats: Stats | None = None,
        name: str = "the burn-in",
    ) -> "Burnin":
        """Load the data and make the network.

        Args:
            config: All settings.
            members: Train on these ids, int64 [N], not the burn-in part; nothing is crafted against such a model.
            stats: Channel statistics to normalise by instead of the data set's own.
            name: What the message calls it if it diverges.

        Raises:
            InputError: Data, model or device are not to be had, or a batch is larger than the burn-in part.
        """
        device = resolve_device(config.run.device)
        data, splits = open_data(config.data, device)
        splits = splits if members is None else replace(splits, burnin=members)
        data = data if stats is None else replace(data, stats=stats)
        sizes = {batch_size(config.train, epoch) for epoch in (0, config.train.epochs - 1)}
        if (largest := max(sizes)) > len(splits.burnin):
            raise InputError(
                f"a batch of {largest} images is larger than the burn-in part of {len(splits.burnin)}; "
                "use a smaller train.batch_size or more images"
            )
        if not len(splits.monitor):
            raise InputError("the monitor split is empty and accuracy is followed on it; give data.monitor 1 or more")
        spec = spec_for(config.model, data, splits.burnin)
        model = place(build_model(spec, derive(config.run.seed, "init")), device)
        check_images(model, spec.name, data, splits.burnin, min(sizes), crafted=members is None)
        t = config.train
        learner = Learner(
            model,
            lr=t.lr,
            momentum=t.momentum,
            weight_decay=t.weight_decay,
            nesterov=t.nesterov,
            kernels=config.run.kernels,
        )
        if isinstance(config.update, DPSGD):
            check_private(learner, spec.name, data.batch(splits.burnin[:1]))
        return cls(config, data, splits, spec, learner, name=name)

    @property
    def total(self) -> int:
        """Steps in all."""
        return sum(self.steps_in(epoch) for epoch in range(self.config.train.epochs))

    def steps_in(self, epoch: int) -> int:
        """Return the full batches of an epoch; a rest smaller than a batch is left out."""
        return len(self.splits.burnin) // batch_size(self.config.train, epoch)

    def position(self) -> tuple[int, int]:
        """Return the epoch and the step within it that come next."""
        left = self.step
        for epoch in range(self.config.train.epochs):
            if left < self.steps_in(epoch):
                return epoch, left
            left -= self.steps_in(epoch)
        return self.config.train.epochs, 0

    @property
    def over(self) -> bool:
        """All epochs are done, or ``patience`` is at its end."""
        epoch, within = self.position()
        patience = self.config.train.patience
        return self.step >= self.total or (patience is not None and not within and epoch >= self.best[1] + patience)

    def train(self) -> None:
        """Train to the end.

        Raises:
            InputError: The loss is no longer finite.
        """
        while not self.over:
            for _ in self.train_epoch():
                pass

    def train_epoch(self) -> Iterator[float]:
        """Train to the end of the current epoch; yield the loss of each batch, in nats, after its step.

        Raises:
            InputError: The loss is no longer finite.
        """
        epoch, first = self.position()
        order = torch.randperm(len(self.splits.burnin), generator=generator(self.config.run.seed, "order", epoch))
        size = batch_size(self.config.train, epoch)
        for index in range(first, self.steps_in(epoch)):
            ids = self.splits.burnin[order[index * size : (index + 1) * size]]
            self.learner.lr = learning_rate(self.config.train, self.step, self.total, epoch)
            with global_seed(self.config.run.seed, "model", self.step, device=self.learner.device):
                loss, accuracy = self._train_step(ids)
            sums = self.sums if index else (0.0, 0.0, 0)
            self.sums = (sums[0] + loss, sums[1] + accuracy, sums[2] + 1)
            self.step += 1
            if not math.isfinite(loss):
                raise InputError(f"{self.name} diverged (loss {loss} at step {self.step}); use a lower train.lr")
            yield loss

    def _train_step(self, ids: Tensor) -> tuple[float, float]:
        x, y = self.data.inputs(ids), self.data.labels(ids)
        if not self.data.features:
            rng = generator(self.config.run.seed, "augment", self.step)
            x = crop_flip(x, rng=rng, flip=self.data.flip).float() / 255
        batch = Batch(x, y, ids)
        update = self.config.update
        if isinstance(update, DPSGD):
            loss, accuracy, grads = self._private(batch, update)
        else:
            loss, accuracy, grads = self._ordinary(batch)
        self.learner.apply(update.clipped(grads))
        return loss, accuracy

    def _ordinary(self, batch: Batch) -> tuple[float, float, Grads]:
        with self.learner.forward() as forward:
            logits = forward(batch.x)
        loss = F.cross_entropy(logits, batch.y, label_smoothing=self.config.train.label_smoothing)
        grads = torch.autograd.grad(loss, self.learner.parameters)
        return float(loss.detach()), float((logits.argmax(1) == batch.y).float().mean()), grads

    def _private(self, batch: Batch, update: DPSGD) -> tuple[float, float, Grads]:
        def losses(forward: Forward, rows: Batch) -> Tensor:
            smoothing = self.config.train.label_smoothing
            return F.cross_entropy(forward(rows.x), rows.y, reduction="none", label_smoothing=smoothing)

        loss, hits = self.learner.score(batch)
        grads = private_gradients(
            self.learner,
            losses,
            batch,
            noise_multiplier=update.noise_multiplier,
            max_grad_norm=update.max_grad_norm,
            chunk=update.chunk,
            rng=generator(self.config.run.seed, "dp", self.step),
        )
        return float(loss.mean()), float(hits.float().mean()), grads

    @property
    def epsilon(self) -> float:
        """What a sample has spent that every epoch so far has used, the current one included; inf without DP-SGD."""
        epoch, within = self.position()
        u = self.config.update
        return epsilon_of(epoch + (within > 0), u.noise_multiplier, u.delta) if isinstance(u, DPSGD) else float("inf")

    def base_model(self) -> BaseModel:
        """Return what a stream can start from."""
        state, train = self.learner.state(), self.config.train
        ends = {"onecycle": None, "linear": train.final_lr, "warmup": train.final_lr}  # nobody goes on at almost zero
        return BaseModel(
            self.spec,
            state["model"],
            state["optimizer"],
            ends.get(train.schedule, self.learner.lr),
            self.position()[0],
            data_identity(self.config.data, self.data),
        )


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
