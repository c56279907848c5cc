from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from accupoison.data.fabricated import FABRICATED, FIRST_FABRICATED, fabricated_id, source_ids
from accupoison.loop.pseudonyms import Pseudonyms
from accupoison.records.ledger import PHASES, ROW, Ledger
from accupoison.types import Batch, Phase, Verdict
from tests.messages import refuses
from tests.simulations import step_of

FLAGS = ("offered", "sent", "changed", "corrected", "used")


def batch(ids: list[int], seed: int = 0) -> Batch:
    """Images that depend on id and seed alone."""
    x = torch.tensor([[[[(i % 97) / 100 + seed / 1000]]] for i in ids]).reshape(len(ids), 1, 1, 1)
    return Batch(x, torch.tensor([i % 10 for i in ids], dtype=torch.int64), torch.tensor(ids, dtype=torch.int64))


def flags(ledger: Ledger) -> dict[int, str]:
    """The flags of each id, as the first letters of those that are set ("h" for changed)."""
    letters = {"offered": "o", "sent": "s", "changed": "h", "corrected": "c", "used": "u"}
    return {int(row["id"]): "".join(letters[name] for name in FLAGS if row[name]) for row in ledger.rows}


def test_a_clean_step() -> None:
    ledger, b = Ledger(), batch([5, 6, 17])
    ledger.add(step_of(b, b, b, t=3, phase=Phase.TRIGGER, branch="clean"))
    assert ledger.rows["id"].tolist() == [5, 6, 17]
    assert ledger.rows["label"].tolist() == [5, 6, 7]
    assert ledger.rows["step"].tolist() == [3, 3, 3]
    assert [PHASES[i] for i in ledger.rows["phase"]] == [Phase.TRIGGER] * 3
    assert ledger.branches == ("clean",)
    assert set(flags(ledger).values()) == {"osu"}


def test_who_was_changed_corrected_and_used() -> None:
    clean = batch([1, 2, 3, 4])
    sent = Batch(clean.x.clone(), clean.y.clone(), clean.ids)
    sent.x[1] += 1e-7  # the smallest change counts
    sent.y[2] = 9  # and so does a flipped label
    seen = Batch(sent.x.clone(), sent.y, sent.ids).rows(torch.tensor([3, 0, 1]))  # drops 3, reorders the rest
    seen.x[2] += 0.1
    ledger = Ledger()
    ledger.add(step_of(clean, sent, seen))
    assert flags(ledger) == {1: "osu", 2: "oshcu", 3: "osh", 4: "osu"}
    assert ledger.rows["label"].tolist() == [1, 2, 9, 4]


def test_nothing_is_used_unless_committed() -> None:
    ledger, b = Ledger(), batch([1, 2])
    ledger.add(step_of(b, b, b, verdict=Verdict.SKIP))
    assert flags(ledger) == {1: "os", 2: "os"}


def test_a_defence_may_drop_everything() -> None:
    ledger, b = Ledger(), batch([1, 2])
    ledger.add(step_of(b, b, b.rows(slice(0, 0)), verdict=Verdict.SKIP))
    assert flags(ledger) == {1: "os", 2: "os"}


def test_fabricated_and_withheld_samples() -> None:
    clean = batch([1, 2, 3])
    sent = Batch.concat([clean.rows(torch.tensor([0, 2])), batch([-7])])
    ledger = Ledger()
    ledger.add(step_of(clean, sent, sent))
    assert flags(ledger) == {1: "osu", 3: "osu", -7: "shu", 2: "o"}


def test_repeated_ids_are_matched_in_order() -> None:
    clean = batch([4, 4, 5])
    sent = clean.with_x(clean.x + torch.tensor([0.0, 0.1, 0.0]).reshape(3, 1, 1, 1))
    ledger = Ledger()
    ledger.add(step_of(clean, sent, sent.rows(torch.tensor([0, 2]))))
    assert ledger.rows["changed"].tolist() == [False, True, False]
    assert ledger.rows["used"].tolist() == [True, False, True]


def test_not_a_number_counts_as_a_change() -> None:
    clean = batch([1])
    sent = clean.with_x(torch.full_like(clean.x, float("nan")))
    ledger = Ledger()
    ledger.add(step_of(clean, sent, sent))
    assert flags(ledger) == {1: "oshcu"}  # a NaN differs from itself too: nobody can say that it passed unaltered


