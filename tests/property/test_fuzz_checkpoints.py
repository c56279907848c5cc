"""Damaged files of weights and states are refused in one sentence, or hold what they held."""

import copy
import math
import random
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from accupoison.audit.challenge.safe_pickle import read_pickle
from accupoison.errors import InputError
from accupoison.learner import Learner
from accupoison.models.factory import ModelSpec, build_model
from accupoison.records import checkpoint
from accupoison.records.foreign import load_weights
from accupoison.runs.base_model import BaseModel
from accupoison.testing.bench import same
from tests.damage import damages
from tests.messages import refuses

SPEC = ModelSpec(name="convnet", width=2, num_classes=3)
CPU = torch.device("cpu")


def refusal(read: Callable[[], object]) -> object:
    """Return what is read, or the sentence that refuses it."""
    try:
        return read()
    except InputError as error:
        if "\n" in str(error):
            raise AssertionError("several lines") from error
        return str(error)


def learnt() -> Learner:
    learner = Learner(build_model(SPEC, seed=1), lr=0.3)
    learner.apply(tuple(torch.ones_like(p) for p in learner.parameters))
    return learner


def own_model(path: Path) -> None:
    state = learnt().state()
    BaseModel(SPEC, state["model"], state["optimizer"], 0.3, 7, {}).save(path)


def run_state(path: Path) -> None:
    payload = {"learner": learnt().state(), "step": 3, "sums": (0.5, 1.0, 2), "offset": 100, "data": "ab" * 32}
    checkpoint.save(path, "run-state", payload)


def released(path: Path) -> None:
    learner = learnt()
    net = {f"module.{name}": value for name, value in learner.model.state_dict().items()}
    torch.save({"net": net, "optimizer": learner.optimizer.state_dict(), "epoch": 40, "acc": 81.5}, path)


def raw(path: Path) -> None:
    torch.save(learnt().model.state_dict(), path)


FORMS: dict[str, tuple[Callable[[Path], None], Callable[[Path], object]]] = {
    "own model": (own_model, lambda path: asdict(BaseModel.load(path))),
    "run state": (run_state, lambda path: checkpoint.load(path, "run-state")),
    "released": (released, lambda path: asdict(BaseModel.load(path))),
    "raw": (raw, load_weights),
}


@pytest.mark.parametrize("form", FORMS)
def test_damage_is_refused_or_harmless(form: str, tmp_path: Path, fuzz_rounds: int) -> None:
    write, read = FORMS[form]
    write(tmp_path / "a.pth")
    content, whole, refused = (tmp_path / "a.pth").read_bytes(), read(tmp_path / "a.pth"), 0
    for number, damaged in enumerate(damages(content, fuzz_rounds, 20)):
        (tmp_path / "a.pth").write_bytes(damaged)
        found = refusal(lambda: read(tmp_path / "a.pth"))
        refused += isinstance(found, str)
        assert "a.pth" in found if isinstance(found, str) else same(found, whole), number
    assert refused > 0.7 * fuzz_rounds


@pytest.mark.parametrize("form", ["released", "raw"])
def test_a_file_without_checksums_is_read_or_refused(form: str, tmp_path: Path, fuzz_rounds: int) -> None:
    FORMS[form][0](tmp_path / "new.pth")
    found = torch.load(tmp_path / "new.pth", weights_only=True)
    torch.save(found, tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    read = 0
    for damaged in damages((tmp_path / "a.pth").read_bytes(), fuzz_rounds, 21):
        (tmp_path / "a.pth").write_bytes(damaged)
        read += not isinstance(refusal(lambda: load_weights(tmp_path / "a.pth")), str)
    assert 0 < read < fuzz_rounds


def _parts(payload: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:  # noqa: ANN401
    inner = payload.items() if isinstance(payload, dict) else ()
    return [at, *(part for key, value in inner for part in _parts(value, (*at, key)))]


VALUES: tuple[Any, ...] = (None, -1, 2**80, 0.5, math.nan, True, "x", [], {}, (), [[1]], {0: {}}, torch.ones(2, 3))


def test_a_right_digest_over_any_payload(tmp_path: Path, fuzz_rounds: int) -> None:
    """Parts that are missing or of another kind never get further than the first use of the model."""
    own_model(tmp_path / "a.pt")
    rng, refused = random.Random(0), 0
    sound = checkpoint.load(tmp_path / "a.pt", "base-model")
    parts = _parts(sound)[1:]
    for _ in range(fuzz_rounds // 3):
        payload = copy.deepcopy(sound)
        *way, last = rng.choice(parts)
        held = payload
        for key in way:
            held = held[key]
        if rng.random() < 0.3:
            del held[last]
        else:
            held[last] = rng.choice(VALUES)
        checkpoint.save(tmp_path / "b.pt", "base-model", payload)
        refused += isinstance(refusal(lambda: BaseModel.load(tmp_path / "b.pt").build(tmp_path / "b.pt", CPU)), str)
    assert refused > 0.1 * fuzz_rounds


def test_pickles_of_others(tmp_path: Path, fuzz_rounds: int) -> None:
    released(tmp_path / "a.pth")
    for damaged in damages((tmp_path / "a.pth").read_bytes(), fuzz_rounds, 22):
        (tmp_path / "a.p").write_bytes(damaged)
        with refuses("a.p"):
            read_pickle(tmp_path / "a.p")
