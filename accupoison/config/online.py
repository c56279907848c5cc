"""The sections of a configuration that only a stream has, and their defaults: protocol ``fresh``."""

from dataclasses import dataclass

from accupoison.config.burnin import check_rate
from accupoison.data.stream import POOLS, STREAMS
from accupoison.errors import InputError, check_choice, check_least
from accupoison.loop.detectors import DETECTORS
from accupoison.loop.schedule import Schedule


@dataclass(frozen=True, kw_only=True)
class StartSettings:
    """The checkpoint that the stream starts from.

    Attributes:
        checkpoint: Path of the base model; None takes the default place of the data, model, recipe and seed.
        reference: Path of the early snapshot; None takes ``early.pt`` beside the checkpoint, where there is one.
        recipe: Burn-in recipe of the default place.
        seed: Burn-in seed of the default place, 0 or more.
    """

    checkpoint: str | None = None
    reference: str | None = None
    recipe: str = "online_ready"
    seed: int = 0

    def __post_init__(self) -> None:
        check_least("start.seed", self.seed, 0, "0 or more")


@dataclass(frozen=True, kw_only=True)
class StreamSettings(Schedule):
    """The stream. The order of events on it is that of :class:`~accupoison.loop.schedule.Schedule`.

    Attributes:
        kind: How batches are drawn: "iid", "cycling", "released_stream" or "shift:NAME" (``list`` says what each is).
        pool: Where batches and the trigger are drawn from: "stream" (images that the burn-in never saw) or "burnin".
        batch_size: Images a step, 1 or more.
        replay: Directory of a run with ``evaluate.save_batches``: what was sent there is sent again, to see whether it
            harms another defence or model. The settings of the attack must be those of that run.
    """

    kind: str = "iid"
    pool: str = "stream"
    batch_size: int = 100
    replay: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "kind", STREAMS.canonical(self.kind))
        check_choice("stream.pool", self.pool, POOLS)
        check_least("stream.batch_size", self.batch_size, 1, "a number of images such as 100")


@dataclass(frozen=True, kw_only=True)
class OptimSettings:
    """The optimiser of the stream.

    Attributes:
        lr: Learning rate, above 0; None takes the rate the burn-in ended with.
        momentum: SGD momentum, in [0, 1).
        weight_decay: L2 penalty, 0 or more.
        restore_momentum: Start with the burn-in's momentum buffers instead of empty ones.
        bn_mode: What batch norm does in the update: "train" (batch statistics) or "eval".
    """

    lr: float | None = None
    momentum: float = 0.9
    weight_decay: float = 0.0
    restore_momentum: bool = True
    bn_mode: str = "train"

    def __post_init__(self) -> None:
        check_choice("optim.bn_mode", self.bn_mode, ("train", "eval"))
        check_rate(self.lr, self.momentum, self.weight_decay, "optim")


@dataclass(frozen=True, kw_only=True)
class StopSettings:
    """When the accumulation ends before its last step; errors are fractions in [0, 1].

    Attributes:
        error_rise: End at a test error above the one at the start plus this (0.056 in the released runs, 0.034 in Pang
            et al. 2021); None never does.
        error_above: End at a test error above this (0.18 in the released command); None never does.
    """

    error_rise: float | None = None
    error_above: float | None = None

    def __post_init__(self) -> None:
        for name in ("error_rise", "error_above"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise InputError(f"stop.{name} {value} is outside [0, 1]; give a fraction such as 0.056")

    @property
    def active(self) -> bool:
        """Some rule is set."""
        return (self.error_rise, self.error_above) != (None, None)

    def must_stop(self, start: float, accuracy: float) -> bool:
        """Return whether the accumulation ends here.

        Args:
            start: Test accuracy at the start, in [0, 1].
            accuracy: Test accuracy now.
        """
        return (self.error_rise is not None and accuracy < start - self.error_rise) or (
            self.error_above is not None and 1 - accuracy > self.error_above
        )


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings:
    """What is measured, and when.

    Attributes:
        test: When test accuracy is measured: at "milestones" (at the start, before and after the trigger, at the
            end) or at "every" step.
        monitor: Measure accuracy on the monitor images at every step.
        reestimate: Also measure test accuracy after batch-norm re-estimation on the trusted images.
        images: Samples a step to TensorBoard, each clean, sent, seen and their difference; 0 for none.
        audit_every: Measure at every so many steps how well stream and burn-in members can be told from test images
            that were never learnt, by their loss alone; None never asks.
        save_batches: Keep what the attacker sends, for ``stream.replay``.
        detectors: What the discrepancy is compared with at every step, of kd, lid, gda, gmm and loss; the score of each
            row goes to ``detectors.csv``.
    """

    test: str = "milestones"
    monitor: bool = True
    reestimate: bool = True
    images: int = 8
    audit_every: int | None = None
    save_batches: bool = False
    detectors: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_choice("evaluate.test", self.test, ("milestones", "every"))
        check_least("evaluate.audit_every", self.audit_every, 1, "a number of steps, or none")
        check_least("evaluate.images", self.images, 0, "the number of images, or 0 for none")
        for name in self.detectors:
            check_choice("<evaluate.detectors>", name, DETECTORS)
        object.__setattr__(self, "detectors", tuple(name for name in DETECTORS if name in self.detectors))
