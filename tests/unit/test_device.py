"""Which device "auto" takes, how it says that it computes, and how many processes it has room for."""

import os
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from accupoison import device
from accupoison.device import resolve_device, room_for_processes
from accupoison.errors import InputError
from accupoison.runs import workers
from tests import conftest
from tests.e2e.conftest import ENVIRONMENT
from tests.messages import says


def test_the_variable_decides_what_auto_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for named, taken in {"cpu": "cpu", "cuda:1": "cuda:1", "auto": "cuda", "": "cuda"}.items():
        monkeypatch.setenv("ACCUPOISON_DEVICE", named)
        assert resolve_device("auto") == torch.device(taken)
    monkeypatch.setenv("ACCUPOISON_DEVICE", "cpu")
    assert resolve_device("cuda:1") == torch.device("cuda:1")  # who names one gets it
    monkeypatch.delenv("ACCUPOISON_DEVICE")
    assert resolve_device("auto") == torch.device("cuda")


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ("cdua", "device 'cdua'"),
        ("cuda:7", "device 'cuda:7' machine"),
    ],
)
def test_a_variable_that_names_no_device(named: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCUPOISON_DEVICE", named)
    with pytest.raises(InputError) as caught:
        resolve_device("auto")
    assert str(caught.value).startswith("the environment variable ACCUPOISON_DEVICE cannot be used: ")
    says(caught.value, words)


def test_the_suite_and_its_children_run_on_the_cpu() -> None:
    for environment in (os.environ, ENVIRONMENT):
        assert environment["ACCUPOISON_DEVICE"] == "cpu"
        assert environment["CUDA_VISIBLE_DEVICES"] == ""
    assert resolve_device("auto") == torch.device("cpu")


@pytest.mark.parametrize(("marks", "hidden"), [("", True), ("cuda", False), ("not cuda", True), ("slow", True)])
def test_only_who_asks_for_a_gpu_sees_one(marks: str, hidden: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ACCUPOISON_DEVICE", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.setenv(name, "kept")
    conftest.pytest_configure(SimpleNamespace(getoption=lambda _: marks))  # type: ignore[arg-type]
    assert os.environ["ACCUPOISON_DEVICE"] == "cpu"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ("" if hidden else "kept")


def test_as_many_processes_as_a_gpu_has_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    gigabyte = 10**9
    held = {0: 0, 1: 0}

    def memory(number: int) -> tuple[int, int]:
        return ((1, 16)[number] * gigabyte - held[number], 16 * gigabyte)

    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", held.get)
    monkeypatch.setattr(torch.cuda, "memory_reserved", held.get)
    monkeypatch.setattr(torch.cuda, "mem_get_info", memory)
    assert room_for_processes() == 1  # nothing was computed there
    rooms = {}
    for taken in (1, 3, 8):
        held[1] = taken * gigabyte
        rooms[taken] = room_for_processes()
    assert rooms == {1: 3, 3: 2, 8: 1}  # of 17 GB with what this process gives back, 5, 7 and 17 each
    monkeypatch.setattr(torch.cuda, "mem_get_info", memory_of_a_broken_gpu)
    assert room_for_processes() == 1


def memory_of_a_broken_gpu(number: int) -> tuple[int, int]:
    raise RuntimeError("CUDA error: unspecified launch failure")


@pytest.mark.parametrize(("room", "given"), [(3, [(1, 1), (3, 3)]), (1, [(1, 1)])])
def test_a_first_task_shows_how_many_fit(
    room: int, given: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []

    def side_by_side(waiting: deque[tuple[int, workers.Task]], jobs: int, *_: object) -> Iterator[workers.Outcome]:
        asked.append((len(waiting), jobs))
        while waiting:
            yield replace(workers.attempt(*waiting.popleft()), room=room)

    monkeypatch.setattr(workers, "_side_by_side", side_by_side)
    tasks: list[workers.Task] = [(str, (number,)) for number in range(4)]
    for available, expected in ((False, []), (True, given)):
        asked.clear()
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=available: there)
        assert [outcome.name for outcome in workers.carry_out(tasks, None)] == ["0", "1", "2", "3"]
        assert asked == expected


def test_a_run_says_how_a_gpu_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "resolve_device", lambda _: torch.device("cuda:0"))
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    try:
        for precision, tf32 in {"ieee": False, "tf32": True, "bf16": False, "auto": True}.items():
            cuda = device.compute_on("cuda", precision, deterministic=precision == "ieee", graphs=precision != "ieee")
            assert torch.backends.cudnn.allow_tf32 is torch.backends.cuda.matmul.allow_tf32 is tf32
            for capability, there in (((8, 0), "tf32"), ((7, 5), "ieee")):
                monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, has=capability: has)
                assert device.arithmetic(cuda) == (there if tf32 else precision)
            assert torch.are_deterministic_algorithms_enabled() is torch.backends.cudnn.deterministic
            assert torch.are_deterministic_algorithms_enabled() is (precision == "ieee")
            assert device.records(cuda) is (precision != "ieee")
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before
        monkeypatch.undo()
        device.compute_on("cpu")
    assert not torch.are_deterministic_algorithms_enabled()
