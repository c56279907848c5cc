"""The audit of a finished run: burn-in members and stream members against samples that were never learnt from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from accupoison.audit.metric import TINY
from accupoison.audit.roc import RocSummary, roc_summary
from accupoison.audit.samples import Samples
from accupoison.config.schema import OnlineConfig, online_config
from accupoison.data import DataSet
from accupoison.errors import InputError
from accupoison.gradients import frozen
from accupoison.measure.accuracy import EVALUATION_BATCH
from accupoison.measure.membership import never_learnt, subsample
from accupoison.records.checkpoint import reading_payload
from accupoison.records.files import read_json
from accupoison.records.ledger import Ledger
from accupoison.records.run_directory import CONFIG, STATE, RunDirectory
from accupoison.runs.build import Built, build_simulation
from accupoison.runs.online import check_inputs, input_digests, stored_ledger
from accupoison.types import ModelView


@dataclass(frozen=True, eq=False)
class RunAudit:
    """What a run's model can be asked.

    Attributes:
        groups: Samples by group of members, "stream" and, where the base model says what it was trained on, "burn-in",
            each beside the same never-learnt ones. The extra
            score ``loss_change`` is how much the loss fell between the base model and the audited one.
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

    def by_age(self, score: str) -> list[tuple[int, RocSummary]]:
        """Return, for each age in steps since a sample was learnt last, the ROC summary against the never learnt.

        Args:
            score: A name of ``extra``, or "loss".
        """
        samples = self.groups["stream"]
        values = values_of(samples, score)
        found = []
        for step in np.unique(self.last_step)[::-1]:
            chosen = ~samples.member
            chosen[: len(self.last_step)] = self.last_step == step  # members come first
            found.append((self.steps - 1 - int(step), roc_summary(values[chosen], samples.member[chosen], levels=())))
        return found


def values_of(samples: Samples, score: str) -> NDArray[np.float64]:
    """Return a score by its name, higher for likelier members [N]: a name of ``extra``, or "loss"."""
    return samples.extra[score] if score in samples.extra else _log_likelihood(samples.probs, samples.labels)


def _log_likelihood(probs: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the log of the probability of each true class [N]: the loss, with its sign turned."""
    found: NDArray[np.float64] = np.log(np.maximum(probs[np.arange(len(labels)), labels], TINY))
    return found


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
    learnt = ledger.learnt(branch)
    splits = built.splits
    others = subsample(never_learnt(splits, learnt), limit).numpy()
    stream = np.array(list(learnt), dtype=np.int64)
    if len(stream) == 0:
        raise InputError(f"{config.defense.name} let nothing be learnt from the stream, so it has no members to audit")
    view, data = built.simulation.learner.view(), built.data
    members_by_group = {"stream": stream}
    if built.burnin is not None:
        drawn = subsample(built.burnin, limit).numpy()
        members_by_group = {"burn-in": drawn[~np.isin(drawn, stream)], **members_by_group}
    never = splits.stream[:0]
    if built.burnin is not None:  # else nobody knows whom the base model has seen
        came = torch.from_numpy(ledger.path(branch)["id"].copy())
        never = splits.stream[~torch.isin(splits.stream, torch.cat([came, built.burnin]))]

    def against_others(members: NDArray[np.int64]) -> Samples:
        ids = np.concatenate([members, others])
        probs, labels = _probabilities(view, data, ids)
        change = _log_likelihood(probs, labels) - _log_likelihood(*_probabilities(before, data, ids))
        return Samples(probs, labels, np.arange(len(ids)) < len(members), ids, {"loss_change": change})

    groups = {name: against_others(members) for name, members in members_by_group.items()}
    unseen = against_others(subsample(never, limit).numpy()) if len(never) else None
    last_step = np.array(list(learnt.values()), dtype=np.int64)
    return RunAudit(groups, last_step, int(ledger.rows["step"].max()) + 1, branch, unseen)


@torch.no_grad()
def _probabilities(view: ModelView, data: DataSet, ids: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    parts, labels, answer = [], [], frozen(view)
    for part in torch.split(torch.from_numpy(ids), EVALUATION_BATCH):
        batch = data.batch(part)
        parts.append(answer(batch.x).cpu().double().softmax(dim=1))
        labels.append(batch.y.cpu())
    return torch.cat(parts).numpy(), torch.cat(labels).numpy()
