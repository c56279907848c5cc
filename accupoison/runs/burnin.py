"""The burn-in: train the base model that the stream will go on with, record it and save it."""

import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from accupoison.config.layers import plain
from accupoison.config.renamed import with_new_names
from accupoison.config.schema import BurninConfig, at_home
from accupoison.config.threat_model import burnin_threat
from accupoison.measure.accuracy import evaluate, monitor
from accupoison.measure.suspects import suspects_auc, write_suspects
from accupoison.records.checkpoint import reading_payload
from accupoison.records.files import write_json
from accupoison.records.ledger import LEDGER
from accupoison.records.recorder import RunRecorder
from accupoison.records.run_directory import STATE, RunDirectory, check_contents, environment
from accupoison.records.tags import THREAT
from accupoison.runs.base_model import BaseModel
from accupoison.runs.trainer import Burnin
from accupoison.runs.training_schedule import batch_size
from accupoison.updates import DPSGD

FINAL, EARLY, LATEST, BEST = "final.pt", "early.pt", "latest.pt", "best.pt"

Progress = Callable[[int, int, str], None]
"""Told (steps done, steps in all, a few words) after every step."""


def never() -> bool:
    """Return False: nobody asks to stop."""
    return False


def run_burnin(
    config: BurninConfig, out: Path, *, resume: bool, progress: Progress, should_stop: Callable[[], bool] = never
) -> dict[str, Any]:
    """Train, record and save in ``out``; return the summary.

    ``out`` gets ``final.pt``, ``early.pt`` (the early snapshot), ``latest.pt``, ``epochN.pt`` for other epochs asked
    for, with patience ``best.pt``, and the files of a run directory; where the training is poisoned or defended,
    ``threat.json`` and ``ledger.npz``, and of a defence that tells samples apart ``suspects.csv``. Stopped by
    ``should_stop``, it saves its state and can be resumed bit for bit.

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
            run = stack.enter_context(RunDirectory.resume(out, at_home(settings, out), with_new_names))
        else:
            RunDirectory.check_free(out)  # before minutes go into data and models
        burnin = Burnin.prepare(config)
        if not resume:
            env = environment(str(burnin.learner.device), burnin.learner.kernels_in_effect)
            run = stack.enter_context(RunDirectory.create(out, settings, env))
        state = _restored(burnin, run) if resume else None
        burnin.begin()
        at = None if state is None else state["offset"]
        if (threat := burnin_threat(config)) is not None:
            write_json(out / THREAT, threat.as_dict())
            burnin.training.ledger().save(out / LEDGER)
        with RunRecorder(run, [""], at) as recorder:
            finished = _train(burnin, run, recorder, progress, should_stop)
            if finished:
                _finish(burnin, out)
            summary = {**_summary(burnin, finished), "metrics_digest": recorder.metrics_digest()}
            if finished and (found := burnin.suspects()) is not None:
                summary["suspects"] = write_suspects(out, found, burnin.training.ledger())
            test = {"accuracy": {"test": summary["test_acc"]}} if finished else {}
            recorder.close(summary, {**test, **settings})
    return summary


def _restored(burnin: Burnin, run: RunDirectory) -> dict[str, Any] | None:
    """Put the burn-in where its saved state says, and return that state; None if it was never saved."""
    state = run.load_state()
    if state is not None:
        with reading_payload(run.path / STATE):
            check_contents(run.path, burnin.data.name, state["data"], burnin.data.fingerprint())
            burnin.learner.restore(state["learner"])
            burnin.begin(state.get("parts"))  # of older versions there is none, nor was there any attack
            burnin.logged = dict(state.get("logged", {}))
            burnin.step, burnin.sums, burnin.best = state["step"], tuple(state["sums"]), tuple(state["best"])
    return state


def _finish(burnin: Burnin, out: Path) -> None:
    """Save the model that streams start from: the last one, or with patience the best."""
    if burnin.config.train.patience is not None:
        best = BaseModel.load(out / BEST)
        if burnin.config.train.early_epoch >= burnin.best[1]:  # early means before the model it is compared with
            (out / EARLY).unlink(missing_ok=True)
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
        epoch, first = burnin.position()[0], burnin.step
        for loss in burnin.train_epoch():
            rate = (burnin.step - first) * batch_size(train, epoch) / (time.perf_counter() - started)
            words = f"epoch {epoch + 1} of {train.epochs}, {rate:,.0f} images/s, loss {loss:.3f}"
            progress(burnin.step, burnin.total, words)
            if should_stop() and burnin.position()[1]:
                _save(burnin, run, recorder)
                return False
        epoch = burnin.position()[0]
        total_loss, total_accuracy, count = burnin.sums
        metrics = {**burnin.logged, "train/loss": total_loss / count}
        metrics |= {"train/acc": total_accuracy / count} if math.isfinite(total_accuracy) else {}
        metrics["optim/lr"] = burnin.learner.lr
        metrics |= monitor(burnin.learner.view(), burnin.data, burnin.splits)
        if (found := burnin.suspects()) is not None:
            facts = suspects_auc(found, burnin.training.ledger())
            metrics |= {"defense/noisy_auc": facts["auc"]} if "auc" in facts else {}
        if isinstance(burnin.config.update, DPSGD):
            metrics["dp/epsilon"] = burnin.epsilon
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
    state = {"learner": burnin.learner.state(), "step": burnin.step, "sums": burnin.sums, "best": burnin.best}
    state |= {"parts": burnin.parts(), "logged": burnin.logged}
    run.save_state({**state, "offset": recorder.sync(), "data": burnin.data.fingerprint()})


def _summary(burnin: Burnin, finished: bool) -> dict[str, Any]:
    threat = burnin_threat(burnin.config)
    summary: dict[str, Any] = {
        "status": "finished" if finished else "interrupted",
        **({} if threat is None else {"threat_model": threat.line}),
        "steps": burnin.step,
        "epochs": burnin.position()[0],
        **({} if burnin.config.train.patience is None else {"best_epoch": burnin.best[1]}),
        "burnin_images": len(burnin.splits.burnin),
        "note": burnin.splits.note,
    }
    if isinstance(burnin.config.update, DPSGD):
        summary |= {"epsilon": burnin.epsilon, "delta": burnin.config.update.delta}
    if finished:
        accuracy, loss = evaluate(burnin.learner.view(), burnin.data, burnin.splits.test)
        summary |= {"test_acc": accuracy, "test_loss": loss, "test_images": len(burnin.splits.test)}
    return summary
