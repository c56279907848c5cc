"""The burn-in: train the base model that the stream will go on with."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from accupoison.base_model import BaseModel, check_images, data_identity, place, spec_for
from accupoison.config import plain
from accupoison.data import DataSet, Splits, crop_flip
from accupoison.defenses.clip import clip
from accupoison.device import resolve_device
from accupoison.errors import InputError
from accupoison.evaluate import evaluate
from accupoison.learner import Learner
from accupoison.models import ModelSpec, build_model
from accupoison.open_data import open_data
from accupoison.recorder import RunRecorder
from accupoison.rng import derive, generator
from accupoison.rundir import STATE, RunDirectory, environment
from accupoison.settings import BurninConfig, TrainSettings, at_home
from accupoison.tags import SUMMARY

FINAL, EARLY, LATEST, BEST = "final.pt", "early.pt", "latest.pt", "best.pt"

Progress = Callable[[int, int, str], None]
"""Told (steps done, steps in all, a few words) after every step."""


def never() -> bool:
    """Return False: nobody asks to stop."""
    return False


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
    """

    config: BurninConfig
    data: DataSet
    splits: Splits
    spec: ModelSpec
    learner: Learner
    step: int = 0
    sums: tuple[float, float, int] = (0.0, 0.0, 0)
    best: tuple[float, int] = (-1.0, 0)

    @classmethod
    def prepare(cls, config: BurninConfig) -> "Burnin":
        """Load the data and make the network.

        Raises:
            InputError: Data, model or device are not to be had, or a batch is larger than the burn-in part.
        """
        device = resolve_device(config.run.device)
        data, splits = open_data(config.data, device)
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
        check_images(model, spec.name, data, min(sizes))
        t = config.train
        learner = Learner(model, lr=t.lr, momentum=t.momentum, weight_decay=t.weight_decay, nesterov=t.nesterov)
        return cls(config, data, splits, spec, learner)

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

    def train_epoch(self) -> Iterator[float]:
        """Train to the end of the current epoch; yield the loss of each batch after its step."""
        epoch, first = self.position()
        order = torch.randperm(len(self.splits.burnin), generator=generator(self.config.run.seed, "order", epoch))
        size = batch_size(self.config.train, epoch)
        for index in range(first, self.steps_in(epoch)):
            ids = self.splits.burnin[order[index * size : (index + 1) * size]]
            self.learner.lr = learning_rate(self.config.train, self.step, self.total, epoch)
            loss, accuracy = self._train_step(ids)
            sums = self.sums if index else (0.0, 0.0, 0)
            self.sums = (sums[0] + loss, sums[1] + accuracy, sums[2] + 1)
            self.step += 1
            yield loss

    def _train_step(self, ids: Tensor) -> tuple[float, float]:
        x, y = self.data.inputs(ids), self.data.labels(ids)
        if not self.data.features:
            rng = generator(self.config.run.seed, "augment", self.step)
            x = crop_flip(x, rng=rng, flip=self.data.flip).float() / 255
        with self.learner.forward() as forward:
            logits = forward(x)
        loss = F.cross_entropy(logits, y, label_smoothing=self.config.train.label_smoothing)
        grads, train = torch.autograd.grad(loss, tuple(self.learner.model.parameters())), self.config.train
        self.learner.apply(clip(grads, train.clip_norm, train.clip_kind) if train.clip_norm < math.inf else grads)
        return float(loss.detach()), float((logits.argmax(1) == y).float().mean())

    def base_model(self) -> BaseModel:
        """Return what a stream can start from."""
        state = self.learner.state()
        return BaseModel(
            self.spec,
            state["model"],
            state["optimizer"],
            None if self.config.train.schedule == "onecycle" else self.learner.lr,  # nobody goes on at almost zero
            self.position()[0],
            data_identity(self.config.data, self.data),
        )


def batch_size(train: TrainSettings, epoch: int) -> int:
    """Return the batch size of an epoch, counted from 0."""
    return train.last_batch_size if epoch >= train.epochs - train.last_epochs else train.batch_size


def learning_rate(train: TrainSettings, step: int, total: int, epoch: int) -> float:
    """Return the rate of a step out of ``total``, in an epoch from 0; the schedules are those of the settings."""
    done = (step + 0.5) / total
    match train.schedule:
        case "linear":
            start, end = 0.5, 1 - train.last_epochs / train.epochs
            fallen = 0.0 if done < start else min(1.0, (done - start) / max(end - start, 1e-9))
            return train.lr + fallen * (train.final_lr - train.lr)
        case "onecycle":
            rise = 0.2
            return train.lr * (done / rise if done < rise else (1 - done) / (1 - rise))
        case "step":
            return train.lr * train.decay ** sum(epoch >= milestone for milestone in train.milestones)
        case _:
            return train.lr


