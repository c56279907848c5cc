"""What a run measures after each step, and what it makes of it in the end."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from accupoison.config.schema import EvaluateSettings, StopSettings
from accupoison.data import DataSet, Splits
from accupoison.loop.simulation import Simulation
from accupoison.measure.accuracy import EVALUATION_BATCH, evaluate, monitor
from accupoison.models.copies import reestimate_batchnorm
from accupoison.models.view import view_of
from accupoison.records.tags import AUCS
from accupoison.types import Phase, Step

AT_MILESTONES = {
    "test/acc": "acc",
    "test/acc_bn_reestimated": "acc_bn_reestimated",
    "test/novel_classes_acc": "novel_classes_acc",
    "test/shifted_acc": "shifted_acc",
    "test/shifted_acc_bn_reestimated": "shifted_acc_bn_reestimated",
    "test/loss": "loss",
    "optim/distance_from_start": "distance_from_start",
}
"""What the summary has of each milestone, by tag."""
AVERAGED = (
    "attack/feasible",
    "defense/discrepancy_clean",
    "defense/discrepancy_sent",
    "defense/discrepancy_seen",
    "defense/discrepancy_auc_clean",
    "defense/discrepancy_auc_noise",
    *AUCS,
    "defense/inner_steps",
    "optim/grad_norm",
    "time/step_s",
    "time/attack_s",
    "time/defense_s",
    "time/update_s",
)
"""Tags whose mean over the ordinary steps goes into the summary."""


RENAMED = {
    "trunk_steps": "shared_steps",
    "_marks": "milestones",
    "_sums": "sums",
    "_counts": "counts",
    "_digest": "digest",
}
"""Parts of a summary's state by the names that older runs have saved them under."""


@dataclass
class RunSummary:
    """What a run comes to.

    Attributes:
        steps: Steps taken, on all branches.
        shared_steps: Those before the branches part.
        milestones: Accuracies at "start", "before" the trigger, "BRANCH/after" it and "BRANCH/end".
        sums: Of the metrics in :data:`AVERAGED` over the shared steps, by tag.
        counts: How many values each sum has.
        digest: SHA-256 hex digest of the ids of the clean batches on the shared steps.
    """

    steps: int = 0
    shared_steps: int = 0
    milestones: dict[str, dict[str, float]] = field(default_factory=dict)
    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    digest: str = ""

    def add(self, step: Step) -> None:
        """Count a step."""
        self.steps += 1
        if step.branch:
            return
        self.shared_steps = step.t + 1
        ids = ",".join(str(i) for i in step.clean.ids.tolist())
        self.digest = hashlib.sha256(f"{self.digest};{ids}".encode()).hexdigest()
        for tag in AVERAGED:
            if tag in step.metrics:
                self.sums[tag] = self.sums.get(tag, 0.0) + step.metrics[tag]
                self.counts[tag] = self.counts.get(tag, 0) + 1

    def results(self) -> dict[str, Any]:
        """Return accuracies at the milestones, by branch; means over the shared steps; and the digest."""
        branches: dict[str, dict[str, Any]] = {}
        for name, values in self.milestones.items():
            branch, slash, milestone = name.partition("/")
            if slash:
                branches.setdefault(branch, {})[milestone] = values
        return {
            **{name: values for name, values in self.milestones.items() if "/" not in name},
            "branches": branches,
            "means": {tag: self.sums[tag] / self.counts[tag] for tag in self.sums},
            "clean_ids": self.digest,
        }


