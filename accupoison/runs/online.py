"""An online run: a simulation with everything that watches it."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from accupoison.config.layers import plain
from accupoison.config.renamed import with_new_names
from accupoison.config.schema import OnlineConfig, at_home, rows_apart
from accupoison.config.threat_model import online_threat, threat_model
from accupoison.data import DataSet, Splits
from accupoison.data.sources import FEATURES
from accupoison.errors import ComponentError, InputError
from accupoison.gradients import gradient
from accupoison.loop.detectors import Detectors
from accupoison.measure.dp_accountant import Accountant
from accupoison.measure.evaluator import Evaluator
from accupoison.measure.membership import LIMIT, membership_auc, never_learnt, subsample
from accupoison.measure.releases import fitted, known_to_defender, release_cost
from accupoison.measure.strips import strips
from accupoison.measure.suspects import write_suspects
from accupoison.measure.verdict import as_used, milestones, settings_text, verdict
from accupoison.records.checkpoint import reading_payload
from accupoison.records.files import write_json, writing
from accupoison.records.ledger import LEDGER, LEDGER_ROWS, Ledger
from accupoison.records.recorder import RunRecorder
from accupoison.records.run_directory import STATE, RunDirectory, environment
from accupoison.records.tags import THREAT
from accupoison.runs.build import build_simulation
from accupoison.runs.burnin import Progress, never
from accupoison.runs.fork import FORK, keep_fork, take_over
from accupoison.runs.inputs import check_inputs, file_digest, input_digests, recorded_inputs
from accupoison.runs.places import at_hand, recorded_places
from accupoison.runs.replay import check_replay, save_batch
from accupoison.types import Phase, Step
from accupoison.updates import DPSGD


def stored_ledger(run: Path, state: Mapping[str, Any]) -> Ledger:
    """Return the ledger as it was when ``state`` was saved.

    Raises:
        InputError: It is missing or damaged, or an older version wrote it.
    """
    saved = state["ledger"]
    if not isinstance(saved, dict):
        raise InputError(f"{run} was made by an older version of accupoison; run it anew")
    return Ledger.resume(run / LEDGER_ROWS, run / LEDGER, saved["rows"], saved["branches"], saved.get("digest"))


class OnlineRun:
    """One run, from its directory to its summary.

    Args:
        config: All settings.
        root: The directory of checkpoints.
        out: The run's directory.
        resume: Go on with the run that is there.
        fork: Begin where another run left this file; see :func:`accupoison.runs.fork.shared_steps`.
        keeps_fork: Leave such a file for others.

    Raises:
        InputError: Something that the configuration names is not to be had, or ``out`` cannot be used.
    """

    def __init__(
        self,
        config: OnlineConfig,
        root: Path,
        out: Path,
        *,
        resume: bool,
        fork: Path | None = None,
        keeps_fork: bool = False,
    ) -> None:
        self.out = out
        self._keeps_fork = keeps_fork
        self._diverged = False
        settings = plain(config)
        with ExitStack() as stack:
            if resume:
                stored = RunDirectory.resume(out, at_home(settings, out), with_new_names)
                self.directory = stack.enter_context(stored)
                config = at_hand(config, root, out)
            else:
                RunDirectory.check_free(out)  # before minutes go into data and models
            self.config = config
            built = build_simulation(config, root)
            self.simulation, data, splits, self.note = built.simulation, built.data, built.splits, built.note
            self._burnin = built.burnin
            if names := config.evaluate.detectors:
                early, trusted = self.simulation.reference, self.simulation.calibration()
                self.simulation.detectors = Detectors(names, early, trusted)
            known_to_defender(config.release, splits, built.burnin, config.run.seed)  # refused before hours go by
            self._inputs = input_digests(config, root, data)
            threat = online_threat(config, images=not data.features)
            if not resume:
                about = {"threat_model": threat.line, "model": built.model, "note": built.note}
                about |= {} if fork is None else {"fork": file_digest(fork)}
                places = {"places": recorded_places(config, root)}
                learner = self.simulation.learner
                env = {**environment(str(learner.device), learner.kernels_in_effect), **about, **places, **self._inputs}
                self.directory = stack.enter_context(RunDirectory.create(out, settings, env))
            if fork is not None and self.directory.load_state() is None:
                take_over(fork, self.directory, self.simulation)
            self._open(data, splits, resume or fork is not None)
            write_json(out / THREAT, threat.as_dict())
            stack.pop_all()  # from here on the directory is open until the run ends

    def _open(self, data: DataSet, splits: Splits, resume: bool) -> None:
        state = self.directory.load_state() if resume else None
        novel = self.config.data.novel_classes
        self.evaluator = Evaluator(self.simulation, data, splits, self.config.evaluate, self.config.stop, novel)
        self.ledger = Ledger()
        at = None
        if state is None and resume:  # it was killed before its first save
            check_inputs(self.out, self.config, recorded_inputs(self.out), self._inputs)
        if state is not None:
            with reading_payload(self.out / STATE):
                check_inputs(self.out, self.config, state["inputs"], self._inputs)
                self._diverged = state["diverged"]
                self.simulation.restore(state["simulation"])
                self.evaluator.restore(state["evaluator"] if "evaluator" in state else state["meter"])  # of older runs
                self.ledger = stored_ledger(self.out, state)
                at = state["offset"]
        u = self.config.update
        self._accountant: Accountant | None = None
        if isinstance(u, DPSGD):
            bounded = rows_apart(self.config.defense, self.config.attack)
            noise = u.noise_multiplier if bounded else 0.0  # nothing is bounded where rows may depend on each other
            self._accountant = Accountant(noise, u.delta, self.config.trigger.updates)
        self.recorder = RunRecorder(self.directory, self.config.trigger.types, at)
        if self._accountant is not None and self.ledger.branches:
            self._accountant.follow(self.ledger.branches[-1], self.ledger)
        self._fresh = state is None

    def run(self, progress: Progress, should_stop: Callable[[], bool] = never) -> dict[str, Any]:
        """Go through the stream and return the summary.

        Args:
            progress: Told of every step.
            should_stop: Asked after every step; the state is then saved, and the run can be resumed bit for bit.
        """
        with self.directory, self.recorder:
            status = self._loop(progress, should_stop)
            cost = self._cost_of_release() if status == "finished" else {}
            found = self.simulation.suspects() if status == "finished" else None
            suspects = {} if found is None else {"suspects": write_suspects(self.out, found, self.ledger)}
            summary = {**self.summary(status), **cost, **suspects, "metrics_digest": self.recorder.metrics_digest()}
            self.recorder.text("about/1 verdict", summary["verdict"])
            self.recorder.close(summary, {"accuracy": milestones(summary, self.config), **self._used()})
        return summary

    def summary(self, status: str) -> dict[str, Any]:
        """Return what the run has found so far."""
        found = {"status": status, "horizon": self.simulation.horizon, **self.evaluator.results()}
        return {
            "verdict": verdict(found, self.config),
            "threat_model": threat_model(self.config, images=not self.evaluator.data.features),
            **found,
            **({} if self._accountant is None else self._accountant.spent()),
        }

    def _used(self) -> dict[str, Any]:
        return as_used(self.config, self.evaluator.splits, self.simulation.learner.lr)

    def _cost_of_release(self) -> dict[str, Any]:
        """Fit the release to the last model, and return what it costs; nothing where it changes nothing."""
        asked, evaluator, seed = self.config.release, self.evaluator, self.config.run.seed
        if asked.name == "identity":
            return {}
        data, splits, view = evaluator.data, evaluator.splits, self.simulation.served.view()
        learnt = self.ledger.learnt(self.config.trigger.types[-1])
        known = known_to_defender(asked, splits, self._burnin, seed)
        members = torch.tensor(list(learnt), dtype=torch.int64)
        if self._burnin is not None:
            members = torch.cat([self._burnin[~torch.isin(self._burnin, members)], members])
        members, others = members[~torch.isin(members, known[0])], never_learnt(splits, learnt)
        release = fitted(asked, view, data, known, seed)
        cost = release_cost(release, view, data, subsample(members, LIMIT), subsample(others, LIMIT))
        return {"release": {"spec": asked.spec, **cost}}

    def _loop(self, progress: Progress, should_stop: Callable[[], bool]) -> str:
        if self.recorder.new:
            threat = threat_model(self.config, images=not self.evaluator.data.features)
            self.recorder.text("about/2 threat model", threat)
            self.recorder.text("about/3 settings", settings_text(self._used()))
        if self._fresh:
            self.recorder.log(self.evaluator.start(), 0)
        branches, after = len(self.config.trigger.types), self.config.stream.recovery_steps
        unsaved = 0
        progress(0, 1, "preparing attack and defence")
        self._keep_fork()
        for step in self._steps():
            self._record(step)
            total = self.simulation.horizon + branches * (after + 1)
            progress(self.evaluator.summary.steps, total, self.evaluator.latest)
            unsaved += 1
            broken = not math.isfinite(step.metrics["optim/distance_from_start"])
            if broken:
                self._diverge()
            self._keep_fork()
            stop = should_stop()
            if stop:
                self._close()
                return "interrupted"
            if broken or unsaved >= self.config.run.save_every:
                self._save()
                unsaved = 0
        self._close()
        return "diverged" if self._diverged else "finished"

    def _steps(self) -> Iterator[Step]:
        """Yield the steps of the simulation; a branch ends at the step that its broken model makes impossible."""
        while True:
            try:
                yield from self.simulation.run()
            except ComponentError as error:
                view, val = self.simulation.learner.view(), self.simulation.access.val
                if all(bool(g.isfinite().all()) for g in gradient(view, val.x, val.y)):
                    raise InputError(f"{error}; mend it, or choose another") from error
                self._diverge()  # images that are not finite
            else:
                return

    def _diverge(self) -> None:
        self._diverged = True
        self.simulation.abandon()

    def _record(self, step: Step) -> None:
        started = time.perf_counter()
        metrics = step.metrics | self.evaluator.measure(step)
        metrics["time/evaluate_s"] = time.perf_counter() - started
        self.ledger.add(step)
        if self._accountant is not None:
            metrics["dp/epsilon"] = self._accountant.add(step, self.ledger)
        every = self.config.evaluate.audit_every
        if every is not None and (step.t + 1) % every == 0:
            view, splits = self.simulation.served.view(), self.evaluator.splits
            metrics |= membership_auc(view, self.evaluator.data, splits, self._burnin, self.ledger, step.branch)
        self.recorder.log(metrics, step.t + 1, step.branch)
        self.recorder.scores(step.scores, step.t + 1, step.branch)
        if self.config.evaluate.save_batches:
            save_batch(self.out, step)
        count, shown = self.config.evaluate.images, step.branch in ("", self.config.trigger.types[-1])
        if count and shown and step.phase is not Phase.RECOVER and len(step.clean) and step.clean.x.ndim == 4:
            view, classes = self.simulation.learner.view(), self.evaluator.data.classes
            self.recorder.image("images/rows", strips(step, view, classes, count), step.t + 1)

    def _keep_fork(self) -> None:
        if self._keeps_fork and self.simulation.at_fork and not (self.out / FORK).exists():
            self._save()
            keep_fork(self.out)

    def _close(self) -> None:
        """Save the state, and the ledger in the form that others read."""
        self.ledger.save(self.out / LEDGER)
        self._save()
        with writing(self.out / LEDGER_ROWS):
            (self.out / LEDGER_ROWS).unlink()

    def _save(self) -> None:
        self.ledger.append(self.out / LEDGER_ROWS)
        state = {
            "inputs": self._inputs,
            "diverged": self._diverged,
            "simulation": self.simulation.state(),
            "evaluator": self.evaluator.state(),
            "ledger": {
                "rows": len(self.ledger),
                "branches": list(self.ledger.branches),
                "digest": self.ledger.digest,
            },
            "offset": self.recorder.sync(),
        }
        self.directory.save_state(state)


def describe(config: OnlineConfig) -> dict[str, Any]:
    """Return the resolved settings with the threat model: what ``--dry-run`` shows.

    Raises:
        InputError: A run to be replayed has other settings, or has not kept its batches.
    """
    if config.stream.replay is not None:
        check_replay(config)
    images = config.data.name not in FEATURES  # of other names, only the data would tell
    return {"threat_model": threat_model(config, images=images), **plain(config)}
