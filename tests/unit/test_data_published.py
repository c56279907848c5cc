"""CIFAR-10 through torchvision, against a server on this machine that serves a tiny archive."""

import hashlib
import io
import pickle
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10

from accupoison.data import STATS, DataSet, load
from accupoison.errors import InputError
from tests.messages import refuses, says

NAMES = [f"class{i}" for i in range(10)]


@dataclass
class Upstream:
    """A fake publisher: its archive, what the archive holds, and the requests it got."""

    archive: bytes
    x: "np.ndarray[Any, Any]"
    y: list[int]
    url: str = ""
    requests: list[str] = field(default_factory=list)


def _old_pickle(value: object) -> bytes:
    """Return a pickle as the published files have it: module names and integer flags of an old numpy."""
    text = pickle.dumps(value, protocol=2)
    return text.replace(b"numpy._core.multiarray", b"numpy.core.multiarray").replace(b"\x89\x88\x87", b"K\x00K\x01\x87")


def _upstream(monkeypatch: pytest.MonkeyPatch) -> Upstream:
    x = np.random.default_rng(0).integers(0, 256, (12, 3, 32, 32), dtype=np.uint8)
    y = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    halves = {"data_batch_1": slice(0, 5), "data_batch_2": slice(5, 9), "test_batch": slice(9, 12)}
    files = {n: _old_pickle({"data": x[s].reshape(-1, 3072), "labels": y[s]}) for n, s in halves.items()}
    files["batches.meta"] = _old_pickle({"label_names": NAMES})
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    md5 = {name: hashlib.md5(content).hexdigest() for name, content in files.items()}
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(buffer.getvalue()).hexdigest())
    monkeypatch.setattr(CIFAR10, "train_list", [[n, md5[n]] for n in ("data_batch_1", "data_batch_2")])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", md5["test_batch"]]])
    meta = {"filename": "batches.meta", "key": "label_names", "md5": md5["batches.meta"]}
    monkeypatch.setattr(CIFAR10, "meta", meta)
    return Upstream(buffer.getvalue(), x, y)


@pytest.fixture
def upstream(monkeypatch: pytest.MonkeyPatch) -> Iterator[Upstream]:
    made = _upstream(monkeypatch)

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()
            if made.archive:
                self.wfile.write(made.archive)

        def _answer(self) -> None:
            made.requests.append(self.command)
            self.send_response(200 if made.archive else 404)
            self.send_header("Content-Length", str(len(made.archive)))
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        made.url = f"http://127.0.0.1:{server.server_port}/cifar-10-python.tar.gz"
        monkeypatch.setattr(CIFAR10, "url", made.url)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield made
        server.shutdown()
        thread.join()


def check(data: DataSet, upstream: Upstream) -> None:
    assert np.array_equal(data.train_x.numpy(), upstream.x[:9])
    assert np.array_equal(data.test_x.numpy(), upstream.x[9:])
    assert data.train_y.tolist() + data.test_y.tolist() == upstream.y
    assert data.train_y.dtype == data.test_y.dtype == torch.int64
    assert (data.name, data.classes, data.flip, data.stats) == ("cifar10", tuple(NAMES), True, STATS["cifar10"])
    assert data.train_x.is_contiguous()


def refusal(root: Path, *, offline: bool = False) -> str:
    with pytest.raises(InputError) as caught:
        load("cifar10", data_dir=root, offline=offline)
    message = str(caught.value)
    assert "\n" not in message
    assert str(root) in message
    for word in ("cifar-10-python.tar.gz", "cifar-10-batches-py", "cifar10.npz", "data.dir", "ACCUPOISON_DATA"):
        assert word in message
    return message


def test_downloads_once(tmp_path: Path, upstream: Upstream) -> None:
    check(load("cifar10", data_dir=tmp_path), upstream)
    assert "GET" in upstream.requests
    upstream.requests.clear()
    check(load("cifar10", data_dir=tmp_path), upstream)
    check(load("cifar10", data_dir=tmp_path, offline=True), upstream)
    assert upstream.requests == []


def test_downloads_to_the_directory_of_the_environment(
    tmp_path: Path, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCUPOISON_DATA", str(tmp_path))
    check(load("cifar10"), upstream)
    assert (tmp_path / "cifar-10-batches-py" / "test_batch").exists()


def test_downloads_to_data_by_default(tmp_path: Path, upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ACCUPOISON_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    check(load("cifar10"), upstream)
    assert (tmp_path / "data" / "cifar-10-batches-py" / "test_batch").exists()


def test_archive_in_place_is_unpacked_offline(tmp_path: Path, upstream: Upstream) -> None:
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(upstream.archive)
    check(load("cifar10", data_dir=tmp_path, offline=True), upstream)
    assert upstream.requests == []


def test_offline_with_nothing_there_asks_nobody(tmp_path: Path, upstream: Upstream) -> None:
    says(refusal(tmp_path, offline=True), "absent or damaged downloads off")
    assert upstream.requests == []
    assert list(tmp_path.iterdir()) == []


def test_damaged_files(tmp_path: Path, upstream: Upstream) -> None:
    load("cifar10", data_dir=tmp_path)
    (tmp_path / "cifar-10-python.tar.gz").unlink()
    batch = tmp_path / "cifar-10-batches-py" / "data_batch_2"
    batch.write_bytes(batch.read_bytes()[:-1])
    says(refusal(tmp_path, offline=True), "absent or damaged downloads off")
    check(load("cifar10", data_dir=tmp_path), upstream)  # with the network it is fetched again


def test_server_without_the_file(tmp_path: Path, upstream: Upstream) -> None:
    upstream.archive = b""
    says(refusal(tmp_path), "downloaded (HTTP Error 404: Not Found)")


def test_server_with_another_file(tmp_path: Path, upstream: Upstream) -> None:
    upstream.archive = upstream.archive[:-100]
    says(refusal(tmp_path), "downloaded (File not found or corrupted)")


def test_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _upstream(monkeypatch)
    monkeypatch.setattr(CIFAR10, "url", "http://127.0.0.1:1/cifar-10-python.tar.gz")
    says(refusal(tmp_path), "downloaded (Connection refused)")


def _npz(path: Path, side: int, classes: list[str]) -> "np.ndarray[Any, Any]":
    x = np.random.default_rng(1).integers(0, 256, (10, side, side, 3), dtype=np.uint8)
    y = np.arange(10) % len(classes)
    np.savez(path, train_x=x[:8], train_y=y[:8], test_x=x[8:], test_y=y[8:], classes=np.array(classes))
    return x


def test_npz_comes_first(tmp_path: Path, upstream: Upstream) -> None:
    x = _npz(tmp_path / "cifar10.npz", 32, NAMES)
    data = load("cifar10", data_dir=tmp_path)
    assert np.array_equal(data.train_x.permute(0, 2, 3, 1).numpy(), x[:8])
    assert (data.name, data.classes, data.stats) == ("cifar10", tuple(NAMES), STATS["cifar10"])
    assert upstream.requests == []


@pytest.mark.parametrize(("side", "classes"), [(28, NAMES), (32, NAMES[:4])])
def test_npz_of_something_else_is_refused(tmp_path: Path, side: int, classes: list[str]) -> None:
    _npz(tmp_path / "cifar10.npz", side, classes)
    with refuses("CIFAR-10 10 [3, 32, 32] npz:"):
        load("cifar10", data_dir=tmp_path)