@dataclass(eq=False, repr=False)
class Evaluator:
    """Measures a simulation at the right moments and ends its accumulation where a stop rule says so.

    Attributes:
        simulation: What is measured; its weights are never changed from here.
        data: The images.
        splits: Their parts; accuracy is measured on ``test`` and ``monitor``, statistics re-estimated on ``trusted``.
        settings: What is measured, and when.
        stop: When the trigger comes early.
        novel_classes: Classes that the burn-in did not have; accuracy on them is followed as well.
        summary: What has been measured so far.
    """

    simulation: Simulation
    data: DataSet
    splits: Splits
    settings: EvaluateSettings
    stop: StopSettings
    novel_classes: Sequence[int] = ()
    summary: RunSummary = field(default_factory=RunSummary, init=False)

    def __post_init__(self) -> None:
        novel = torch.isin(
            self.data.labels(self.splits.test).cpu(), torch.tensor(self.novel_classes, dtype=torch.int64)
        )
        self._novel = self.splits.test[novel]
        self._latest = float("nan")
        self._interval: tuple[float, float] | None = None

    def start(self) -> dict[str, float]:
        """Measure the model that the stream begins with."""
        metrics = self._test(0, reestimate=True) | self._monitor()
        milestones = ("start", "before") if self.simulation.horizon == 0 else ("start",)
        self.summary.milestones |= dict.fromkeys(milestones, _accuracies(metrics))
        return metrics

    def measure(self, step: Step) -> dict[str, float]:
        """Measure the model after ``step``, and end the accumulation where a stop rule says so."""
        self.summary.add(step)
        simulation = self.simulation
        metrics = self._monitor()
        ordinary = step.phase is Phase.ORDINARY
        triggered = step.phase is Phase.TRIGGER
        last = step.t == simulation.horizon + simulation.schedule.recovery_steps
        before = ordinary and step.t == simulation.horizon - 1
        due = before or triggered or (last and not ordinary)
        if due or self.settings.test == "every" or (self.stop.active and ordinary):
            metrics |= self._test(step.t, reestimate=not last or triggered)
            if ordinary and self.stop.must_stop(self.summary.milestones["start"]["acc"], metrics["test/acc"]):
                simulation.end_accumulation()
                before = True
            reached = {"before": before, f"{step.branch}/after": triggered, f"{step.branch}/end": last and step.branch}
            values = _accuracies(metrics | step.metrics)
            self.summary.milestones |= {name: values for name, here in reached.items() if here}
        return metrics

    @property
    def latest(self) -> str:
        """The latest accuracy in words, with the interval where it is that of the monitor images."""
        interval = f" ({self._interval[0]:.1%} to {self._interval[1]:.1%})" if self._interval else ""
        return f"accuracy {self._latest:.1%}{interval}"

    def results(self) -> dict[str, Any]:
        """Return :meth:`RunSummary.results`, and the size of the test set."""
        return {**self.summary.results(), "test_images": len(self.splits.test)}

    def state(self) -> dict[str, Any]:
        """Return what :meth:`restore` needs."""
        return {**asdict(self.summary), "latest": self._latest}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Put back what :meth:`state` returned."""
        saved = {RENAMED.get(name, name): value for name, value in state.items()}
        self._latest = saved.pop("latest")
        self.summary = RunSummary(**saved)

    def _monitor(self) -> dict[str, float]:
        if not self.settings.monitor:
            return {}
        metrics = monitor(self.simulation.served.view(), self.data, self.splits)
        self._latest = metrics["monitor/acc"]
        self._interval = metrics["monitor/acc_low"], metrics["monitor/acc_high"]
        return metrics

    def _test(self, t: int, *, reestimate: bool) -> dict[str, float]:
        view, model = self.simulation.served.view(), self.simulation.served.model()
        kernels, test = self.simulation.learner.kernels, self.splits.test
        accuracy, loss = evaluate(view, self.data, test)
        self._latest = accuracy
        self._interval = None
        metrics = {"test/acc": accuracy, "test/loss": loss}
        if len(self._novel):
            metrics["test/novel_classes_acc"] = evaluate(view, self.data, self._novel)[0]
        shift = self.simulation.stream.shift

        def shifted(x: Tensor, ids: Tensor) -> Tensor:
            return x if shift is None else shift(x, ids, t)

        if shift is not None:
            metrics["test/shifted_acc"] = evaluate(view, self.data, test, shifted)[0]
        if self.settings.reestimate and reestimate and len(self.splits.trusted):
            batches = [self.data.batch(part) for part in torch.split(self.splits.trusted, EVALUATION_BATCH)]
            again = view_of(reestimate_batchnorm(model, (b.x for b in batches)), kernels)
            metrics["test/acc_bn_reestimated"] = evaluate(again, self.data, test)[0]
            if shift is not None:
                moved = (shifted(b.x, b.ids) for b in batches)
                again = view_of(reestimate_batchnorm(model, moved), kernels)
                metrics["test/shifted_acc_bn_reestimated"] = evaluate(again, self.data, test, shifted)[0]
        return metrics


def _accuracies(metrics: Mapping[str, float]) -> dict[str, float]:
    return {key: metrics[tag] for tag, key in AT_MILESTONES.items() if tag in metrics}