def test_a_step_without_a_batch_adds_nothing() -> None:
    ledger, none = Ledger(), batch([])
    ledger.add(step_of(none, none, none, branch="coast"))
    assert len(ledger) == 0
    assert ledger.branches == ()


def test_it_grows_and_stays_small() -> None:
    ledger = Ledger()
    for t in range(60):
        b = batch(list(range(100 * t, 100 * t + 100)))
        ledger.add(step_of(b, b, b, t=t))
    assert ledger.rows["id"].tolist() == list(range(6000))
    assert ledger.rows["step"].tolist() == [t for t in range(60) for _ in range(100)]
    assert ROW.itemsize <= 24
    with refuses("read-only", ValueError):
        ledger.rows["id"][0] = 3


def branched(ledger: Ledger, start: int, end: int) -> None:
    names = ["", "", "coast", "clean", "coast", "clean"]
    for t in range(start, end):
        b = batch([10 * t, 10 * t + 1])
        empty = names[t] == "coast" and t == 2
        b = b.rows(slice(0, 0)) if empty else b
        ledger.add(step_of(b, b, b, t=t, branch=names[t]))


@pytest.mark.parametrize("ended", [False, True])
@pytest.mark.parametrize("cut", range(7))
def test_resume_is_exact(tmp_path: Path, cut: int, ended: bool) -> None:
    rows, saved = tmp_path / "ledger.rows", tmp_path / "ledger.npz"
    whole, first = Ledger(), Ledger()
    branched(whole, 0, 6)
    for start in range(cut):
        branched(first, start, start + 1)
        first.append(rows)
    kept, names = len(first), first.branches
    branched(first, cut, 6)  # the run went on after the checkpoint, and was killed, or ended without a new one
    if ended:
        first.save(saved)
        rows.unlink(missing_ok=True)
    else:
        first.append(rows)
    resumed = Ledger.resume(rows, saved, kept, names)
    assert resumed.branches == names
    branched(resumed, cut, 6)
    resumed.append(rows)
    assert resumed.branches == whole.branches == ("", "clean", "coast")
    assert rows.read_bytes() == resumed.rows.tobytes() == whole.rows.tobytes()
    resumed.save(saved)
    whole.save(tmp_path / "whole.npz")
    assert saved.read_bytes() == (tmp_path / "whole.npz").read_bytes()


def test_a_resumed_run_that_is_killed_in_its_first_save_can_be_resumed(tmp_path: Path) -> None:
    rows, saved, ledger = tmp_path / "ledger.rows", tmp_path / "ledger.npz", Ledger()
    branched(ledger, 0, 6)
    ledger.save(saved)
    rows.write_bytes(ledger.rows.tobytes()[:50])
    again = Ledger.resume(rows, saved, len(ledger), ledger.branches)
    again.append(rows)
    assert rows.read_bytes() == ledger.rows.tobytes()


def test_appending_writes_new_rows_alone(tmp_path: Path) -> None:
    ledger, path = Ledger(), tmp_path / "ledger.rows"
    branched(ledger, 0, 2)
    ledger.append(path)
    before = path.stat().st_size
    path.write_bytes(b"\0" * before + b"written after the checkpoint")
    branched(ledger, 2, 6)
    ledger.append(path)
    assert path.read_bytes() == b"\0" * before + ledger.rows.tobytes()[before:]


def test_the_file_needs_only_numpy(tmp_path: Path) -> None:
    ledger = Ledger()
    branched(ledger, 0, 6)
    ledger.save(tmp_path / "ledger.npz")
    with np.load(tmp_path / "ledger.npz", allow_pickle=False) as stored:
        assert stored["id"].tolist() == ledger.rows["id"].tolist()
        assert stored["used"].dtype == np.bool_
        assert stored["branches"].tolist() == ["", "clean", "coast"]
        assert stored["phases"].tolist() == [phase.value for phase in Phase]


def test_an_empty_ledger_comes_back(tmp_path: Path) -> None:
    Ledger().save(tmp_path / "ledger.npz")
    again = Ledger.load(tmp_path / "ledger.npz")
    assert len(again) == 0
    assert again.branches == ()


