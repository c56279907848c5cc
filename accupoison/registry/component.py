"""What a registry of components holds: dataclasses whose init fields are their settings."""

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Self, SupportsIndex, TypeVar

from torch import Tensor

from accupoison.types import Saved, State

C = TypeVar("C", bound="Component")


@dataclass(kw_only=True)
class Component:
    """Something that a configuration names: an attack, a defence, an update rule.

    A subclass is a dataclass. Its init fields are its settings: they are what the configuration holds, and nothing can
    change them once it is built. Fields with ``field(init=False)`` are its state: those that hold tensors, numbers or
    strings are saved and restored with the run. A run works with :meth:`fresh` ones, so the configuration's own never
    has any state.

    Attributes:
        name: The canonical name under which the class is registered, or "". Of a class that is named by its path and
            registers no name, that of the class.
        path: The path that the class itself, not one it derives from, was named by.
    """

    name: ClassVar[str] = ""
    path: ClassVar[str] = ""

    def __setattr__(self, key: str, value: Any) -> None:  # noqa: ANN401
        """Set a field; a setting only once."""
        if key in vars(self) and (f := self.__dataclass_fields__.get(key)) is not None and f.init:
            raise AttributeError(
                f"{type(self).__name__}.{key} is a setting and stays as it was given; keep what changes in a "
                "field(init=False)"
            )
        super().__setattr__(key, value)

    def __reduce_ex__(self, protocol: SupportsIndex) -> str | tuple[Any, ...]:
        """Let another process know the class as this one does: by its path."""
        cls = type(self)
        known = (cls, vars(cls)["name"], cls.path, dict(vars(self))) if "path" in vars(cls) else None
        return super().__reduce_ex__(protocol) if known is None else (_brought, known)

    @property
    def spelling(self) -> str:
        """What a configuration calls it, so that any process finds it: its path, if it was named by that."""
        return vars(type(self)).get("path") or self.name

    @property
    def settings(self) -> dict[str, Any]:
        """The settings by name."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.init}

    def fresh(self) -> Self:
        """Return a new one with the same settings and no state."""
        return dataclasses.replace(self)

    def state(self) -> State:
        """Return copies of what must be saved to go on later.

        None counts: a component put back to a state from before a field was filled must not keep what filled it since.
        """
        names = [f.name for f in dataclasses.fields(self) if not f.init and hasattr(self, f.name)]
        values = {name: getattr(self, name) for name in names}
        return {
            name: _copied(v) for name, v in values.items() if v is None or isinstance(v, Tensor | int | float | str)
        }

    def set_state(self, state: State) -> None:
        """Put back what :meth:`state` returned; it stays good for another time."""
        for name, value in state.items():
            setattr(self, name, _copied(value))


def _copied(value: Saved) -> Saved:
    return value.detach().clone() if isinstance(value, Tensor) else value


def _brought(cls: type[C], name: str, path: str, values: dict[str, Any]) -> C:
    """Return a component that another process has sent, with its class named as it is there."""
    cls.name, cls.path = name, path
    made = cls.__new__(cls)
    vars(made).update(values)
    return made
