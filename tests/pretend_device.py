"""A device that is not there, for what must hold on a GPU and can be checked without one.

Its tensors say that they are on the device ``pretended`` and compute on the CPU, so that results are those of a CPU bit
for bit. What CUDA refuses is refused: operations of tensors there with others on the CPU (but for scalars), and NumPy.
What makes the host wait for a GPU is counted, and refused while a graph is recorded, as are copies from the CPU.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

from accupoison import device
from accupoison.accel import recording
from accupoison.defenses import dsc
from accupoison.models import view

try:
    from torch.utils.backend_registration import _setup_privateuseone_for_python_backend
except ImportError:
    pytest.skip("this PyTorch has no devices in Python", allow_module_level=True)

NAME = "pretended"
COPIES = ("aten::_to_copy", "aten::copy_")
WAITS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::masked_select")
"""What needs a number of the device before the host can go on."""


class _Module:
    """What PyTorch asks of a kind of device: it is there within :func:`pretended` alone."""

    there = False

    def is_available(self) -> bool:
        return self.there

    def device_count(self) -> int:
        return int(self.there)

    def is_initialized(self) -> bool:
        return self.there

    def current_device(self) -> int:
        return 0

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        """Do nothing: what is drawn is drawn on the CPU."""


MODULE = _Module()
_setup_privateuseone_for_python_backend(NAME, MODULE)  # here: autograd counts devices once, before the first test


class _There(Tensor):
    """A tensor that says it is on the device."""

    held: Tensor

    @staticmethod
    def of(held: Tensor) -> "_There":
        """Return a tensor on the device with the contents of one on the CPU, [*]."""
        settings: Any = {"dtype": held.dtype, "device": torch.device(NAME, 0), "strides": held.stride()}
        offset = held.storage_offset()
        made: Any = torch.Tensor._make_wrapper_subclass(_There, held.shape, storage_offset=offset, **settings)
        made.held = held
        return made  # type: ignore[no-any-return]

    def tolist(self) -> Any:  # noqa: ANN401
        """Return the numbers, for which the host waits once."""
        return self.cpu().tolist()

    def numpy(self, *, force: bool = False) -> Any:  # noqa: ANN401
        """Refuse, as CUDA does, unless it is by force."""
        if force:
            return self.detach().cpu().numpy()
        raise TypeError(f"can't convert {NAME} device type tensor to numpy")

    @classmethod
    def __torch_dispatch__(cls, func: Any, *_: Any) -> Any:  # noqa: ANN401
        raise AssertionError(f"{func} outside of the pretended device")


class Pretended(TorchDispatchMode):
    """What computes there.

    Attributes:
        waits: How often the host has waited, by operation.
        recording: The graph that is being recorded.
    """

    now: ClassVar["Pretended"]

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.waits: Counter[str] = Counter()
        self.recording: PretendedGraph | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        name, kwargs = func._schema.name, dict(kwargs or {})
        tensors = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Tensor)]
        there = [isinstance(tensor, _There) for tensor in tensors]
        asked = kwargs.get("device")
        to = any(there) if asked is None else torch.device(asked).type == NAME
        if asked is not None:
            kwargs["device"] = torch.device("cpu")
        copied = name in COPIES
        if name == "aten::copy_":
            to = there[0]
        indexed = name.startswith(("aten::index", "aten::_index"))
        taken = [t.ndim == 0 or indexed for t in tensors]
        if any(there) and not all(there) and not copied and not all(map(max, there, taken)):
            raise RuntimeError(f"{name}: tensors on the device and on the CPU, {[tuple(t.shape) for t in tensors]}")
        crosses = copied and any([to, *there]) and not all([to, *there])  # either way, as memory is not pinned
        if waits := crosses or (any(there) and (name in WAITS or (indexed and not all(there)))):
            self.waits[name] += 1
        if self.recording is not None and waits:
            raise RuntimeError(f"{name}: operation not permitted when stream is capturing")
        plain_args, plain_kwargs = tree_map_only(_There, lambda t: t.held, (args, kwargs))
        if self.recording is not None and to:
            out = self.recording.record(func, plain_args, plain_kwargs)
        else:
            out = func(*plain_args, **plain_kwargs)
        same = {id(t.held): t for t in tensors if isinstance(t, _There)}
        return tree_map_only(Tensor, lambda t: same[id(t)] if id(t) in same else _There.of(t), out) if to else out


class PretendedGraph:
    """In the place of :class:`~accupoison.accel.recording.CudaGraph`: as there, inputs and outputs have fixed places.

    While it records, what is written in place is put back in the end, as nothing is carried out on CUDA.

    Args:
        function: The function.
        inputs: What it is first called with, [*].
    """

    made: ClassVar[list[str]] = []

    def __init__(self, function: Callable[..., tuple[Tensor, ...]], inputs: tuple[Tensor, ...]) -> None:
        self._steps: list[tuple[Any, Any, Any, list[tuple[int, Tensor]]]] = []
        self._before: dict[int, tuple[Tensor, Tensor]] = {}
        self._inputs = tuple(tensor.detach().clone() for tensor in inputs)
        Pretended.now.recording = self
        try:
            self._outputs = function(*self._inputs)
        finally:
            Pretended.now.recording = None
            for written, contents in self._before.values():
                written.copy_(contents)
        self.made.append(getattr(function, "__name__", ""))

    def record(self, func: Any, args: Any, kwargs: Any) -> Any:  # noqa: ANN401
        """Carry an operation out on the CPU and keep it."""
        tensors = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Tensor)]
        given = {**dict(zip((a.name for a in func._schema.arguments), args, strict=False)), **kwargs}
        writes = [given.get(a.name) for a in func._schema.arguments if a.alias_info and a.alias_info.is_write]
        writes += [given.get(name) for name in ("running_mean", "running_var")]  # which its schema does not say
        for tensor in tree_flatten(writes)[0]:
            if isinstance(tensor, Tensor):
                self._before.setdefault(id(tensor), (tensor, tensor.clone()))
        out = func(*args, **kwargs)
        known = {tensor.untyped_storage().data_ptr() for tensor in tensors}
        results = [(n, t) for n, t in enumerate(tree_flatten(out)[0]) if isinstance(t, Tensor)]
        fresh = [(n, t) for n, t in results if t.untyped_storage().data_ptr() not in known]  # others are views
        self._steps.append((func, args, kwargs, fresh))
        return out

    def __call__(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return what the function returns of other inputs, [*]."""
        for place, given in zip(self._inputs, inputs, strict=True):
            place.copy_(given)
        with torch.no_grad():
            for func, args, kwargs, fresh in self._steps:
                results = tree_flatten(func(*args, **kwargs))[0]
                for number, tensor in fresh:
                    tensor.copy_(results[number])
        return tuple(tensor.detach().clone() for tensor in self._outputs)