def run_burnin(
    config: BurninConfig, out: Path, *, resume: bool, progress: Progress, should_stop: Callable[[], bool] = never
) -> dict[str, Any]:
    """Train, record and save in ``out``; return the summary.

    ``out`` gets ``final.pt``, ``early.pt`` (the early snapshot), ``latest.pt``, ``epochN.pt`` for other epochs asked
    for, with patience ``best.pt``, and the files of a run directory. Stopped by ``should_stop``, it saves its state and
    can be resumed bit for bit.

    Args:
        config: All settings.
        out: The directory.
        resume: Go on with the burn-in that is there.
        progress: Told of every step.
        should_stop: Asked after every step.

    Raises:
        InputError: Something the configuration names is not to be had, or ``out`` cannot be used.
    """
    settings = plain(config)
    with ExitStack() as stack:
        if resume:
            run = stack.enter_context(RunDirectory.resume(out, at_home(settings, out)))
        burnin = Burnin.prepare(config)
        if not resume:
            run = stack.enter_context(RunDirectory.create(out, settings, environment(str(burnin.learner.device))))
        state = _restored(burnin, run) if resume else None
        at = None if state is None else (state["offset"], burnin.step)
        with RunRecorder(run, [""], at) as recorder:
            finished = _train(burnin, run, recorder, progress, should_stop)
            if finished:
                _finish(burnin, out)
            summary = _summary(burnin, finished)
            recorder.close(summary)
    return summary


def _restored(burnin: Burnin, run: RunDirectory) -> dict[str, Any] | None:
    """Put the burn-in where its saved state says, and return that state; None if it was never saved."""
    state = run.load_state()
    if state is None and (run.path / SUMMARY).exists():
        raise InputError(f"{run.path} has lost its {STATE}; restore a copy or start the burn-in anew")
    if state is not None:
        if state["data"] != burnin.data.fingerprint():
            raise InputError(
                f"{run.path} was started on other contents of {burnin.data.name}; bring those back to resume"
            )
        burnin.learner.restore(state["learner"])
        burnin.step, burnin.sums, burnin.best = state["step"], tuple(state["sums"]), tuple(state["best"])
    return state


def _finish(burnin: Burnin, out: Path) -> None:
    """Save the model that streams start from: the last one, or with patience the best."""
    if burnin.config.train.patience is not None:
        best = BaseModel.load(out / BEST)
        burnin.learner.restore({"model": best.weights, "optimizer": best.optimizer})
        best.save(out / FINAL)
    else:
        burnin.base_model().save(out / FINAL)


def _train(
    burnin: Burnin, run: RunDirectory, recorder: RunRecorder, progress: Progress, should_stop: Callable[[], bool]
) -> bool:
    train = burnin.config.train
    while not burnin.over:
        started = time.perf_counter()
        for loss in burnin.train_epoch():
            progress(burnin.step, burnin.total, f"loss {loss:.3f}")
            if not math.isfinite(loss):
                raise InputError(f"the burn-in diverged (loss {loss} at step {burnin.step}); use a lower train.lr")
            if should_stop() and burnin.position()[1]:
                _save(burnin, run, recorder)
                return False
        epoch = burnin.position()[0]
        total_loss, total_accuracy, count = burnin.sums
        metrics = {"train/loss": total_loss / count, "train/acc": total_accuracy / count}
        metrics["optim/lr"] = burnin.learner.lr
        metrics["monitor/acc"] = evaluate(burnin.learner.view(), burnin.data, burnin.splits.monitor)[0]
        metrics["time/epoch_s"] = time.perf_counter() - started
        recorder.log(metrics, burnin.step)
        if train.patience is not None and metrics["monitor/acc"] > burnin.best[0]:
            burnin.best = metrics["monitor/acc"], epoch
            burnin.base_model().save(run.path / BEST)
        if epoch == train.early_epoch:
            burnin.base_model().save(run.path / EARLY)
        if epoch in train.snapshots:
            burnin.base_model().save(run.path / f"epoch{epoch}.pt")
        _save(burnin, run, recorder)
        if should_stop() and not burnin.over:
            return False
    return True


def _save(burnin: Burnin, run: RunDirectory, recorder: RunRecorder) -> None:
    burnin.base_model().save(run.path / LATEST)
    offset = recorder.sync()
    state = {"learner": burnin.learner.state(), "step": burnin.step, "sums": burnin.sums, "offset": offset}
    run.save_state({**state, "best": burnin.best, "data": burnin.data.fingerprint()})


def _summary(burnin: Burnin, finished: bool) -> dict[str, Any]:
    summary: dict[str, Any] = {
        "status": "finished" if finished else "interrupted",
        "steps": burnin.step,
        "epochs": burnin.position()[0],
        "burnin_images": len(burnin.splits.burnin),
        "note": burnin.splits.note,
    }
    if finished:
        accuracy, loss = evaluate(burnin.learner.view(), burnin.data, burnin.splits.test)
        summary |= {"test_acc": accuracy, "test_loss": loss, "test_images": len(burnin.splits.test)}
    return summary
