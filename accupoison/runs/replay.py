"""What was sent, kept on disk, and sent once more to another defence or model."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from accupoison.attacks import Attack
from accupoison.config.renamed import with_new_names
from accupoison.config.schema import OnlineConfig, online_config
from accupoison.data import DataSet, DataStream
from accupoison.errors import InputError
from accupoison.loop.schedule import CRAFTED
from accupoison.records.arrays import read_arrays, write_arrays
from accupoison.records.files import expect, holds, read_json, reading
from accupoison.records.run_directory import BATCHES, CONFIG, RunDirectory
from accupoison.types import Batch, Context, ModelView, Phase, Step

FIX = "restore a copy or make the run again"


def save_batch(run: Path, step: Step) -> None:
    """Write what the attacker sent in ``step`` to the directory of a run, whole or not at all; recovery is not kept.

    Raises:
        InputError: The file cannot be written.
    """
    if step.phase is Phase.RECOVER or (step.phase is Phase.TRIGGER and step.branch not in CRAFTED):
        return
    path = _file(run, None if step.phase is Phase.TRIGGER else step.t)
    wire = step.wire
    x = wire.x.numpy(force=True)
    levels = np.rint(x * 255)
    if np.array_equal(levels.astype(np.float32) / 255, x):  # on the 8-bit grid: a quarter of the space
        x = levels.astype(np.uint8)
    columns = {"y": wire.y, "ids": wire.ids, "clean_ids": step.clean.ids}
    arrays = {name: tensor.numpy(force=True) for name, tensor in columns.items()}
    write_arrays(path, {"x": x, **arrays})


def digest(run: Path) -> str:
    """Return a SHA-256 hex digest of all batches that ``run`` has kept.

    Raises:
        InputError: One cannot be read.
    """
    hasher = hashlib.sha256()
    for path in sorted((run / BATCHES).glob("*.npz")):
        with reading(path):
            hasher.update(path.name.encode() + path.read_bytes())
    return hasher.hexdigest()


def replay_layer(run: Path) -> dict[str, Any]:
    """Return the settings that a replay of ``run`` starts from: all of its own but the defence.

    Raises:
        InputError: There is no run.
    """
    if not RunDirectory.holds_run(run):
        raise InputError(
            f"there is no run in {run}; give <stream.replay> the directory of a run with <evaluate.save_batches>"
        )
    stored = with_new_names(read_json(run / CONFIG))
    if "stream" not in stored:
        raise InputError(f"{run} was started by burnin and sent nothing; give <stream.replay> a run of online")
    layer = {section: values for section, values in stored.items() if section != "defense"}
    steps = len(list((run / BATCHES).glob("[0-9]*.npz")))  # fewer than planned where a stop rule ended them
    expect(run / CONFIG, stored, {"stream": {"steps": int}, "evaluate": {}})
    layer["stream"] = {**stored["stream"], "steps": steps or stored["stream"]["steps"], "replay": str(run)}
    layer["evaluate"] = {**stored["evaluate"], "save_batches": False}
    return layer


@dataclass(kw_only=True)
class Replay(Attack):
    """Send what another run has sent, held to its budget when it was made; sees nothing of the model at hand.

    Attributes:
        source: The directory of that run.
        original: The attack of that run.
    """

    keeps_labels: ClassVar[bool] = False
    keeps_ids: ClassVar[bool] = False

    source: Path
    original: Attack

    @property
    def poisons_rows(self) -> bool:
        """As the original does."""
        return self.original.poisons_rows

    def poison(self, view: ModelView, batch: Batch, ctx: Context) -> Batch:
        """Return what was sent at this step."""
        return self._sent(ctx.t, batch)

    def trigger(self, view: ModelView, clean: Batch, ctx: Context) -> Batch:
        """Return the crafted trigger that was sent."""
        return self._sent(None, clean)

    def _sent(self, t: int | None, like: Batch) -> Batch:
        batch = load_batch(self.source, t)
        x, y, ids = (batch[name].to(like.x.device) for name in ("x", "y", "ids"))
        return Batch(x, y, ids)


def replay_of(config: OnlineConfig, data: DataSet, stream: DataStream) -> Replay:
    """Return the attack that sends the batches of ``config.stream.replay`` again.

    Args:
        config: All settings.
        data: The images.
        stream: The stream whose batches they are to stand for.

    Raises:
        InputError: The run kept none, or they do not fit this stream; the message says in what.
    """
    run = check_replay(config)
    wanted = [(t, stream.ids(t)) for t in range(config.stream.steps)]
    triggers = [(None, stream.trigger(config.stream.steps).ids)] if config.trigger.crafted else []
    for t, ids in [*wanted, *triggers]:
        clean_ids = check_batch(run, t, data)["clean_ids"]
        if not torch.equal(clean_ids, ids.cpu()):
            raise InputError(
                f"{_file(run, t)} was made of other samples than this stream has there; give the <data.name>, "
                f"<run.seed> and stream settings of {run}"
            )
    return Replay(source=run, original=config.attack)


def check_replay(config: OnlineConfig) -> Path:
    """Return the directory of the run that ``config`` replays; the samples themselves are not looked at.

    Raises:
        InputError: The run has other settings, or has not kept its batches.
    """
    assert config.stream.replay is not None
    run = Path(config.stream.replay)
    _check_settings(run, online_config([replay_layer(run)]), config)
    saved = len(list((run / BATCHES).glob("[0-9]*.npz")))
    if saved < config.stream.steps:
        fix = f"give <stream.steps> {saved}" if saved else "run it with <evaluate.save_batches>"
        raise InputError(f"{run} has kept {saved} poisoned batches and this run has {config.stream.steps} steps; {fix}")
    if config.trigger.crafted:
        load_batch(run, None)
    return run


def _check_settings(run: Path, stored: OnlineConfig, config: OnlineConfig) -> None:
    if stored.attack.in_code:
        raise InputError(f"the poison of {run} was put in by the training code and never sent; replay another run")
    theirs, ours = ((c.attack.name, c.attack.settings) for c in (stored, config))
    if theirs != ours:
        raise InputError(
            f"{run} was poisoned by {stored.attack.name} with settings of its own, so a replay cannot have others; "
            "drop the options of the attack"
        )
    if missing := config.trigger.crafted - stored.trigger.crafted:
        raise InputError(
            f"{run} has not sent the trigger {''.join(missing)}; choose from {','.join(stored.trigger.types)}"
        )
    theirs_kind, mine_kind = stored.stream.kind, config.stream.kind
    length = (stored.stream.steps, stored.stream.recovery_steps) != (config.stream.steps, config.stream.recovery_steps)
    if theirs_kind != mine_kind or (length and mine_kind.startswith("shift:")):
        raise InputError(
            f"{run} poisoned the images of a stream {theirs_kind} of {stored.stream.steps} steps and "
            f"{stored.stream.recovery_steps} after them, which this run's are not; drop the options of the stream"
        )
    if stored.stream.augment != config.stream.augment:
        raise InputError(
            f"{run} was cropped {stored.stream.augment} the attack and this run {config.stream.augment} it; set "
            f"stream.augment={stored.stream.augment}"
        )


def check_batch(run: Path, t: int | None, data: DataSet) -> dict[str, Tensor]:
    """Return what :func:`load_batch` does, made of samples of ``data``.

    Args:
        run: The directory of the run that has kept it.
        t: The step; None is the crafted trigger.
        data: The samples.

    Raises:
        InputError: It is missing or damaged, or has shapes, labels or ids that ``data`` has not.
    """
    path, batch = _file(run, t), load_batch(run, t)
    shape, y, ids = list(batch["x"].shape[1:]), batch["y"], batch["clean_ids"]
    if shape != list(data.shape):
        raise InputError(
            f"{path} has samples of shape {shape} and {data.name} of {list(data.shape)}; give the <data.name> of {run}"
        )
    for name, values, count in (("label", y, data.num_classes), ("sample", ids, data.size)):
        outside = values[(values < 0) | (values >= count)]
        if len(outside):
            raise InputError(
                f"{path} has the {name} {int(outside[0])} and {data.name} has {name}s 0 to {count - 1}; give the "
                f"<data.name> of {run}, or {FIX}"
            )
    return batch


def _file(run: Path, t: int | None) -> Path:
    return run / BATCHES / ("trigger.npz" if t is None else f"{t:06d}.npz")


def load_batch(run: Path, t: int | None) -> dict[str, Tensor]:
    """Return what a run has kept of step ``t``, or of its crafted trigger: ``x``, ``y``, ``ids`` and ``clean_ids``.

    Raises:
        InputError: It is missing or damaged.
    """
    path = _file(run, t)
    if not holds(path.exists):
        begun = path.parent.is_dir() and t is None
        fix = "resume it, so that it ends first" if begun else "run it with <evaluate.save_batches>"
        raise InputError(f"{run} has not kept {path.name}; {fix}")
    arrays = read_arrays(path, ("x", "y", "ids", "clean_ids"), kind="batch", fix=FIX)
    wrong = _misfit(arrays)
    if wrong:
        raise InputError(f"{path} is not a batch ({wrong}); {FIX}")
    batch = {name: torch.from_numpy(array) for name, array in arrays.items()}
    x = batch["x"]
    return batch | {"x": x.float() / 255 if x.dtype == torch.uint8 else x}


def _misfit(arrays: dict[str, NDArray[Any]]) -> str:
    """Return what is wrong with the arrays of a batch, or ""."""
    x = arrays["x"]
    for name in ("y", "ids", "clean_ids"):
        if arrays[name].dtype != np.int64 or arrays[name].shape != x.shape[:1]:
            return f"{name} is {arrays[name].dtype} {list(arrays[name].shape)} and x is {list(x.shape)}"
    if x.ndim < 2 or x.dtype not in (np.uint8, np.float32):
        return f"x is {x.dtype} {list(x.shape)}"
    if x.dtype == np.float32 and not ((x >= 0) & (x <= 1)).all():  # NaN is neither
        return "x leaves [0, 1]"
    return ""
