"""What crosses the boundaries between stream, attack, defence and learner."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from enum import Enum
from typing import Protocol

import torch
from torch import Generator, Tensor

from accupoison.errors import RangeError

Grads = tuple[Tensor, ...]
"""One gradient per parameter tensor, in parameter order."""

Saved = Tensor | int | float | str | None
State = dict[str, Saved]
"""What a component saves: plain tensors, numbers, strings and None, nothing that needs a pickle."""
Scores = Mapping[str, Mapping[str, Tensor]]
"""What detectors say of rows: by what arrives ("sent", "clean", "noise") and column, a value a row [B]."""


class Verdict(Enum):
    """What became of a batch: it was learnt, or not at all; it was unlearnt; or the base model came back instead."""

    COMMIT = "commit"
    SKIP = "skip"
    ROLLBACK = "rollback"
    RESET = "reset"


class Phase(Enum):
    """Where in a run a step lies: before the trigger, the trigger itself, or the recovery after it."""

    ORDINARY = "ordinary"
    TRIGGER = "fire"  # as ledgers have it
    RECOVER = "recover"


def check_range(x: Tensor, *, finite: bool = False) -> None:
    """Raise RangeError if a value is outside [0, 1], or NaN where ``finite`` is asked for."""
    if not x.numel():
        return
    low, high = torch.stack(torch.aminmax(x.detach())).tolist()  # one pass, and one wait for the device
    if low < 0 or high > 1 or (finite and low != low):
        raise RangeError(
            f"images outside [0, 1]{' (or NaN)' * finite}: from {low:.4g} to {high:.4g}; give pixels in [0, 1] and "
            "normalise inside the model (accupoison.models.layers.Normalize), or, for features of another range, "
            "Batch(..., bounded=False)"
        )


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """A labelled batch on the wire.

    Attributes:
        x: Inputs, floating [B, C, H, W] in [0, 1] (features: [B, D]); NaN, which a diverged model makes, may pass.
        y: Labels, int64 [B].
        ids: Sample identities, int64 [B].
        extra: Row-aligned tensors a component adds for a later one, such as TRADES' adversarial images.
        bounded: False lets inputs lie anywhere, such as features of another range, and crafted ones in their ball.
        checked: The ``x`` that was last found to be in range; every copy with the same one is not checked again.

    Raises:
        RangeError: ``x`` is not floating point, or has values outside [0, 1] and ``bounded`` is True.
        ValueError: The rows of ``x``, ``y``, ``ids`` and ``extra`` do not line up, or a dtype is not as above.
    """

    x: Tensor
    y: Tensor
    ids: Tensor
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    bounded: bool = field(default=True, kw_only=True)
    checked: Tensor | None = field(default=None, kw_only=True, repr=False)

    def __post_init__(self) -> None:
        if not self.x.is_floating_point():
            raise RangeError(f"images of type {self.x.dtype}, not floating point; divide 8-bit pixels by 255")
        if self.bounded and self.checked is not self.x:
            check_range(self.x)
            object.__setattr__(self, "checked", self.x)
        for name, rows in {"y": self.y, "ids": self.ids}.items():
            if rows.dtype != torch.int64 or rows.ndim != 1:
                raise ValueError(f"{name} must be int64 [B], got {rows.dtype} {list(rows.shape)}")
        for name, rows in {"y": self.y, "ids": self.ids, **self.extra}.items():
            if len(rows) != len(self.x):
                raise ValueError(f"{name} has {len(rows)} rows where x has {len(self.x)}")

    def __len__(self) -> int:
        return len(self.x)

    def with_x(self, x: Tensor) -> "Batch":
        """Return this batch with inputs ``x`` [B, ...] in place of its own."""
        return replace(self, x=x)

    def rows(self, index: Tensor | slice) -> "Batch":
        """Return the rows that ``index``, a slice or int64 or bool [N], selects."""
        x, extra = self.x[index], {name: value[index] for name, value in self.extra.items()}
        return replace(self, x=x, y=self.y[index], ids=self.ids[index], extra=extra, checked=x)

    @staticmethod
    def concat(batches: "Sequence[Batch]") -> "Batch":
        """Return all rows of ``batches`` (without ``extra``) as one batch."""
        x, y, ids = (torch.cat([getattr(b, name) for b in batches]) for name in ("x", "y", "ids"))
        return Batch(x, y, ids, bounded=all(b.bounded for b in batches))


class Context(Protocol):
    """What every hook of an attack, defence or update rule receives."""

    @property
    def t(self) -> int:
        """The step, counted from 0."""

    @property
    def share(self) -> float:
        """The share of the training, or of the steps before the trigger, that is done; in [0, 1]."""

    @property
    def epoch_size(self) -> int | None:
        """Samples of one pass over the training set, in whole batches; None in a stream, which has no passes."""

    def rng(self, *names: str) -> Generator:
        """Return a CPU generator that depends on the seed, the component's role, ``t`` and ``names`` alone."""

    def present(self, x: Tensor, ids: Tensor) -> Tensor:
        """Return images [B, ...] as they look at this step: on a stream that shifts, corrupted as its own are.

        It stands for new images of the world as it is, which of the defences only those may use that require
        "trusted-current". What was cropped before is corrupted as it is.
        """

    def log(self, tag: str, value: float) -> None:
        """Record a scalar for this step; a later value under the same tag replaces an earlier one."""