def test_damaged_files(tmp_path: Path) -> None:
    path = tmp_path / "ledger.npz"
    with refuses("there is no file"):
        Ledger.load(path)
    ledger = Ledger()
    branched(ledger, 0, 6)
    ledger.save(path)
    whole = path.read_bytes()
    at = whole.index(ledger.rows["id"].tobytes())
    for content in (b"", b"PK", whole[:-30], whole[: len(whole) // 2], whole[:at] + b"\xff" + whole[at + 1 :]):
        path.write_bytes(content)
        with refuses("ledger.npz readable"):
            Ledger.load(path)
    np.savez(path, other=np.ones(2))
    with refuses("ledger.npz branch"):
        Ledger.load(path)
    np.save(tmp_path / "ledger.npy", np.ones(2))
    with refuses("not a readable ledger"):
        Ledger.load(tmp_path / "ledger.npy")


@pytest.mark.parametrize(
    ("column", "values", "words"),
    [
        ("id", np.zeros((10, 1), np.int64), "[10"),
        ("label", np.zeros(9, np.int32), "label int32 [9]"),
        ("used", np.ones(10), "used float64 [10]"),
        ("branch", np.full(10, 3, np.uint8), "branch 3 of 3"),
        ("phase", np.full(10, 200, np.uint8), "phase 200 of"),
        ("step", np.full(10, -1, np.int32), "step negative"),
        ("phases", np.array(["before", "after"]), "names branches phases"),
        ("branches", np.arange(3), "names branches phases"),
    ],
)
def test_arrays_that_are_no_ledger(tmp_path: Path, column: str, values: NDArray[Any], words: str) -> None:
    path, ledger = tmp_path / "ledger.npz", Ledger()
    branched(ledger, 0, 6)
    ledger.save(path)
    with np.load(path) as stored:
        np.savez(path, **{**stored, column: values})
    assert len(ledger) == 10
    with refuses(f"ledger.npz {words} restore"):
        Ledger.load(path)


@pytest.mark.parametrize("save", [Ledger.append, Ledger.save])
def test_more_rows_than_there_are(tmp_path: Path, save: Callable[[Ledger, Path], None]) -> None:
    save(Ledger(), tmp_path / "file")
    rows, saved = (tmp_path / "file" if save is which else tmp_path / "none" for which in (Ledger.append, Ledger.save))
    with refuses("0 rows not 5 checkpoint"):
        Ledger.resume(rows, saved, 5, [""])


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with refuses("cannot write"):
        Ledger().save(tmp_path / "file" / "ledger.npz")


def test_pseudonyms_are_a_secret_bijection() -> None:
    true = torch.arange(1000)
    ids = torch.cat([true, fabricated_id("copy", true, 7)])
    hidden = Pseudonyms(3).hide(ids)
    assert len(set(hidden.tolist())) == 2000
    assert bool((hidden >= 0).all())
    assert torch.equal(Pseudonyms(3).reveal(hidden), ids)
    assert torch.equal(Pseudonyms(3).hide(ids), hidden)
    assert not bool((Pseudonyms(4).hide(ids) == hidden).any())
    ranks = hidden.argsort().argsort().double()  # nor does order or size tell the fabricated ones
    assert abs(float(ranks[1000:].mean() - ranks[:1000].mean())) < 100
    assert abs(float(torch.corrcoef(torch.stack([ranks[:1000], true.double()]))[0, 1])) < 0.15


def test_rows_that_a_defence_made_up_pass_through() -> None:
    names = Pseudonyms(0)
    ids = torch.tensor([3, -1, -4, 9, 3])
    hidden = names.hide(ids)
    assert hidden[1:3].tolist() == [-1, -4]
    assert torch.equal(names.reveal(hidden), ids)
    assert hidden[0] == hidden[4]
    assert torch.equal(ids, torch.tensor([3, -1, -4, 9, 3]))  # the argument is left as it was


def test_fabricated_ids_say_what_they_were_made_from() -> None:
    sources = torch.tensor([0, 5, 2**32 - 1])
    ids = torch.cat([fabricated_id(kind, sources, copy) for kind in FABRICATED for copy in (0, 4095)])
    assert len(set(ids.tolist())) == len(ids)
    assert int(ids.max()) <= -FIRST_FABRICATED
    assert torch.equal(source_ids(ids), sources.repeat(2 * len(FABRICATED)))
    assert source_ids(torch.tensor([7, -1])).tolist() == [7, -1]


@pytest.mark.parametrize("ids", [torch.empty(0, dtype=torch.int64), torch.tensor([-3, -4])])
def test_no_real_ids(ids: Tensor) -> None:
    assert torch.equal(Pseudonyms(0).hide(ids), ids)


def test_an_id_of_too_many_bits_is_a_bug() -> None:
    with refuses(f"{2**51} outside", ValueError):
        Pseudonyms(0).hide(torch.tensor([1, 2**51]))
