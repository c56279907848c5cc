"""Pickles of strangers: plain containers, numbers, arrays and tensors come out of them, and nothing is executed."""

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from accupoison.errors import InputError

NUMPY = ("numpy.core.multiarray", "numpy._core.multiarray")
HARMLESS = {
    ("collections", "OrderedDict"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch", "Size"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("_codecs", "encode"),  # how old pickles spell the bytes of an array
    *((module, name) for module in NUMPY for name in ("_reconstruct", "scalar")),
    *((module, "_frombuffer") for module in ("numpy.core.numeric", "numpy._core.numeric")),
}
"""What may be looked up: it builds arrays and tensors from bytes and does nothing else."""


class _Reader(pickle._Unpickler):  # the one in Python, which lets a subclass see what it builds
    """An unpickler that knows arrays and tensors alone."""

    stack: list[Any]
    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(pickle._Unpickler.dispatch)

    def load_build(self) -> None:
        """Give an object its state; numpy believes a data type that says of pointers that they are numbers."""
        state, built = self.stack[-1], self.stack[-2]
        if isinstance(built, np.dtype) and state != built.newbyteorder(state[1]).__reduce__()[2]:
            raise ValueError("a data type that is none")
        super().load_build()  # type: ignore[misc]

    dispatch[pickle.BUILD[0]] = load_build

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401
        if (module, name) == ("torch.storage", "_load_from_bytes"):
            return _storage  # torch's own would unpickle anything
        if (module, name) in HARMLESS:
            return super().find_class(module, name)
        raise _RefusedError(f"{module}.{name}")


class _RefusedError(Exception):
    """The pickle asks for something that is not harmless."""


def _storage(content: bytes) -> object:
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def read_pickle(path: Path) -> object:
    """Return what a pickle holds: lists, tuples, dicts, numbers, strings, arrays and tensors.

    Raises:
        InputError: The file is missing, damaged, or asks for anything else, which the message names.
    """
    try:
        with path.open("rb") as file:
            return _Reader(file).load()
    except FileNotFoundError:
        raise InputError(f"there is no file {path}; check the path") from None
    except _RefusedError as error:
        raise InputError(
            f"{path} asks for {error}, which could do anything; only arrays, tensors, numbers and lists are read"
        ) from error
    except Exception as error:  # a damaged pickle can raise anything
        raise InputError(f"{path} cannot be read ({type(error).__name__}); get the file again") from error
