"""The loop: score, poison, intercept, probe, update; then the trigger and what follows it."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from accupoison.attacks import Attack
from accupoison.data import DataStream, quantise
from accupoison.defenses import Defense
from accupoison.device import placed
from accupoison.errors import ComponentError
from accupoison.learner import Learner
from accupoison.loop.access import KnownDefense, access_for
from accupoison.loop.after_update import Judge, Served
from accupoison.loop.augmentation import Augmentation
from accupoison.loop.checks import SLACK, blaming, check_batch, check_rows, component_name, farthest
from accupoison.loop.context import StepContext, clock
from accupoison.loop.detectors import Detectors
from accupoison.loop.discrepancy_probe import poison_found, probe
from accupoison.loop.pseudonyms import Pseudonyms
from accupoison.loop.schedule import Schedule, Triggers
from accupoison.loop.twins import beside_twins
from accupoison.models.view import score
from accupoison.rng import generator, global_seed
from accupoison.types import Batch, ModelView, Phase, Population, Step, Verdict
from accupoison.updates import SGD


@dataclass(kw_only=True, eq=False, repr=False)
class Simulation:
    """A poisoned stream and the model that learns from it.

    Attributes:
        learner: The model, as the burn-in left it.
        stream: Clean batches; at least ``schedule.steps + 1 + schedule.recovery_steps`` of them.
        attack: Poisons the batches before the horizon and crafts the trigger.
        defense: Intercepts every batch.
        update: How losses become a step.
        schedule: The order of events.
        trigger: What arrives when the accumulation ends.
        reference: The early model, for defences and probes that compare with it.
        val: The attacker's own images.
        trusted: Batches that the defence may calibrate on.
        seed: Of all randomness in the loop.
        flip: Horizontal flips keep a sample's class.
        population: The samples that the attacker may poison or ask about; None where it needs none.
        detectors: What looks at each row that reaches the defence; None looks at none.
        served: The model that users meet.
    """

    learner: Learner
    stream: DataStream
    attack: Attack
    defense: Defense
    update: SGD
    schedule: Schedule
    trigger: Triggers
    reference: ModelView | None
    val: Batch
    trusted: Sequence[Batch]
    seed: int
    flip: bool
    population: Population | None = None
    detectors: Detectors | None = None

    def __post_init__(self) -> None:
        self.horizon = self.schedule.steps
        self.t, self.branch, self._ready = 0, -1, False
        self._fork_state: dict[str, Any] | None = None
        self._names = Pseudonyms(self.seed)
        self._start = self.learner.weights()
        self._judge = Judge(self.learner, self.defense)
        self.served = Served(self.learner, self.defense)
        self._augment = Augmentation(active=self.schedule.augment != "none", seed=self.seed, flip=self.flip)
        known = (self.learner, self.defense, self.reference, self.seed, self.horizon)
        batch = self.stream.trigger(self.schedule.steps)
        self.access = access_for(
            self.attack,
            self.update,
            KnownDefense(*known, shift=self.stream.shift, now=lambda: self.t),
            val=self.val,
            trigger=self._augment(batch, "trigger") if self.schedule.augment == "before" else batch,
            crafted=bool(self.trigger.crafted),
            reoptimise="optimised" in self.trigger.types,
            population=self.population,
        )

    @property
    def trigger_name(self) -> str:
        """The trigger of the branch the loop is on; "" before the branches part."""
        return self.trigger.types[self.branch] if 0 <= self.branch < len(self.trigger.types) else ""

    @property
    def at_fork(self) -> bool:
        """The ordinary steps, one at least, are done, and no trigger has come yet."""
        return self.branch < 0 < self.t == self.horizon

    def end_accumulation(self) -> None:
        """Let the trigger come next."""
        if self.branch < 0:
            self.horizon = self.t

    def abandon(self) -> None:
        """End the branch that the loop is on, as its model is broken; the next one still leaves from the fork."""
        if self.branch < 0:
            self.branch, self._ready = len(self.trigger.types), True  # nothing is left to set up for
        else:
            self.t = self.horizon + self.schedule.recovery_steps + 1

    def run(self) -> Iterator[Step]:
        """Go on from where the simulation is, one step at a time; between steps :meth:`state` may be taken."""
        self._setup()
        while self.branch < 0 and self.t < self.horizon:
            yield self._advance(Phase.ORDINARY)
        if self.branch < 0:
            self._fork_state = self._parts()
            self.branch = 0
        while self.branch < len(self.trigger.types):
            if self.t == self.horizon and self.trigger_name == "none":
                self.t += 1
            while self.t <= self.horizon + self.schedule.recovery_steps:
                yield self._advance(Phase.TRIGGER if self.t == self.horizon else Phase.RECOVER)
            self.branch += 1
            if self.branch < len(self.trigger.types):
                assert self._fork_state is not None
                self._restore_parts(self._fork_state)
                self.t = self.horizon

    def state(self) -> dict[str, Any]:
        """Return everything that :meth:`restore` needs to go on bit for bit: plain tensors and numbers."""
        position = {"t": self.t, "branch": self.branch, "horizon": self.horizon, "ready": self._ready}
        last = self.branch >= len(self.trigger.types) - 1
        return {**position, "parts": self._parts(), "fork": None if last else self._fork_state}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Put back what :meth:`state` returned, in a simulation made with the same arguments."""
        self.t, self.branch, self.horizon = state["t"], state["branch"], state["horizon"]
        self._fork_state = state["fork"]
        self._restore_parts(state["parts"])
        self._ready = state["ready"]  # a state from before the first step still waits for its set-up

    def suspects(self) -> tuple[Tensor, Tensor] | None:
        """Return what the defence has found out: true ids, int64 [N], and scores [N]; see ``Defense.suspects``."""
        found = self.defense.suspects()
        return None if found is None else (self._names.reveal(found[0]), found[1])

    def calibration(self) -> list[Batch]:
        """Return the trusted batches, cropped and flipped as the stream is."""
        return [self._augment(batch, f"trusted-{i}") for i, batch in enumerate(self.trusted)]

    def set_up_attack(self) -> dict[str, Any]:
        """Set the attack up on the model as it is, and return its state."""
        with self._model_seed("attack-setup"), blaming(self.attack):
            self.attack.setup(self.learner.view(), self.access, StepContext(self.seed, "attack-setup", 0, {}))
        return dict(self.attack.state())

    def _setup(self) -> None:
        if not self._ready:
            self.set_up_attack()
            trusted = [self._hidden(batch) for batch in self.calibration()]
            context = StepContext(self.seed, "defense-setup", 0, {})
            with self._model_seed("defense-setup"), blaming(self.defense):
                self.defense.setup(self.learner.view(), self.reference, trusted, context)
            self._ready = True

    def _model_seed(self, role: str) -> AbstractContextManager[None]:
        """Let the network's own random numbers depend on the seed, the step and ``role`` alone."""
        return global_seed(self.seed, "model", role, self.t, device=self.learner.device)

    def _parts(self) -> dict[str, Any]:
        return {"learner": self.learner.state(), "attack": self.attack.state(), "defense": self.defense.state()}

    def _restore_parts(self, parts: Mapping[str, Any]) -> None:
        device = self.learner.device
        self.learner.restore(parts["learner"])
        self.attack.restore(placed(parts["attack"], device), self.access)
        self.defense.restore(placed(parts["defense"], device), self.reference)

    def _advance(self, phase: Phase) -> Step:
        metrics: dict[str, float] = {}
        started = time.perf_counter()
        if phase is Phase.TRIGGER and self.trigger_name == "coast":
            step = self._coast(metrics)
        else:
            step = self._step(phase, metrics)
        metrics["time/step_s"] = time.perf_counter() - started
        metrics["attack/trigger_step"] = float(phase is Phase.TRIGGER)
        self.t += 1
        return step

    def _coast(self, metrics: dict[str, float]) -> Step:
        context = self._context("update", metrics)

        def coast() -> Verdict:
            for _ in range(self.trigger.updates):
                self.learner.coast(self.defense.directing(self.learner.view(), context))
            return Verdict.COMMIT

        batches = dict.fromkeys(("clean", "sent", "passed", "seen", "wire"), self.access.trigger.rows(slice(0, 0)))
        return self._record(Phase.TRIGGER, batches, metrics, self._changed_by(coast, metrics))

    def _step(self, phase: Phase, metrics: dict[str, float]) -> Step:
        served = self.served.view()
        clean, sent, wire = self._deliver(phase, metrics)
        losses, hits = score(served, clean)
        metrics["stream/loss"] = float(losses.mean())
        metrics["stream/acc"] = float(hits.float().mean())
        seen = passed = self._intercept(sent, metrics)
        if self.attack.in_code and len(passed):
            seen = self._attacked(phase, passed, metrics)
            metrics["attack/linf"] = farthest(seen, passed)
        if self.attack.poisons_rows:
            metrics |= poison_found(clean, sent, passed, seen)
        if self.reference is not None:
            metrics |= probe(served, self.reference, clean, sent, passed, generator(self.seed, "probe", self.t))
        rng = generator(self.seed, "probe", self.t)
        scores = {} if self.detectors is None else self.detectors.examine(served, clean, sent, rng, metrics)

        def learn() -> Verdict:
            for number in range(self.trigger.updates if phase is Phase.TRIGGER else 1):
                role = f"update-{number}" if number else "update"
                with self._model_seed(role):
                    defense = beside_twins(self.defense, passed, seen)
                    verdict = self.update.step(self.learner, defense, self._hidden(seen), self._context(role, metrics))
            return verdict

        with clock(metrics, "time/update_s"):
            verdict = self._changed_by(learn, metrics)
        batches = {"clean": clean, "sent": sent, "passed": passed, "seen": seen, "wire": wire}
        return self._record(phase, {**batches, "scores": scores}, metrics, verdict)

    def _record(self, phase: Phase, given: Mapping[str, Any], metrics: dict[str, float], verdict: Verdict) -> Step:
        return Step(t=self.t, branch=self.trigger_name, phase=phase, metrics=metrics, verdict=verdict, **given)

    def _deliver(self, phase: Phase, metrics: dict[str, float]) -> tuple[Batch, Batch, Batch]:
        """Return the clean batch and the one that reaches the defence, cropped alike, and that one uncropped."""
        if phase is Phase.TRIGGER:
            clean = self.access.trigger
        else:
            clean = self.stream[self.t]
            if self.schedule.augment == "before":
                clean = self._augment(clean, self.t)
        sent = clean if self.attack.in_code else self._attacked(phase, clean, metrics)
        if self.schedule.quantise:
            own = sent.x[len(clean) :]
            sent = sent.with_x(torch.cat([quantise(sent.x[: len(clean)], clean.x), (own * 255).round() / 255]))
        metrics["attack/linf"] = farthest(sent, clean)
        wire = sent
        if self.schedule.augment == "after":
            clean, sent = self._augment(clean, self.t), self._augment.alike(sent, len(clean), self.t)
        return clean, sent, wire

    def _attacked(self, phase: Phase, clean: Batch, metrics: dict[str, float]) -> Batch:
        view, context = self.learner.view(), self._context("attack", metrics)
        with clock(metrics, "time/attack_s"), self._model_seed("attack"), blaming(self.attack):
            if phase is Phase.ORDINARY:
                sent = self.attack.poison(view, clean, context)
            elif phase is Phase.TRIGGER and self.trigger_name != "clean":
                sent = self.attack.trigger(view, clean, context)
            else:
                return clean
        check_batch(sent, component_name(self.attack), bounded=clean.bounded)
        check_rows(sent, clean, self.attack)
        budget = self.attack.budget(trigger=phase is Phase.TRIGGER)
        if budget is not None and (distance := farthest(sent, clean)) > budget + SLACK:
            name = component_name(self.attack)
            raise ComponentError(f"{name} moved a pixel by {distance} over its budget of {budget}")
        return sent

    def _intercept(self, sent: Batch, metrics: dict[str, float]) -> Batch:
        with clock(metrics, "time/defense_s"), self._model_seed("defense"), blaming(self.defense):
            context = self._context("defense", metrics, share=min(1.0, self.t / max(1, self.horizon)))
            seen = self.defense.intercept(self.learner.view(), self._hidden(sent), context)
        check_batch(seen, component_name(self.defense), bounded=sent.bounded)
        metrics["defense/rejected"] = 1 - len(seen) / len(sent)
        return replace(seen, ids=self._names.reveal(seen.ids))

    def _context(self, role: str, metrics: dict[str, float], share: float = 0.0) -> StepContext:
        return StepContext(self.seed, role, self.t, metrics, share=share, shift=self.stream.shift)

    def _hidden(self, batch: Batch) -> Batch:
        """Return the batch under pseudonyms: a defence must not learn who a sample is."""
        return replace(batch, ids=self._names.hide(batch.ids))

    def _changed_by(self, update: Callable[[], Verdict], metrics: dict[str, float]) -> Verdict:
        """Let ``update`` change the model and the defence judge that; return what became of it."""
        before, weights = self._judge.before(), self.learner.weights()
        verdict = update()
        with self._model_seed("after"), blaming(self.defense):
            verdict = self._judge.settle(before, verdict, self._context("after", metrics))
        now = self.learner.weights()
        metrics["optim/lr"] = self.learner.lr
        metrics["optim/update_norm"] = float((now - weights).norm())
        metrics["optim/distance_from_start"] = float((now - self._start).norm())
        return verdict
