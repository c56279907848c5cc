"""The audit of a finished run: burn-in members and stream members against samples that were never learnt from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from accupoison.audit.focus import BURNIN, STREAM, UNSEEN, focus, untouched
from accupoison.audit.metric import Floats, scores
from accupoison.audit.roc import roc_summary
from accupoison.audit.samples import Samples
from accupoison.audit.twins import with_twins
from accupoison.config.schema import OnlineConfig, online_config
from accupoison.data import DataSet
from accupoison.errors import InputError
from accupoison.measure.membership import mislabelled, never_learnt, subsample
from accupoison.measure.releases import answers, fitted, known_to_defender
from accupoison.records.checkpoint import reading_payload
from accupoison.records.files import read_json
from accupoison.records.ledger import Ledger
from accupoison.records.run_directory import CONFIG, STATE, RunDirectory
from accupoison.release import Identity, Release
from accupoison.runs.build import Built, build_simulation
from accupoison.runs.inputs import check_inputs, input_digests
from accupoison.runs.online import stored_ledger
from accupoison.types import ModelView


@dataclass(frozen=True, eq=False)
class RunAudit:
    """What leaves a run's model about members and others.

    Attributes:
        groups: Samples by group of members, "stream" and, where the base model says what it was trained on, "burn-in",
            each beside the same never-learnt ones; and those of the stream that a privacy attack is after
            (:func:`accupoison.audit.focus.focus`). None was sent under a wrong label. The extra score ``loss_change``
            is how much the loss fell between the base model and the audited one.
        learnt: The step at which each stream member was learnt last, by id.
        steps: Steps that the audited model has taken.
        branch: The trigger that it received.
        unseen: Images of the stream's split that never came, as if they were members: a control; None without any.
        release: What the answers went through; the model before the stream answers through the same.
        undefended: What the model itself says of the groups; empty where the release changes nothing.
    """

    groups: dict[str, Samples]
    learnt: Mapping[int, int]
    steps: int
    branch: str
    unseen: Samples | None = None
    release: str = "identity"
    undefended: dict[str, Samples] = field(default_factory=dict)

    def by_recency(self, score: str, group: str = STREAM) -> list[dict[str, Any]]:
        """Return the AUC against the never learnt for each recency: steps since a sample was learnt last.

        Args:
            score: A name of ``extra``, or of a metric attack, such as "loss".
            group: Of members of the stream.

        Returns:
            ``recency``, ``auc``, its 95% ``interval`` and the number of ``members``, the latest first.
        """
        samples = self.groups[group]
        values = values_of(samples, score)
        curve = []
        last_step = np.array([self.learnt[i] for i in samples.ids[samples.member].tolist()], dtype=np.int64)
        for step in np.unique(last_step)[::-1]:
            chosen = ~samples.member
            chosen[: len(last_step)] = last_step == step  # members come first
            roc = roc_summary(values[chosen], samples.member[chosen], levels=())
            about = {"auc": roc.auc, "interval": roc.intervals["auc"], "members": roc.members}
            curve.append({"recency": self.steps - 1 - int(step), **about})
        return curve


def values_of(samples: Samples, score: str) -> Floats:
    """Return a score by its name, higher for likelier members [N]: of ``extra``, or of a metric attack."""
    return samples.extra[score] if score in samples.extra else scores(samples.probs, samples.labels)[score]


def audit_run(
    run: Path, root: Path, *, limit: int = 5000, release: Release | None = None, twins: bool = False
) -> RunAudit:
    """Load a finished run's last model and ask it about members and others, on clean images in eval mode.

    A release that learns from members gets some that are then not audited; see
    :func:`accupoison.measure.releases.known_to_defender`.

    Args:
        run: The run's directory; of several triggers, the last one's model is the one that is there.
        root: The directory of checkpoints.
        limit: At most so many burn-in members and so many never-learnt samples.
        release: What the answers go through; None is the run's own.
        twins: Also ask the model itself about the twin of each sample, as the score ``twin``; see
            :mod:`accupoison.attacks.twins`.

    Raises:
        InputError: There is no finished run, its data or checkpoint are no longer what they were, or there are too few
            samples for the release to learn from.
    """
    config = config_of(run)
    built, ledger, before = finished(run, config, root)
    config = config if release is None else replace(config, release=release)
    audited = _ask(config, built, before, ledger, limit)
    if not twins:
        return audited
    view = built.simulation.learner.view()
    groups, undefended = (
        {name: with_twins(group, view, built.data, config.attack) for name, group in given.items()}
        for given in (audited.groups, audited.undefended)
    )
    return replace(audited, groups=groups, undefended=undefended)


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
    data, views = built.data, (before, built.simulation.learner.view())
    known = known_to_defender(config.release, splits, built.burnin, config.run.seed)
    release = fitted(config.release, views[1], data, known, config.run.seed)
    everybody = never_learnt(splits, learnt)
    others = subsample(untouched(built.simulation.attack.state(), everybody), limit)
    wrong = mislabelled(data, ledger, branch)
    taken, saved = set(known[0].tolist()) | wrong, built.simulation.attack.state()
    learnt = {i: step for i, step in learnt.items() if i not in taken}
    if not learnt or not len(untouched(saved, torch.tensor(list(learnt)))):
        raise InputError("every sample that was learnt from the stream was poisoned, so nobody is left to audit")
    stream = torch.tensor(list(learnt), dtype=torch.int64)
    pairs = {STREAM: (untouched(saved, stream), others)}
    if built.burnin is not None:  # else nobody knows whom the base model has seen
        honest = untouched(saved, built.burnin[~torch.isin(built.burnin, torch.tensor(sorted(taken)))])
        drawn = subsample(honest, limit)
        pairs = {BURNIN: (drawn[~torch.isin(drawn, stream)], others), **pairs}
        came = torch.from_numpy(ledger.path(branch)["id"].copy())
        never = splits.stream[~torch.isin(splits.stream, torch.cat([came, built.burnin]))]
        control = untouched(saved, never)
        pairs |= {UNSEEN: (subsample(control, limit), others)} if len(control) else {}
        everybody = torch.cat([never, everybody])
    pairs |= focus(config.attack, saved, data, stream, everybody)
    groups = _groups(release, views, data, pairs)
    defended = config.release.name != "identity"
    undefended = _groups(Identity(), views, data, pairs) if defended else {}
    return RunAudit(
        groups={name: samples for name, samples in groups.items() if name != UNSEEN},
        learnt=learnt,
        steps=int(ledger.rows["step"].max()) + 1,
        branch=branch,
        unseen=groups.get(UNSEEN),
        release=config.release.spec,
        undefended={name: samples for name, samples in undefended.items() if name != UNSEEN},
    )


def _groups(
    release: Release, views: Sequence[ModelView], data: DataSet, pairs: Mapping[str, tuple[Tensor, Tensor]]
) -> dict[str, Samples]:
    """Return what leaves the later of two models about each group of members and others, with the loss's change."""
    asked: dict[int, list[Tensor]] = {}

    def of(ids: Tensor) -> list[Tensor]:
        if id(ids) not in asked:  # several groups stand against the same others
            asked[id(ids)] = [answers(release, view, data, ids) for view in views]
        return asked[id(ids)]

    groups = {}
    for name, (members, others) in pairs.items():
        both = torch.cat([members, others])
        labels, member = data.labels(both).cpu().numpy(), np.arange(len(both)) < len(members)
        of_both = [torch.cat(parts).numpy() for parts in zip(of(members), of(others), strict=True)]
        before, after = (scores(probs, labels)["loss"] for probs in of_both)
        groups[name] = Samples(of_both[1], labels, member, both.numpy(), {"loss_change": after - before})
    return groups
