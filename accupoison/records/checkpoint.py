"""Files that survive a crash: written whole or not at all, checked when read, never a pickle that runs."""

import hashlib
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from accupoison.errors import InputError
from accupoison.records.files import write_atomically
from accupoison.records.foreign import Foreign, damaged, foreign, read_torch

FORMAT = "accupoison"
SCHEMA = 1


def save(path: Path, kind: str, payload: Mapping[str, Any]) -> None:
    """Write ``payload`` to ``path`` so that the file is either the old one or the complete new one.

    Args:
        path: The file; missing parent directories are made.
        kind: What it holds ("run-state"), asked for again by :func:`load`.
        payload: Nested dict (keys str or int), list and tuple of Tensor, int, float, str, bool and None.

    Raises:
        InputError: The file cannot be written.
        TypeError: ``payload`` holds something else.
    """
    plain = _plain(payload, "payload")
    record = {"format": FORMAT, "schema": SCHEMA, "kind": kind, "digest": _digest(plain), "payload": plain}
    write_atomically(path, lambda file: torch.save(record, file))


def load(path: Path, kind: str) -> dict[str, Any]:
    """Return the payload that :func:`save` wrote, with all tensors on the CPU.

    Raises:
        InputError: The file is missing, damaged, foreign, of another kind, or of a newer version of accupoison.
    """
    return _checked(path, read_torch(path), kind)


def load_any(path: Path, kind: str) -> dict[str, Any] | Foreign:
    """Return what :func:`load` would, or the weights in a file of another program; the file is read once.

    Raises:
        InputError: The file cannot be used as either.
    """
    raw = read_torch(path)
    if isinstance(raw, Mapping) and raw.get("format") == FORMAT:
        return _checked(path, raw, kind)
    return foreign(path, raw)


@contextmanager
def reading_payload(path: Path) -> Iterator[None]:
    """Within this context, where a payload is taken apart, a part that is missing or of another type is a damage."""
    try:
        yield
    except InputError:
        raise
    except (LookupError, TypeError, ValueError, RuntimeError, AttributeError, AssertionError) as error:
        raise damaged(path) from error


def _checked(path: Path, raw: object, kind: str) -> dict[str, Any]:
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        raise InputError(f"{path} is not a checkpoint of accupoison; give a file that accupoison wrote")
    schema, stored_kind, payload = raw.get("schema"), raw.get("kind"), raw.get("payload")
    if isinstance(schema, int) and schema > SCHEMA:
        raise InputError(f"{path} has format {schema}, newer than the {SCHEMA} known here; upgrade accupoison")
    try:
        intact = schema == SCHEMA and isinstance(payload, dict) and _digest(payload) == raw.get("digest")
    except Exception as error:  # a flipped bit can make any object of any part, such as an unprintable string
        raise damaged(path) from error
    if not intact:
        raise damaged(path)
    if stored_kind != kind:
        raise InputError(f"{path} holds a {stored_kind} where a {kind} is needed; give the path of a {kind} file")
    return dict(raw["payload"])


def _plain(value: object, where: str) -> object:
    """Return ``value`` with tensors alone in their storage on the CPU, and containers as plain ones."""
    if isinstance(value, Tensor):
        if value.layout is not torch.strided or value.is_quantized:
            raise TypeError(f"{where} is a sparse or quantised tensor; a checkpoint holds dense ones only")
        # torch.save writes whole storages, so a slice would drag its parent along, and shared ones stay shared
        return value.detach().cpu().clone(memory_format=torch.contiguous_format)
    if isinstance(value, Mapping):
        if wrong := [key for key in value if type(key) not in (str, int)]:
            raise TypeError(f"{where} has the key {wrong[0]!r}, neither str nor int")
        return {_plain(key, where): _plain(item, f"{where}[{key!r}]") for key, item in value.items()}
    if type(value) in (list, tuple):
        items = [_plain(item, f"{where}[{i}]") for i, item in enumerate(value)]  # type: ignore[var-annotated, arg-type]
        return items if type(value) is list else tuple(items)
    if type(value) is str:
        return sys.intern(value)  # a pickle tells equal strings from identical ones, and equal payloads shall be equal
    if value is None or type(value) in (int, float, bool):
        return value
    raise TypeError(f"{where} is a {type(value).__name__}; a checkpoint holds tensors, numbers, strings and None only")


def _digest(payload: object) -> str:
    """Return the SHA-256 of names, types, shapes and bytes, in the order they are stored."""
    digest = hashlib.sha256()
    _feed(digest.update, payload)
    return digest.hexdigest()


def _feed(add: Callable[[Any], None], value: object) -> None:
    """Add ``value`` to a hash, each part preceded by its type and length, so that no two payloads look alike."""
    if isinstance(value, Tensor):
        add(f"tensor {value.dtype} {list(value.shape)};".encode())
        add(value.contiguous().reshape(-1).view(torch.uint8).numpy())
    elif isinstance(value, dict):
        add(f"dict {len(value)};".encode())
        for key, item in value.items():
            _feed(add, key)
            _feed(add, item)
    elif isinstance(value, list | tuple):
        add(f"{type(value).__name__} {len(value)};".encode())
        for item in value:
            _feed(add, item)
    else:
        text = repr(value).encode("utf-8", "surrogatepass")
        add(f"{type(value).__name__} {len(text)};".encode() + text)
