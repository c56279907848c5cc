"""Who was in the stream: exact membership, for audits."""

import hashlib
import os
from collections import defaultdict, deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from accupoison.errors import InputError
from accupoison.records.arrays import read_arrays, write_arrays
from accupoison.records.files import reading, writing
from accupoison.types import Batch, Phase, Step, Verdict

LEDGER = "ledger.npz"
LEDGER_ROWS = "ledger.rows"
"""The ledger of a run that is not over."""
PHASES = tuple(Phase)
ROW = np.dtype(
    [
        ("step", "<i4"),
        ("branch", "u1"),
        ("phase", "u1"),
        ("id", "<i8"),
        ("label", "<i4"),
        ("offered", "?"),
        ("sent", "?"),
        ("changed", "?"),
        ("corrected", "?"),
        ("used", "?"),
    ]
)
COLUMNS = tuple(ROW.fields or ())
NOBODY = -1
"""The id of a row that stands for no sample: after it, nothing of what came before is left in the model."""


class Ledger:
    """One row for every sample of every step, in the order of arrival; 23 bytes a row.

    Columns: ``step``; ``branch``, an index into :attr:`branches`; ``phase``, an index into ``PHASES``; ``id``, the
    true one; ``label``, as it was sent; ``offered``, the sample is one of the stream's own (False: the attacker made
    it up); ``sent``, it reached the defence (False: the attacker withheld it, or added it in the training code);
    ``changed``, the attacker altered its inputs or label, or made it; ``corrected``, the defence did; ``used``, the row
    reached an update that was committed. A row of nobody (:data:`NOBODY`), with none of these, says that a defence put
    the base model back at that step.

    While a run goes on, :meth:`append` adds its new rows to a plain file, which takes the same time at every step;
    ``ledger.npz`` is written when it ends. On resume, :meth:`resume` gives back the ledger exactly as it was at the
    checkpoint, since rows are only ever appended.
    """

    def __init__(self) -> None:
        self._rows: NDArray[np.void] = np.zeros(1024, dtype=ROW)
        self._size = 0
        self._branches: list[str] = []
        self._appended = 0
        self._digest = hashlib.sha256()

    @classmethod
    def of_training(cls, ids: Tensor, labels: Tensor, changed: Tensor) -> Self:
        """Return the ledger of an offline training: one row a sample, all at step 0 and all used.

        Args:
            ids: The samples, int64 [N]; negative ones are the attacker's own.
            labels: As they are learnt, int64 [N].
            changed: The attacker altered or made them, bool [N].
        """
        ledger = cls()
        ledger._rows, ledger._size, ledger._branches = np.zeros(len(ids), dtype=ROW), len(ids), [""]
        columns = {"id": ids, "label": labels, "changed": changed, "offered": ids >= 0}
        for name, values in columns.items():
            ledger._rows[name] = values.numpy(force=True)
        ledger._rows["sent"] = ledger._rows["used"] = True
        return ledger

    def __len__(self) -> int:
        return self._size

    @property
    def branches(self) -> tuple[str, ...]:
        """The names of the branches, in order of first appearance."""
        return tuple(self._branches)

    @property
    def rows(self) -> NDArray[np.void]:
        """All rows, a read-only structured array [N]; ``ledger.rows["id"]`` is a column."""
        view = self._rows[: self._size]
        view.flags.writeable = False
        return view

    def path(self, branch: str) -> NDArray[np.void]:
        """Return the rows on the way to a trigger: those from before the paths part, and its own."""
        numbers = [number for number, name in enumerate(self._branches) if name in ("", branch)]
        return self.rows[np.isin(self.rows["branch"], numbers)]

    def learnt(self, branch: str) -> dict[int, int]:
        """Return the last step at which each true sample reached a committed update, on the path to ``branch``.

        Only updates count that came after the base model was last put back.
        """
        rows = self.path(branch)
        resets = np.flatnonzero((rows["id"] == NOBODY) & ~rows["sent"])
        rows = rows[resets[-1] :] if len(resets) else rows
        used = rows[rows["used"] & rows["offered"]]
        used = used[np.argsort(used["step"], kind="stable")]
        return dict(zip(used["id"].tolist(), used["step"].tolist(), strict=True))

    def add(self, step: Step) -> None:
        """Record the samples of one step.

        A defence may drop, repeat or reorder rows and an attack may withhold or add some, so rows are matched by id;
        where an id comes more than once, its first appearance meets the first, its second the second.
        """
        sent, clean, passed, seen = step.sent, step.clean, step.passed, step.seen
        from_clean, to_passed, to_seen = (_match(sent.ids, other.ids) for other in (clean, passed, seen))
        rows = np.zeros(len(sent), dtype=ROW)
        rows["id"], rows["label"], rows["sent"] = sent.ids.numpy(force=True), sent.y.numpy(force=True), True
        rows["offered"] = (from_clean >= 0).numpy()
        rows["changed"] = _differs(sent, clean, from_clean) | ~rows["offered"]
        rows["corrected"] = _differs(sent, passed, to_passed)
        if seen is not passed:  # the attacker owns the training code
            moved = _differs(passed, seen, _match(passed.ids, seen.ids))
            rows["changed"] |= moved[to_passed.numpy()] & (to_passed >= 0).numpy()
        rows["used"] = (to_seen >= 0).numpy() & (step.verdict is Verdict.COMMIT)
        learnt = seen.rows((_match(seen.ids, passed.ids) < 0).to(seen.x.device))  # what the training code has added
        withheld = clean.rows(_match(clean.ids, sent.ids).to(clean.x.device) < 0)
        lost = np.zeros(len(withheld), dtype=ROW)
        lost["id"], lost["label"], lost["offered"] = withheld.ids.numpy(force=True), withheld.y.numpy(force=True), True
        added = np.zeros(len(learnt), dtype=ROW)
        added["id"], added["label"] = learnt.ids.numpy(force=True), learnt.y.numpy(force=True)
        added["changed"], added["used"] = True, step.verdict is Verdict.COMMIT
        reset = np.zeros(int(step.verdict is Verdict.RESET), dtype=ROW)
        reset["id"] = NOBODY
        self._append(np.concatenate([rows, lost, added, reset]), step)

    def append(self, path: Path) -> None:
        """Add the rows that ``path`` does not have yet, durably; anything after them is cut off.

        Raises:
            InputError: The file cannot be written.
        """
        with writing(path), path.open("ab") as file:
            file.truncate(self._appended * ROW.itemsize)
            added = self.rows[self._appended :].tobytes()
            file.write(added)
            file.flush()
            os.fsync(file.fileno())
        self._appended = self._size
        self._digest.update(added)

    @property
    def digest(self) -> str:
        """SHA-256 hex digest of the rows that :meth:`append` has written, for :meth:`resume`."""
        return self._digest.hexdigest()

    @classmethod
    def resume(cls, appended: Path, saved: Path, rows: int, branches: Sequence[str], digest: str | None = None) -> Self:
        """Return the ledger as it was when it had ``rows`` rows.

        Args:
            appended: What :meth:`append` wrote; missing once the run has ended.
            saved: What :meth:`save` wrote then.
            rows: Number of rows.
            branches: Their branches.
            digest: What :attr:`digest` was then; None in runs of older versions.

        Raises:
            InputError: The files have fewer rows, other ones, or are not readable.
        """
        ledger = cls()
        stored = None
        with reading(appended), suppress(FileNotFoundError), appended.open("rb") as file:
            stored = np.fromfile(file, dtype=ROW, count=rows)
        # other rows, beside a saved ledger: a resumed run was killed while it wrote its first rows anew
        sound = stored is not None and len(stored) == rows and _is(stored, digest)
        if stored is None or (not sound and saved.exists()):
            source, stored = saved, cls.load(saved).rows[:rows].copy()
        else:
            source, ledger._appended = appended, len(stored)
        if len(stored) < rows:
            raise InputError(f"the ledger has {len(stored)} rows, not the {rows} of the checkpoint; start the run anew")
        if not _is(stored, digest):
            raise InputError(f"{source} is not as the run has written it; restore a copy or start the run anew")
        if source == appended:
            ledger._digest = hashlib.sha256(stored.tobytes())
        ledger._rows, ledger._size, ledger._branches = stored, rows, list(branches)
        return ledger

    def save(self, path: Path) -> None:
        """Write ``ledger.npz``, one array a column, whole or not at all.

        Raises:
            InputError: The file cannot be written.
        """
        columns = {name: self.rows[name] for name in COLUMNS}
        names = {"branches": np.array(self._branches, dtype=np.str_), "phases": np.array([p.value for p in PHASES])}
        write_arrays(path, {**columns, **names})

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what :meth:`save` wrote.

        Raises:
            InputError: The file is missing, damaged or not a ledger.
        """
        fix = "restore a copy or run again"
        stored = read_arrays(path, (*COLUMNS, "branches", "phases"), kind="ledger", fix=fix)
        wrong = _misfit(stored)
        if wrong:
            raise InputError(f"{path} is not a ledger ({wrong}); {fix}")
        ledger = cls()
        ledger._size = len(stored["id"])
        ledger._rows = np.zeros(ledger._size, dtype=ROW)
        for name in COLUMNS:
            ledger._rows[name] = stored[name]
        ledger._branches = stored["branches"].tolist()
        return ledger

    def _append(self, rows: NDArray[np.void], step: Step) -> None:
        if len(rows) == 0:
            return  # a branch is named by its first row
        if step.branch not in self._branches:
            self._branches.append(step.branch)
        rows["step"], rows["branch"] = step.t, self._branches.index(step.branch)
        rows["phase"] = PHASES.index(step.phase)
        end = self._size + len(rows)
        if end > len(self._rows):
            grown = np.zeros(max(end, 2 * len(self._rows)), dtype=ROW)
            grown[: self._size] = self._rows[: self._size]
            self._rows = grown
        self._rows[self._size : end] = rows
        self._size = end


def _misfit(stored: dict[str, NDArray[Any]]) -> str:
    """Return what is wrong with the arrays of a saved ledger, or ""."""
    for name in COLUMNS:
        if stored[name].dtype != ROW[name] or stored[name].shape != (stored["id"].size,):
            return f"{name} is {stored[name].dtype} {list(stored[name].shape)}"
    branches, phases = stored["branches"], stored["phases"]
    if branches.ndim != 1 or branches.dtype.kind != "U" or phases.tolist() != [phase.value for phase in PHASES]:
        return "its names of branches or phases are not such"
    for name, count in (("branch", len(branches)), ("phase", len(PHASES))):
        if stored["id"].size and stored[name].max() >= count:
            return f"{name} {stored[name].max()} of {count}"
    return "a step is negative" if (stored["step"] < 0).any() else ""


def _is(rows: NDArray[np.void], digest: str | None) -> bool:
    """Return whether rows have this digest; those of runs of older versions have none."""
    return digest is None or hashlib.sha256(rows.tobytes()).hexdigest() == digest


def _match(ids: Tensor, others: Tensor) -> Tensor:
    """Return, for each of ``ids``, the row of its counterpart in ``others`` or -1; int64 [len(ids)] on the CPU."""
    places: defaultdict[int, deque[int]] = defaultdict(deque)
    for row, key in enumerate(others.tolist()):
        places[key].append(row)
    return torch.tensor([places[key].popleft() if places[key] else -1 for key in ids.tolist()], dtype=torch.int64)


def _differs(batch: Batch, other: Batch, match: Tensor) -> NDArray[np.bool_]:
    """Return which rows of ``batch`` differ in inputs or label from their counterparts; False where there is none."""
    differs = np.zeros(len(batch), dtype=np.bool_)
    here = (match >= 0).nonzero().flatten()
    if len(here) == 0:
        return differs
    ours, theirs = batch.rows(here.to(batch.x.device)), other.rows(match[here].to(other.x.device))
    if ours.x.shape != theirs.x.shape:  # resized images differ, whatever is in them
        changed = torch.ones(len(here), dtype=torch.bool)
    else:
        changed = (ours.x != theirs.x).flatten(1).any(1) | (ours.y != theirs.y)
    differs[here.numpy()] = changed.numpy(force=True)
    return differs
