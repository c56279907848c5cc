"""What a run measures after each step, and what it makes of it in the end."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from accupoison.config.schema import EvaluateSettings, StopSettings
from accupoison.data import DataSet, Splits
from accupoison.learner import view_of
from accupoison.loop.simulation import Simulation
from accupoison.measure.accuracy import CHUNK, evaluate, monitor, reestimate_batchnorm
from accupoison.types import Phase, Step

AVERAGED = (
    "attack/feasible",
    "defense/discrepancy_clean",
    "defense/discrepancy_sent",
    "defense/discrepancy_seen",
    "defense/discrepancy_auc_clean",
    "defense/discrepancy_auc_noise",
    "defense/inner_steps",
    "optim/grad_norm",
    "time/step_s",
    "time/attack_s",
    "time/defense_s",
    "time/update_s",
)
"""Tags whose mean over the ordinary steps goes into the summary."""


class Meter:
    """Evaluates a simulation at the right moments and decides when its accumulation stops.

    Args:
        simulation: What is measured; its weights are never changed from here.
        data: The images.
        splits: Their parts; accuracy is measured on ``test`` and ``monitor``, statistics re-estimated on ``trusted``.
        settings: What is measured, and when.
        stop: When the trigger comes early.
        held_out: Classes that the burn-in did not have; accuracy on them is followed as well.
    """

    def __init__(
        self,
        simulation: Simulation,
        data: DataSet,
        splits: Splits,
        settings: EvaluateSettings,
        stop: StopSettings,
        held_out: Sequence[int] = (),
    ) -> None:
        self._simulation, self.data, self.splits = simulation, data, splits
        self._settings, self._stop = settings, stop
        chosen = torch.isin(data.labels(splits.test).cpu(), torch.tensor(held_out, dtype=torch.int64))
        self._held_out = splits.test[chosen]
        self.steps, self.trunk_steps, self.latest = 0, 0, float("nan")
        self.interval: tuple[float, float] | None = None
        self._marks: dict[str, dict[str, float]] = {}
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}
        self._digest = ""

    def start(self) -> dict[str, float]:
        """Measure the model that the stream begins with."""
        metrics = self._test(0, reestimate=True) | self._monitor()
        self._marks["start"] = _accuracies(metrics)
        if self._simulation.horizon == 0:
            self._marks["before"] = self._marks["start"]
        return metrics

    def measure(self, step: Step) -> dict[str, float]:
        """Measure the model after ``step``, and end the accumulation where a stop rule says so."""
        self.steps += 1
        simulation = self._simulation
        metrics = self._monitor()
        if not step.branch:
            self.trunk_steps = step.t + 1
            self._collect(step)
        last = step.t == simulation.horizon + simulation.plan.after
        before = step.phase is Phase.ORDINARY and step.t == simulation.horizon - 1
        marked = before or step.phase is Phase.FIRE or (last and step.phase is Phase.RECOVER)
        if marked or self._settings.test == "every" or (self._stop.active and step.phase is Phase.ORDINARY):
            metrics |= self._test(step.t, reestimate=not last or step.phase is Phase.FIRE)
            if step.phase is Phase.ORDINARY and self._must_stop(metrics["test/acc"]):
                simulation.fire()
                before = True
            self._mark(step, before, last, _accuracies(metrics | step.metrics))
        return metrics

    @property
    def said(self) -> str:
        """The latest accuracy in words, with the interval where it is that of the monitor images."""
        low, high = self.interval or (self.latest, self.latest)
        return f"accuracy {self.latest:.1%}" + (f" ({low:.1%} to {high:.1%})" if self.interval else "")

    def summary(self) -> dict[str, Any]:
        """Return accuracies at the marks, by branch; means over the ordinary steps; and a digest of the clean ids."""
        means = {tag: self._sums[tag] / self._counts[tag] for tag in self._sums}
        marks = {name: values for name, values in self._marks.items() if "/" not in name}
        branches: dict[str, dict[str, Any]] = {}
        for name, values in self._marks.items():
            branch, slash, mark = name.partition("/")
            if slash:
                branches.setdefault(branch, {})[mark] = values
        return {
            **marks,
            "branches": branches,
            "means": means,
            "test_images": len(self.splits.test),
            "clean_ids": self._digest,
        }

    def state(self) -> dict[str, Any]:
        """Return what :meth:`restore` needs."""
        names = ("steps", "trunk_steps", "latest", "_marks", "_sums", "_counts", "_digest")
        return {name: getattr(self, name) for name in names}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Put back what :meth:`state` returned."""
        for name, value in state.items():
            setattr(self, name, value)

    def _must_stop(self, accuracy: float) -> bool:
        rules, start = self._stop, self._marks["start"]["acc"]
        return (rules.error_rise is not None and accuracy < start - rules.error_rise) or (
            rules.error_above is not None and 1 - accuracy > rules.error_above
        )

    def _mark(self, step: Step, before: bool, last: bool, values: dict[str, float]) -> None:
        if before:
            self._marks["before"] = values
        if step.phase is Phase.FIRE:
            self._marks[f"{step.branch}/after"] = values
        if last and step.branch:
            self._marks[f"{step.branch}/end"] = values

    def _collect(self, step: Step) -> None:
        ids = ",".join(str(i) for i in step.clean.ids.tolist())
        self._digest = hashlib.sha256(f"{self._digest};{ids}".encode()).hexdigest()
        for tag in AVERAGED:
            if tag in step.metrics:
                self._sums[tag] = self._sums.get(tag, 0.0) + step.metrics[tag]
                self._counts[tag] = self._counts.get(tag, 0) + 1

    def _monitor(self) -> dict[str, float]:
        if not self._settings.monitor:
            return {}
        metrics = monitor(self._simulation.learner.view(), self.data, self.splits)
        self.latest, self.interval = metrics["monitor/acc"], (metrics["monitor/acc_low"], metrics["monitor/acc_high"])
        return metrics

    def _test(self, t: int, *, reestimate: bool) -> dict[str, float]:
        learner, test = self._simulation.learner, self.splits.test
        accuracy, loss = evaluate(learner.view(), self.data, test)
        self.latest, self.interval = accuracy, None
        metrics = {"test/acc": accuracy, "test/loss": loss}
        if len(self._held_out):
            metrics["test/held_out_acc"] = evaluate(learner.view(), self.data, self._held_out)[0]
        shift = self._simulation.stream.shift

        def shifted(x: Tensor, ids: Tensor) -> Tensor:
            return x if shift is None else shift(x, ids, t)

        if shift is not None:
            metrics["test/shifted_acc"] = evaluate(learner.view(), self.data, test, shifted)[0]
        if self._settings.reestimate and reestimate and len(self.splits.trusted):
            batches = [self.data.batch(part) for part in torch.split(self.splits.trusted, CHUNK)]
            again = view_of(reestimate_batchnorm(learner.model, (b.x for b in batches)))
            metrics["test/acc_bn_reestimated"] = evaluate(again, self.data, test)[0]
            if shift is not None:
                moved = (shifted(b.x, b.ids) for b in batches)
                again = view_of(reestimate_batchnorm(learner.model, moved))
                metrics["test/shifted_acc_bn_reestimated"] = evaluate(again, self.data, test, shifted)[0]
        return metrics


def _accuracies(metrics: Mapping[str, float]) -> dict[str, float]:
    kept = {tag.removeprefix("test/"): value for tag, value in metrics.items() if tag.startswith("test/")}
    return kept | ({"drift": metrics["optim/drift"]} if "optim/drift" in metrics else {})