@contextmanager
def pretended() -> Iterator[Pretended]:
    """Have the device within the context."""
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=...) makes it here and moves it
    MODULE.there = True
    try:
        with Pretended() as mode:
            Pretended.now = mode
            yield mode
    finally:
        MODULE.there = False
        torch._C._set_only_lift_cpu_tensors(False)
        torch.__future__.set_overwrite_module_params_on_conversion(before)


def _waits(function: Callable[..., tuple[Tensor, ...]], inputs: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], bool]:
    before = Pretended.now.waits.total()
    return function(*inputs), Pretended.now.waits.total() > before


@contextmanager
def instead_of_cuda() -> Iterator[Pretended]:
    """Let runs compute there, and let what they would record as CUDA graphs be recorded there."""
    with pytest.MonkeyPatch.context() as patch, pretended() as mode:
        patch.setattr(device, "resolve_device", lambda _: torch.device(NAME))
        for place in (recording, view, dsc):
            patch.setattr(place, "records", lambda where: device._recording and where.type == NAME)
        patch.setattr(recording, "CudaGraph", PretendedGraph)
        patch.setattr(recording, "waits", _waits)
        patch.setattr(recording.Recorder, "broken", False)
        recording._say.cache_clear()
        PretendedGraph.made.clear()
        yield mode
