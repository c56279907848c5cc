"""Damaged files of a run: refused in one line before anything is touched, or as they were. More: ``--fuzz 5000``."""

from pathlib import Path

import numpy as np
import pytest

from accupoison.records.ledger import ROW, Ledger
from accupoison.records.recorder import BEGINNING, MetricsLog, RunRecorder, read_metrics
from accupoison.records.run_directory import RunDirectory
from accupoison.records.tags import TAGS
from tests.damage import outcomes

SCALARS = {
    "test/acc": 0.5,
    "stream/loss": 2.25,
    "optim/lr": 0.1,
    "defense/threshold": float("inf"),
    "x/mine": -1e-3,
}


@pytest.fixture
def metrics(tmp_path: Path) -> Path:
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path)
    for step in range(12):
        log.log(SCALARS, step, "coast" if step > 8 else "")
    log.close()
    return path


def test_rows_that_are_read_have_the_form_of_rows(metrics: Path, fuzz_rounds: int) -> None:
    """Without the digest of a checkpoint a changed digit cannot be told, but nothing else may come out."""

    def read() -> object:
        for row in read_metrics(metrics):
            assert isinstance(row["step"], int)
            assert row["step"] >= 0
            assert isinstance(row["branch"], str)
            assert {name for name in row if not name.startswith("x/")} - {"step", "branch"} <= set(TAGS)
            assert all(isinstance(value, int | float) for name, value in row.items() if name != "branch")
        return None

    assert outcomes(metrics, fuzz_rounds, 10, read)["refused"] > 0.4 * fuzz_rounds


def test_a_run_goes_on_with_the_rows_it_wrote_alone(tmp_path: Path, fuzz_rounds: int) -> None:
    with RunDirectory.create(tmp_path / "run", {}, {}) as run:
        with RunRecorder(run, [""]) as recorder:
            for step in range(12):
                recorder.log(SCALARS, step)
            position = recorder.sync()
        path = run.path / "metrics.jsonl"
        whole = path.read_bytes()

        def read() -> bytes:
            before = path.read_bytes()
            try:
                RunRecorder(run, [""], position).close()
            except BaseException:
                assert path.read_bytes() == before, "it was touched and then refused"
                raise
            return path.read_bytes()

        found = outcomes(path, fuzz_rounds, 11, read)
        assert not found["other"]
        assert found["refused"] > 0.8 * fuzz_rounds
        path.write_bytes(whole)


@pytest.fixture
def ledger() -> Ledger:
    rng, made = np.random.default_rng(0), Ledger()
    made._rows = np.zeros(40, dtype=ROW)
    for name in ("step", "id", "label"):
        made._rows[name] = rng.integers(0, 9, 40)
    for name in ("offered", "sent", "used"):
        made._rows[name] = rng.integers(0, 2, 40)
    made._size, made._branches = 40, [""]
    return made


def test_a_ledger_goes_on_with_the_rows_it_wrote_alone(ledger: Ledger, tmp_path: Path, fuzz_rounds: int) -> None:
    path, saved = tmp_path / "ledger.rows", tmp_path / "ledger.npz"
    ledger.append(path)
    digest = ledger.digest

    def read() -> bytes:
        return Ledger.resume(path, saved, 40, [""], digest).rows.tobytes()

    found = outcomes(path, fuzz_rounds, 12, read)
    assert not found["other"]
    assert found["refused"] > 0.8 * fuzz_rounds


def test_a_row_that_was_cut_off_is_left_out_wherever(metrics: Path) -> None:
    whole = metrics.read_bytes()
    last = whole.rindex(b"\n", 0, -1) + 1
    assert whole[last:].startswith(BEGINNING)
    for end in range(last, len(whole)):
        metrics.write_bytes(whole[:end])
        assert len(read_metrics(metrics)) == (12 if end == len(whole) - 1 else 11)