class ModelView(Protocol):
    """A read-only, differentiable look at a model: nothing about the model changes through it."""

    def logits(self, x: Tensor, *, train: bool = False, params: tuple[Tensor, ...] | None = None) -> Tensor:
        """Return logits [B, classes].

        Args:
            x: Inputs [B, ...] in [0, 1].
            train: Use batch statistics, as in a training step; the running statistics stay as they are.
            params: Weights [*] to use in place of the model's own, in the order and the shapes of :meth:`params`.
        """

    def frozen(self) -> Callable[[Tensor], Tensor]:
        """Return the forward pass [B, ...] to [B, classes] with the weights of this moment, which need no gradient.

        For searches over images and for evaluations. It differs from :meth:`logits` by rounding. Ask anew after the
        model has changed: later changes do not show in it, but for where CUDA graphs are recorded.
        """

    def features(self, x: Tensor) -> Tensor:
        """Return the input of the last linear layer, [B, D]."""

    def features_and_logits(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return :meth:`features` and :meth:`logits` of one forward pass; ``x``: inputs [B, ...]."""

    def params(self) -> tuple[Tensor, ...]:
        """Return the leaves [*] that gradients are taken with respect to; the same ones at every call."""

    def state(self) -> Mapping[str, Tensor]:
        """Return parameters and buffers by name, detached."""

    def reestimated(self, images: Sequence[Tensor]) -> Mapping[str, Tensor]:
        """Return the buffers by name, batch norm's (if any) made afresh from batches of images [B, ...]."""

    def recorded(
        self, key: Hashable, function: Callable[..., tuple[Tensor, ...]], *tensors: Tensor, after: int = 1
    ) -> tuple[Tensor, ...]:
        """Return ``function(*tensors)``, which on CUDA is recorded and replayed, its results then being detached.

        Args:
            key: Tells the settings that the function depends on from others of the same view and function.
            function: Depends on its arguments, on this view and on what never changes alone; no number of it goes to
                the host, and it draws none there.
            *tensors: Its arguments, [*].
            after: Calls before it is recorded, at least one.
        """


class Forward(Protocol):
    """The trainable forward pass of one update step; exactly one call a step moves the running statistics."""

    def __call__(self, x: Tensor, *, track: bool | None = None) -> Tensor:
        """Return logits [B, classes]; ``track``: move the running statistics (default: the first call does)."""


@dataclass(frozen=True, slots=True, eq=False)
class Population:
    """The samples that an attacker may poison or ask about, the same in every replay of a stream.

    Attributes:
        steps: Ids that arrive at each step before the trigger, int64 [B]; offline one tensor of all that may change.
        candidates: Ids whose membership the attacker may want to know, int64 [N], members and others among them.
        total: Samples that arrive, or that an offline training learns from.
        size: One above the largest id.
        num_classes: Labels are 0 to ``num_classes`` - 1.
        labels: Returns the true labels of ids, int64 [N] on the CPU.
        raw: Returns the clean samples of ids, before crop and flip.
        model: Returns the model of a checkpoint by its path, in eval mode.
        ordered: The steps are an order of arrival; False is an offline training.
        rehearse: Trains an offline model without some ids, with own rows (ids, labels) and a seed; None if nobody can.
    """

    steps: tuple[Tensor, ...]
    candidates: Tensor
    total: int
    size: int
    num_classes: int
    labels: Callable[[Tensor], Tensor]
    raw: Callable[[Tensor], Batch]
    model: Callable[[str], ModelView]
    ordered: bool = True
    rehearse: Callable[[Tensor, Tensor, Tensor, int], ModelView] | None = None


class DefenseView(Protocol):
    """What an attacker who knows the defence sees of it; nothing about it changes through it."""

    @property
    def reference(self) -> ModelView | None:
        """The early model; None where the run has none."""

    def threshold(self, t: int) -> float:
        """Return the mean discrepancy above which it acts at step ``t``, in nats; infinite where it never looks."""

    def rise_limit(self, rises: Tensor) -> Tensor:
        """Return the mean rise of known images' loss beyond which it takes a step back, where theirs rise like [N]."""

    def has_own_statistics(self) -> bool:
        """Return whether it would put running statistics of its own in place of those that the stream has moved."""

    def correct(self, batch: Batch, ctx: Context) -> Batch:
        """Return what it would pass on of ``batch``, [B, ...]; its random numbers are not the defence's own."""


@dataclass(frozen=True, slots=True, eq=False)
class Access:
    """What the attacker holds besides the model.

    Attributes:
        val: The attacker's own labelled images.
        trigger: The clean images of the trigger batch.
        crafted: The trigger that will be delivered is a crafted one.
        reoptimise: The trigger is crafted anew at every step instead of once, at set-up.
        preview: The weights that the victim's optimiser would step to on given gradients, and those where its momentum
            then runs out, for an attacker who knows the procedure; nothing changes through it.
        trains: Batch norm uses batch statistics in the victim's update.
        population: The samples that may be poisoned; None where nobody has said.
        defense: The defence, for an attack that ``knows`` it; before the first step it is not yet calibrated.
        step: Weights and momentum after the victim's optimiser has taken gradients, from a pair of them or, without
            one, from now on; differentiable, and only for an attack that ``knows`` the optimiser.
    """

    val: Batch
    trigger: Batch
    _: KW_ONLY
    crafted: bool
    reoptimise: bool
    preview: Callable[[Grads], tuple[Grads, Grads]] | None = None
    trains: bool = True
    population: Population | None = None
    defense: DefenseView | None = None
    step: Callable[[Grads, tuple[Grads, Grads] | None], tuple[Grads, Grads]] | None = None


@dataclass(slots=True, kw_only=True)
class Step:
    """One step of the loop, as its consumers see it.

    Attributes:
        t: The step, from 0; the trigger comes at ``t == horizon``.
        branch: The trigger this step belongs to, or "" before the branches part.
        phase: Ordinary, trigger or recover.
        clean: The batch before the attack (for metrics and ledger only), as it would have reached the defence.
        sent: The batch that reached the defence: the rows of ``clean``, then those that are the attacker's own.
        passed: What the defence passed on; ids are the true ones.
        seen: What the update saw: the same, unless the attacker owns the training code.
        wire: What the attacker sent, before the victim's crop and flip.
        metrics: Scalars by tag.
        verdict: What became of the batch.
        scores: What detectors say of the rows; empty where there are none.
    """

    t: int
    branch: str
    phase: Phase
    clean: Batch
    sent: Batch
    passed: Batch
    seen: Batch
    wire: Batch
    metrics: dict[str, float]
    verdict: Verdict
    scores: Scores = field(default_factory=dict)
