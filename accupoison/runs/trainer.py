"""The training of a base model: where it is, and one step on."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from accupoison.attacks.targeted import Copies
from accupoison.config.schema import BurninConfig, rows_apart
from accupoison.data import DataSet, Splits
from accupoison.data.dataset import Stats
from accupoison.defenses import Defense
from accupoison.device import placed
from accupoison.errors import InputError
from accupoison.learner import Learner
from accupoison.loop.context import StepContext
from accupoison.loop.pseudonyms import Pseudonyms
from accupoison.loop.twins import beside_twins
from accupoison.measure.dp_accountant import epsilon_of
from accupoison.measure.membership import never_learnt
from accupoison.models.factory import ModelSpec, build_model
from accupoison.rng import derive, generator, global_seed
from accupoison.runs.base_model import BaseModel, data_identity, open_data, place, spec_for
from accupoison.runs.model_check import check_images
from accupoison.runs.population import training_population
from accupoison.runs.training_schedule import batch_size, check_sizes, learning_rate
from accupoison.runs.training_set import Smoothed, TrainingSet
from accupoison.types import Access, Batch, Grads, ModelView, State
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
        candidates: Ids whose membership the attacker may ask about, int64 [N].
        victims: Ids whose labels it may change, int64 [N].
        logged: What the defence has logged last, by tag.
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
    candidates: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    victims: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    logged: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.attack, self.defense = self.config.attack.fresh(), self.config.defense.fresh()
        self.training = TrainingSet(self.data, self.splits.burnin, self.attack)
        self._names = Pseudonyms(self.config.run.seed)
        self._ready = False

    @classmethod
    def prepare(
        cls,
        config: BurninConfig,
        members: Tensor | None = None,
        stats: Stats | None = None,
        name: str = "the burn-in",
        candidates: Tensor | None = None,
    ) -> "Burnin":
        """Load the data and make the network.

        Args:
            config: All settings.
            members: Train on these ids, int64 [N], not the burn-in part; nothing is crafted against such a model.
            stats: Channel statistics to normalise by instead of the data set's own.
            name: What the message calls it if it diverges.
            candidates: Of ``members``, or of others, those whose membership the attacker may ask about, int64 [N]: it
                leaves their labels alone. None asks about all burn-in and test images.

        Raises:
            InputError: Data, model or device are not to be had, or a batch is larger than the burn-in part.
        """
        device = config.run.compute()
        data, splits = open_data(config.data, device)
        splits = splits if members is None else replace(splits, burnin=members)
        data = data if stats is None else replace(data, stats=stats)
        smallest = check_sizes(config.train, splits)
        spec = spec_for(config.model, data, splits.burnin)
        model = place(build_model(spec, derive(config.run.seed, "init")), device)
        check_images(model, spec.name, data, splits.burnin, smallest, crafted=members is None)
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
        asked = torch.cat([splits.burnin, never_learnt(splits, {})]) if candidates is None else candidates
        victims = splits.burnin if candidates is None else splits.burnin[~torch.isin(splits.burnin, candidates)]
        return cls(config, data, splits, spec, learner, name=name, candidates=asked, victims=victims)

    def begin(self, state: Mapping[str, State] | None = None) -> None:
        """Set attack and defence up, or put back their state.

        Args:
            state: What :meth:`parts` returned.

        Raises:
            InputError: There are too few samples for the attack.
        """
        if self._ready:
            return
        val, view = self.data.batch(self.splits.val), self.learner.view()
        total, kernels, rehearse = len(self.splits.burnin), self.config.run.kernels, partial(rehearsed, self)
        people = training_population(self.data, self.victims, self.candidates, total, kernels, rehearse)
        access = Access(val, val.rows(slice(0, 0)), crafted=False, reoptimise=False, population=people)
        if state is not None:
            attack, defense = (placed(state[part], self.learner.device) for part in ("attack", "defense"))
            self.attack.restore(attack, access)
            self.defense.restore(defense, None)
        else:
            with global_seed(self.config.run.seed, "model", "setup", device=self.learner.device):
                self.attack.setup(view, access, self._context("attack-setup"))
                self.defense.setup(view, None, [], self._context("defense-setup"))
        self._ready = True

    def parts(self) -> dict[str, State]:
        """Return the state of attack and defence."""
        return {"attack": self.attack.state(), "defense": self.defense.state()}

    def suspects(self) -> tuple[Tensor, Tensor] | None:
        """Return what the defence has found out: true ids, int64 [N], and scores [N]; see ``Defense.suspects``."""
        found = self.defense.suspects()
        return None if found is None else (self._names.reveal(found[0]), found[1])

    def _context(self, role: str) -> StepContext:
        epoch = min(self.position()[0], self.config.train.epochs - 1)
        size = self.steps_in(epoch) * batch_size(self.config.train, epoch)  # a rest smaller than a batch is left out
        share = min(1.0, self.step / max(1, self.total))
        return StepContext(self.config.run.seed, role, self.step, self.logged, share=share, epoch_size=size)

    @property
    def total(self) -> int:
        """Steps in all."""
        return sum(self.steps_in(epoch) for epoch in range(self.config.train.epochs))

    def steps_in(self, epoch: int) -> int:
        """Return the full batches of an epoch; a rest smaller than a batch is left out."""
        count = len(self.training.ids) if self._ready else len(self.splits.burnin)
        return count // batch_size(self.config.train, epoch)

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
        self.begin()
        epoch, first = self.position()
        order = torch.randperm(len(self.training.ids), generator=generator(self.config.run.seed, "order", epoch))
        size = batch_size(self.config.train, epoch)
        for index in range(first, self.steps_in(epoch)):
            rows = order[index * size : (index + 1) * size]
            self.learner.lr = learning_rate(self.config.train, self.step, self.total, epoch)
            with global_seed(self.config.run.seed, "model", self.step, device=self.learner.device):
                loss, accuracy = self._train_step(rows)
            sums = self.sums if index else (0.0, 0.0, 0)
            self.sums = (sums[0] + loss, sums[1] + accuracy, sums[2] + 1)
            self.step += 1
            if not math.isfinite(loss):
                raise InputError(f"{self.name} diverged (loss {loss} at step {self.step}); use a lower train.lr")
            yield loss

    def _train_step(self, rows: Tensor) -> tuple[float, float]:
        sent = self.training.batch(rows, generator(self.config.run.seed, "augment", self.step))
        sent = replace(sent, ids=self._names.hide(sent.ids))
        passed = batch = self.defense.intercept(self.learner.view(), sent, self._context("defense"))
        if not len(passed):  # the defence refuses to learn
            losses, hits = self.learner.score(sent)
            return float(losses.mean()), float(hits.float().mean())
        if self.attack.in_code:
            true = replace(batch, ids=self._names.reveal(batch.ids))
            batch = self.attack.poison(self.learner.view(), true, self._context("attack"))
            batch = replace(batch, ids=self._names.hide(batch.ids))
        update, defense = self.config.update, beside_twins(self.defense, passed, batch)
        if type(self.defense).losses is Defense.losses:  # twins count like all others
            defense = Smoothed(smoothing=self.config.train.label_smoothing)
        if isinstance(update, DPSGD):
            loss, accuracy, grads = self._private(batch, update, defense)
        else:
            loss, accuracy, grads = self._ordinary(batch, defense)
        grads = self.defense.gradients(grads, self.learner.momentum(), self._context("update"))
        self.learner.apply(update.clipped(grads))
        return float(loss), float(accuracy)  # only now, as a GPU has to be waited for

    def _ordinary(self, batch: Batch, defense: Defense) -> tuple[Tensor, Tensor, Grads]:
        if isinstance(defense, Smoothed):
            found, hits, grads = self.learner.loss_and_gradients(batch.x, batch.y, smoothing=defense.smoothing)
            return found, hits.float().mean(), grads
        with self.learner.forward() as forward:
            loss = defense.losses(forward, batch).mean()
        # its images may have no one label
        return loss.detach(), torch.full((), math.nan), torch.autograd.grad(loss, self.learner.parameters)

    def _private(self, batch: Batch, update: DPSGD, defense: Defense) -> tuple[Tensor, Tensor, Grads]:
        loss, hits = self.learner.score(batch)
        grads = private_gradients(
            self.learner,
            defense.losses,
            batch,
            noise_multiplier=update.noise_multiplier,
            max_grad_norm=update.max_grad_norm,
            chunk=update.chunk,
            rng=generator(self.config.run.seed, "dp", self.step),
        )
        return loss.mean(), hits.float().mean(), grads

    @property
    def epsilon(self) -> float:
        """What a sample has spent that every epoch so far has used, the current one included; inf without DP-SGD."""
        epoch, within = self.position()
        u = self.config.update
        if isinstance(u, DPSGD) and rows_apart(self.config.defense, self.config.attack):
            return epsilon_of(epoch + (within > 0), u.noise_multiplier, u.delta)
        return float("inf")

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


def rehearsed(burnin: Burnin, without: Tensor, ids: Tensor, labels: Tensor, number: int) -> ModelView:
    """Return a model trained like that of a burn-in, with another seed.

    Args:
        burnin: The burn-in.
        without: Samples that it does not learn from, int64 [N].
        ids: Rows of an attacker's own that it does, int64 [M]; see :func:`accupoison.data.fabricated.fabricated_id`.
        labels: Of these, int64 [M].
        number: Decides the seed.
    """
    config = burnin.config
    run = replace(config.run, seed=derive(config.run.seed, "rehearsal", number))
    members = burnin.splits.burnin[~torch.isin(burnin.splits.burnin, without)]
    config = replace(config, run=run, attack=Copies(copies=ids, labels=labels))
    again = Burnin.prepare(config, members, name="a rehearsal")
    again.train()
    return again.learner.view()
