import argparse
import enum
import errno
import math
import os
import pickle
import resource
import zipfile
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from accupoison.audit.challenge.safe_pickle import read_pickle
from accupoison.errors import InputError
from accupoison.records import checkpoint
from accupoison.records.checkpoint import load, load_any, reading_payload, save
from accupoison.records.foreign import Foreign, load_weights, put_into, read_torch
from tests.messages import refuses

PAYLOAD: dict[str, Any] = {
    "weights": {"a": torch.arange(6.0).reshape(2, 3), "half": torch.ones(3, dtype=torch.bfloat16)},
    "scalar": torch.tensor(3, dtype=torch.int64),
    "empty": torch.zeros(0, 4),
    "mask": torch.tensor([True, False]),
    "optimiser": {0: {"momentum": None}, 1: {"momentum": torch.zeros(2)}},
    "mixed": [1, 2.5, True, None, "text \u00e9", (1, [2, ()]), 2**70, -0.0, math.inf],
}


def same(a: object, b: object) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, dict) and isinstance(b, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return repr(a) == repr(b)


@contextmanager
def disk_of(size: int) -> Iterator[None]:
    """No file of this process grows beyond ``size`` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_is_saved_comes_back_with_its_types(tmp_path: Path) -> None:
    path = tmp_path / "new" / "state.pt"
    save(path, "run-state", PAYLOAD)
    assert same(load(path, "run-state"), PAYLOAD)
    assert [p.name for p in path.parent.iterdir()] == ["state.pt"]


def test_the_same_payload_makes_the_same_bytes(tmp_path: Path) -> None:
    save(tmp_path / "a.pt", "k", PAYLOAD)
    save(tmp_path / "b.pt", "k", PAYLOAD)
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()


def test_tensors_are_stored_alone_detached_and_apart(tmp_path: Path) -> None:
    large = nn.Parameter(torch.randn(1000, 1000))
    save(tmp_path / "a.pt", "k", {"row": large[3], "column": large[:, 3], "w": large[:2, :2], "again": large[:2, :2]})
    assert (tmp_path / "a.pt").stat().st_size < 20_000
    back = load(tmp_path / "a.pt", "k")
    assert torch.equal(back["column"], large[:, 3].detach())
    assert back["column"].is_contiguous()
    assert not back["row"].requires_grad
    assert type(back["w"]) is Tensor
    back["w"].zero_()
    assert torch.equal(back["again"], large[:2, :2].detach())


def test_ordered_dicts_become_plain_ones(tmp_path: Path) -> None:
    save(tmp_path / "a.pt", "k", {"net": OrderedDict(w=torch.ones(1))})
    assert type(load(tmp_path / "a.pt", "k")["net"]) is dict


class Colour(enum.Enum):
    RED = "red"


@pytest.mark.parametrize(
    "value",
    [{1, 2}, b"bytes", np.float64(1), np.ones(1), Colour.RED, Path("x"), object(), torch.ones(2).to_sparse()],
    ids=lambda value: type(value).__name__,
)
def test_other_types_are_a_bug_and_leave_no_file(tmp_path: Path, value: object) -> None:
    with refuses("payload['deep'][0]", TypeError):
        save(tmp_path / "a.pt", "k", {"deep": [value]})
    assert list(tmp_path.iterdir()) == []


def test_other_keys_are_a_bug(tmp_path: Path) -> None:
    with refuses("key 1.5", TypeError):
        save(tmp_path / "a.pt", "k", {"deep": {1.5: 0}})


def test_flipped_bits_are_noticed_or_harmless(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    save(path, "k", PAYLOAD)
    whole = path.read_bytes()
    complaints = []
    for position in range(0, len(whole), 5):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x10]) + whole[position + 1 :])
        try:
            assert same(load(path, "k"), PAYLOAD), position  # padding and unused fields of the archive
        except InputError as error:
            complaints.append(str(error))
    assert len(complaints) > 100
    assert all(str(path) in text and "\n" not in text for text in complaints)


def test_a_flipped_bit_in_a_weight_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    save(path, "k", {"w": torch.full((1000,), 1.5)})
    whole = path.read_bytes()
    position = whole.index(b"\x00\x00\xc0\x3f" * 1000) + 2000
    path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
    with refuses("damaged"):
        load(path, "k")


def test_truncated_files_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    save(path, "k", PAYLOAD)
    whole = path.read_bytes()
    for size in [*range(0, len(whole), 97), len(whole) - 1]:
        path.write_bytes(whole[:size])
        with refuses("damaged"):
            load(path, "k")


def test_values_that_print_alike_have_different_digests() -> None:
    alike = [
        {"a": 1},
        {"a": "1"},
        {"a": 1.0},
        {"a": True},
        {"a": [1]},
        {"a": (1,)},
        {"a": torch.tensor(1)},
        {"a": None},
    ]
    alike += [{"a": torch.zeros(2, 3)}, {"a": torch.zeros(3, 2)}, {"a": torch.zeros(2, 3, dtype=torch.int32)}]
    alike += [{"a": {}, "b": {"c": 1}}, {"a": {"b": {"c": 1}}}, {"a": ["b", "c"]}, {"a": ["bc"]}]
    assert len({checkpoint._digest(value) for value in alike}) == len(alike)


def test_messages_name_the_file_and_the_fix(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    with refuses("file a.pt"):
        load(path, "k")
    with refuses("cannot read"):
        load(tmp_path, "k")
    save(path, "burn-in", PAYLOAD)
    with refuses("a.pt burn-in run-state"):
        load(path, "run-state")
    torch.save({"parameters": {"w": torch.ones(1)}}, path)
    with refuses("not checkpoint accupoison"):
        load(path, "k")
    with refuses("no state dict net state_dict"):
        load_any(path, "k")
    torch.save({"format": "accupoison", "schema": 2, "kind": "k", "new": 1}, path)
    with refuses("format 2 newer 1 known"):
        load(path, "k")


class Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("reader", [lambda p: load(p, "k"), load_weights, lambda p: load_any(p, "k")])
@pytest.mark.parametrize("kind", ["pickle", "torch zip", "torch legacy"])
def test_a_pickle_never_runs(tmp_path: Path, reader: Callable[[Path], object], kind: str) -> None:
    marker, path = tmp_path / "boom", tmp_path / "a.pt"
    record = {"format": "accupoison", "schema": 1, "kind": "k", "net": {"w": torch.ones(1)}, "payload": Bomb(marker)}
    if kind == "pickle":
        path.write_bytes(pickle.dumps(record))
    else:
        torch.save(record, path, _use_new_zipfile_serialization=kind == "torch zip")
    words = "not a readable checkpoint" if kind == "pickle" else "asks for posix.mkdir, which could do anything"
    with refuses(words):
        reader(path)
    assert not marker.exists()
    torch.load(path, weights_only=False) if kind != "pickle" else pickle.loads(path.read_bytes())
    assert marker.exists(), "the bomb is a dud, so the test shows nothing"


@pytest.mark.parametrize("size", [0, 100, 5_000, 400_000, 402_000])
def test_a_full_disk_leaves_the_old_file(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.pt"
    save(path, "k", PAYLOAD)
    with disk_of(size), refuses("a.pt File too large"):
        save(path, "k", {"w": torch.randn(100_000), "b": torch.randn(1000)})
    assert same(load(path, "k"), PAYLOAD)
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failure_at_the_end_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    path = tmp_path / "a.pt"
    save(path, "k", PAYLOAD)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(*((os, "fsync") if step == "fsync" else (Path, "replace")), full)  # type: ignore[call-overload]
    with refuses("No space left on device"):
        save(path, "k", {"other": 1})
    assert same(load(path, "k"), PAYLOAD)
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"]


def test_an_interrupt_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.pt"
    save(path, "k", PAYLOAD)

    def interrupted(record: object, file: IO[bytes]) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(path, "k", {"other": 1})
    assert same(load(path, "k"), PAYLOAD)
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"]


def test_everything_is_on_the_disk_before_the_name_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        events.append("directory" if os.fstat(descriptor).st_mode & 0o040000 else "file")
        fsync(descriptor)

    def renamed(self: Path, target: Path) -> Path:
        events.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    save(tmp_path / "a.pt", "k", PAYLOAD)
    assert events == ["file", "rename", "directory"]


def test_a_file_where_a_directory_should_be(tmp_path: Path) -> None:
    (tmp_path / "occupied").write_text("")
    with refuses("cannot write"):
        save(tmp_path / "occupied" / "a.pt", "k", PAYLOAD)


@pytest.mark.parametrize("zipped", [True, False])
def test_the_released_layout(tmp_path: Path, zipped: bool) -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.randn(4, 3)).sum().backward()
    optimiser.step()
    net = {f"module.{name}": value for name, value in model.state_dict().items()}
    args = argparse.Namespace(lr=0.1, resume=None, flags=["a"])
    record = {"net": net, "optimizer": optimiser.state_dict(), "args": args, "epoch": 40}
    torch.save(record, tmp_path / "epoch40.pth", _use_new_zipfile_serialization=zipped)
    weights = load_weights(tmp_path / "epoch40.pth")
    assert same(weights, dict(model.state_dict()))
    found = load_any(tmp_path / "epoch40.pth", "burn-in")
    assert isinstance(found, Foreign)
    assert same(found.weights, weights)
    with pytest.raises(InputError):
        load(tmp_path / "epoch40.pth", "burn-in")


def test_either_layout_is_told_apart(tmp_path: Path) -> None:
    save(tmp_path / "ours.pt", "burn-in", {"net": {"w": torch.ones(2)}})
    assert same(load_any(tmp_path / "ours.pt", "burn-in"), {"net": {"w": torch.ones(2)}})


def test_a_torchscript_archive_is_refused_without_a_warning(tmp_path: Path) -> None:
    archive = tmp_path / "script.pt"
    save(archive, "k", PAYLOAD)
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr("a/constants.pkl", pickle.dumps(()))
    with refuses("script.pt"):
        load(archive, "k")


@pytest.mark.parametrize("step", [1, 7])
def test_a_damage_of_a_foreign_archive_is_noticed(tmp_path: Path, step: int) -> None:
    path = tmp_path / "a.pth"
    torch.save({"net": {"module.w": torch.full((1000,), 1.5)}}, path)
    whole = path.read_bytes()
    assert load_weights(path)["w"].tolist() == [1.5] * 1000
    start = whole.index(b"\x00\x00\xc0\x3f" * 1000)
    for position in (start, start + 2003, start + 3999):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ step]) + whole[position + 1 :])
        with refuses("damaged"):
            load_weights(path)
    path.write_bytes(whole[: start + 512] + bytes(512) + whole[start + 1024 :])
    with refuses("damaged"):
        load_weights(path)


class Mine:
    pass


@pytest.mark.parametrize("value", [Mine(), nn.Linear(1, 1), Colour.RED], ids=["object", "network", "enum"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_whole_file_is_not_called_damaged(tmp_path: Path, value: object, zipped: bool) -> None:
    torch.save({"net": {"w": torch.ones(1)}, "extra": value}, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    with refuses(f"a.pth {type(value).__module__}.{type(value).__name__} save weights"):
        load_weights(tmp_path / "a.pth")


def test_containers_numbers_and_arrays_are_read(tmp_path: Path) -> None:
    extra = {
        "scalars": [np.float64(1.5), np.float32(2), np.int64(3), np.bool_(True)],
        "arrays": [np.arange(3), np.array(["a"]), np.zeros((2, 2), np.float16)],
        "containers": [defaultdict(list), Counter("aab"), frozenset("a"), OrderedDict(a=1), {1, 2}, torch.Size([2])],
        "args": argparse.Namespace(lr=0.1),
    }
    torch.save({"net": {"w": torch.ones(1)}, **extra}, tmp_path / "a.pth")
    assert load_weights(tmp_path / "a.pth")["w"].tolist() == [1.0]
    found = read_torch(tmp_path / "a.pth")
    assert isinstance(found, dict)
    assert not any(isinstance(value, np.generic | np.ndarray) for value in (*found["scalars"], *found["arrays"]))


def forged(module: str, protocol: int) -> bytes:
    """Return a pickle of a NumPy scalar whose data type says of eight bytes that they are a pointer, and then not."""

    def word(text: str) -> bytes:
        return b"X" + len(text).to_bytes(4, "little") + text.encode()

    kind = (
        b"cnumpy\ndtype\n("
        + word("O8")
        + b"\x89\x88tR(K\x03"
        + word("|")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    content = b"c_codecs\nencode\n(" + word("AAAAAAAA") + word("latin1") + b"tR"
    return b"\x80" + bytes([protocol]) + b"c" + module.encode() + b"\nscalar\n(" + kind + content + b"tR."


@pytest.mark.parametrize("module", ["numpy._core.multiarray", "numpy.core.multiarray"])
def test_arrays_that_lie_about_pointers_do_no_harm(module: str, tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", forged(module, 2))
        archive.writestr("a/version", "3\n")
        archive.writestr("a/byteorder", "little")
    with refuses("holds no state dict"):
        load_weights(path)
    (tmp_path / "a.pkl").write_bytes(forged(module, 2))
    with refuses("cannot be read"):
        read_pickle(tmp_path / "a.pkl")


def test_a_state_dict_with_a_tensor_under_two_names(tmp_path: Path) -> None:
    net = nn.Linear(3, 2)
    weights = {name: value.clone() for name, value in net.state_dict().items()}
    doubled = {**weights, **{f"module.{name}": value * 0 for name, value in weights.items()}}
    assert put_into(net, doubled) == "two of its tensors have the same name but for a prefix"
    assert all(torch.equal(value, weights[name]) for name, value in net.state_dict().items())
    assert put_into(net, {f"module._orig_mod.{name}": value for name, value in weights.items()}) is None
    assert put_into(net, {f"model.{name}": value for name, value in weights.items()}) is None


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.eye(2).to_sparse(),
        lambda: torch.eye(2).to_sparse_csr(),
        lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
        lambda: torch.ones(2, dtype=torch.complex64),
        lambda: torch.ones(2, device="meta"),
    ],
    ids=["sparse", "csr", "quantised", "complex", "meta"],
)
def test_tensors_that_no_network_has(tmp_path: Path, make: Callable[[], Tensor]) -> None:
    torch.save({"a": torch.ones(1), "odd.weight": make()}, tmp_path / "a.pth")
    with refuses("a.pth odd.weight ordinary tensors"):
        load_weights(tmp_path / "a.pth")


@pytest.mark.parametrize(
    "error", [KeyError("a"), IndexError(), TypeError(), ValueError(), RuntimeError(), AttributeError()]
)
def test_a_payload_that_cannot_be_taken_apart_is_damaged(error: Exception) -> None:
    with refuses("a.pt readable"), reading_payload(Path("a.pt")):
        raise error
    with refuses("other words"), reading_payload(Path("a.pt")):
        raise InputError("other words")
