"""The audit of a finished run: burn-in members and stream members against samples that were never learnt from."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from accupoison.audit.metric import scores
from accupoison.audit.roc import roc_summary
from accupoison.audit.samples import Samples
from accupoison.audit.signals import logits_of
from accupoison.config.schema import OnlineConfig, online_config
from accupoison.data import DataSet
from accupoison.errors import InputError
from accupoison.measure.membership import never_learnt, subsample
from accupoison.records.checkpoint import reading_payload
from accupoison.records.files import read_json
from accupoison.records.ledger import Ledger
from accupoison.records.run_directory import CONFIG, STATE, RunDirectory
from accupoison.runs.build import Built, build_simulation
from accupoison.runs.online import check_inputs, input_digests, stored_ledger
from accupoison.types import ModelView

STREAM, BURNIN, UNSEEN = "stream", "burn-in", "never seen"
"""Groups of members; the last one is a control."""


@dataclass(frozen=True, eq=False)
class RunAudit:
    """What a run's model says of members and others.

    Attributes:
        groups: Samples by group of members, "stream" and, where the base model says what it was trained on, "burn-in",
            each beside the same never-learnt ones. The extra score ``loss_change`` is how much the loss fell between
            the base model and the audited one.
        last_step: The step at which each stream member was learnt last, int64, in the order of its group.
        steps: Steps that the audited model has taken.
        branch: The trigger that it received.
        unseen: Images of the stream's split that never came, as if they were members: a control; None without any.
    """

    groups: dict[str, Samples]
    last_step: NDArray[np.int64]
    steps: int
    branch: str
    unseen: Samples | None = None

    def by_recency(self, score: str) -> list[dict[str, Any]]:
        """Return the AUC against the never learnt for each recency: steps since a sample was learnt last.

        Args:
            score: A name of ``extra``, or of a metric attack, such as "loss".

        Returns:
            ``recency``, ``auc``, its 95% ``interval`` and the number of ``members``, the latest first.
        """
        samples = self.groups[STREAM]
        values = values_of(samples, score)
        curve = []
        for step in np.unique(self.last_step)[::-1]:
            chosen = ~samples.member
            chosen[: len(self.last_step)] = self.last_step == step  # members come first
            roc = roc_summary(values[chosen], samples.member[chosen], levels=())
            about = {"auc": roc.auc, "interval": roc.intervals["auc"], "members": roc.members}
            curve.append({"recency": self.steps - 1 - int(step), **about})
        return curve


def values_of(samples: Samples, score: str) -> NDArray[np.float64]:
    """Return a score by its name, higher for likelier members [N]: of ``extra``, or of a metric attack."""
    return samples.extra[score] if score in samples.extra else scores(samples.probs, samples.labels)[score]


def audit_run(run: Path, root: Path, *, limit: int = 5000) -> RunAudit:
    """Load a finished run's last model and ask it about members and others, on clean images in eval mode.

    Args:
        run: The run's directory; of several triggers, the last one's model is the one that is there.
        root: The directory of checkpoints.
        limit: At most so many burn-in members and so many never-learnt samples.

    Raises:
        InputError: There is no finished run, or its data or checkpoint are no longer what they were.
    """
    config = config_of(run)
    built, ledger, before = finished(run, config, root)
    return _ask(config, built, before, ledger, limit)


def config_of(run: Path) -> OnlineConfig:
    """Return the settings that an online run was started with.

    Raises:
        InputError: There is no run, or it has no stream.
    """
    if not RunDirectory.holds_run(run):
        raise InputError(f"there is no run in {run}; give a directory that online wrote")
    stored = read_json(run / CONFIG)
    if "stream" not in stored:
        raise InputError(f"{run} was started by burnin and has no stream; give a directory that online wrote")
    return online_config([stored])


def finished(run: Path, config: OnlineConfig, root: Path) -> tuple[Built, Ledger, ModelView]:
    """Return the simulation of a run as it ended, its ledger, and the model that it started from.

    Args:
        run: The run's directory.
        config: Its settings.
        root: The directory of checkpoints.

    Raises:
        InputError: The run has not ended, or its data or checkpoint are no longer what they were.
    """
    built = build_simulation(config, root)
    state = RunDirectory.read_state(run)
    with reading_payload(run / STATE):
        ended = state is not None and state["simulation"]["branch"] >= len(config.trigger.types)
    if state is None or not ended:
        raise InputError(f"{run} has not ended; go on with", "online", {"resume": run})
    with reading_payload(run / STATE):
        check_inputs(run, config, state["inputs"], input_digests(config, root, built.data))
        before = built.simulation.learner.snapshot()
        built.simulation.restore(state["simulation"])
        return built, stored_ledger(run, state), before


def _ask(config: OnlineConfig, built: Built, before: ModelView, ledger: Ledger, limit: int) -> RunAudit:
    branch = config.trigger.types[-1]
    splits = built.splits
    learnt = ledger.learnt(branch)
    if not learnt:
        raise InputError(f"{config.defense.name} let nothing be learnt from the stream, so it has no members to audit")
    stream = torch.tensor(list(learnt), dtype=torch.int64)
    others = subsample(never_learnt(splits, learnt), limit)
    members = {STREAM: stream}
    never = splits.stream[:0]
    if built.burnin is not None:  # else nobody knows whom the base model has seen
        drawn = subsample(built.burnin, limit)
        members = {BURNIN: drawn[~torch.isin(drawn, stream)], **members}
        came = torch.from_numpy(ledger.path(branch)["id"].copy())
        never = splits.stream[~torch.isin(splits.stream, torch.cat([came, built.burnin]))]
    after = built.simulation.learner.view()

    def against_others(ids: Tensor) -> Samples:
        both = torch.cat([ids, others])
        asked = [_samples(view, built.data, both, len(ids)) for view in (before, after)]
        loss_before, loss_after = (values_of(samples, "loss") for samples in asked)
        return replace(asked[1], extra={"loss_change": loss_after - loss_before})

    return RunAudit(
        groups={name: against_others(ids) for name, ids in members.items()},
        last_step=np.array(list(learnt.values()), dtype=np.int64),
        steps=int(ledger.rows["step"].max()) + 1,
        branch=branch,
        unseen=against_others(subsample(never, limit)) if len(never) else None,
    )


def _samples(view: ModelView, data: DataSet, ids: Tensor, members: int) -> Samples:
    """Return what a model says of samples, of which the first ``members`` are members."""
    parts = [(logits[0].softmax(dim=1), labels) for logits, labels in logits_of(view, data, ids, ["plain"])]
    probs = torch.cat([part for part, _ in parts]).numpy()
    return Samples(probs, np.concatenate([y for _, y in parts]), np.arange(len(ids)) < members, ids.numpy())
