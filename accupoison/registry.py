"""Components by name."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, ClassVar, Generic, Self, TypeVar

from torch import Tensor

from accupoison.errors import InputError, did_you_mean, first_line
from accupoison.types import Saved, State

T = TypeVar("T")
F = TypeVar("F")


class Lookup(Generic[T]):
    """Things of one kind by name, without regard to case: what registers itself, and what installed packages offer.

    A package offers a thing by an entry point of the group ``accupoison.GROUP`` that names it; it is loaded when it is
    asked for. Names of our own win.

    Args:
        kind: What the things are, as error messages name them ("model").
        group: Of the entry points, after ``accupoison.``; default: the plural of ``kind``.
    """

    def __init__(self, kind: str, group: str | None = None) -> None:
        self.kind = kind
        self.group = group or f"{kind}s"
        self._things: dict[str, T] = {}
        self._aliases: dict[str, str] = {}
        self._offers: dict[str, EntryPoint] = {}
        self._searched = False

    def register(self, name: str, *aliases: str) -> Callable[[F], F]:
        """Return a decorator that adds what it decorates under ``name`` and ``aliases``.

        Raises:
            ValueError: A name is taken, or the thing is not of the kind.
        """

        def add(thing: F) -> F:
            self._check(thing)
            for key in (name, *aliases):
                if key.lower() in self._aliases:
                    raise ValueError(f"{self.kind} {key} is registered already")
            self._aliases |= {key.lower(): name for key in (name, *aliases)}
            self._things[name] = thing  # type: ignore[assignment]  # a decorator cannot say "subclass of T"
            return thing

        return add

    def names(self) -> list[str]:
        """Return the canonical names, sorted."""
        self._search()
        return sorted({*self._things, *self._offers})

    def aliases(self, name: str) -> list[str]:
        """Return the other names of ``name``."""
        return sorted(alias for alias, to in self._aliases.items() if to == name and alias != name.lower())

    def canonical(self, name: str) -> str:
        """Return the canonical form of ``name``.

        Raises:
            InputError: Nothing has this name; the message has the closest one.
        """
        self._search()
        try:
            return self._aliases[name.lower()]
        except KeyError:
            raise InputError(f"unknown {self.kind} {name!r}{did_you_mean(name, self._aliases)}") from None

    def offered(self, name: str) -> bool:
        """Return whether an installed package offers what ``name`` stands for."""
        return self.canonical(name) in self._offers

    def get(self, name: str) -> T:
        """Return what is registered under ``name`` or an alias.

        Raises:
            InputError: Nothing has this name, or the package that offers it cannot be loaded.
        """
        known = self.canonical(name)
        return self._load(self._offers[known]) if known in self._offers else self._things[known]

    def _check(self, thing: object) -> None:
        """Raise ValueError unless ``thing`` is of the kind."""

    def _search(self) -> None:
        if not self._searched:
            self._searched = True
            for entry in entry_points(group=f"accupoison.{self.group}"):
                if entry.name.lower() not in self._aliases:
                    self._aliases[entry.name.lower()] = entry.name
                    self._offers[entry.name] = entry

    def _load(self, entry: EntryPoint) -> Any:  # noqa: ANN401
        try:
            return entry.load()
        except Exception as error:  # it is somebody's own and may raise anything
            raise InputError(
                f"the {self.kind} {entry.name!r} of an installed package cannot be loaded "
                f"({first_line(error, named=True)}); mend or uninstall the package"
            ) from error


@dataclass(kw_only=True)
class Component:
    """Something that a configuration names: an attack, a defence, an update rule.

    A subclass is a dataclass. Its init fields are its settings: they are what the configuration holds, and nothing can
    change them once it is built. Fields with ``field(init=False)`` are its state: those that hold tensors, numbers or
    strings are saved and restored with the run. A run works with :meth:`fresh` ones, so the configuration's own never
    has any state.

    Attributes:
        name: The canonical name under which the class is registered, or "".
    """

    name: ClassVar[str] = ""

    def __setattr__(self, key: str, value: Any) -> None:  # noqa: ANN401
        """Set a field; a setting only once."""
        if key in vars(self) and (f := self.__dataclass_fields__.get(key)) is not None and f.init:
            raise AttributeError(
                f"{type(self).__name__}.{key} is a setting and stays as it was given; keep what changes in a "
                "field(init=False)"
            )
        super().__setattr__(key, value)

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


C = TypeVar("C", bound=Component)


class Registry(Lookup[type[C]]):
    """Dataclass components of one kind, whose init fields are their settings.

    An entry point of another package names the module that registers them; it is loaded at the first look-up.
    """

    def register(self, name: str, *aliases: str) -> Callable[[F], F]:
        """Return a class decorator that adds a component under ``name`` and ``aliases``; see :class:`Lookup`."""
        add = super().register(name, *aliases)

        def add_named(cls: F) -> F:
            add(cls).name = name  # type: ignore[attr-defined]
            return cls

        return add_named

    def settings(self, name: str) -> dict[str, dataclasses.Field[Any]]:
        """Return the init fields of a component by name: its settings."""
        return {f.name: f for f in dataclasses.fields(self.get(name)) if f.init}

    def build(self, name: str, settings: Mapping[str, Any]) -> C:
        """Return a new instance with ``settings``, already checked by :mod:`accupoison.config.layers`."""
        return self.get(name)(**settings)

    def _check(self, thing: object) -> None:
        if not dataclasses.is_dataclass(thing):
            name = getattr(thing, "__name__", repr(thing))
            raise ValueError(f"{name} must be a dataclass: its init fields are the {self.kind}'s settings")

    def _search(self) -> None:
        if not self._searched:
            self._searched = True
            groups = [self.group, *(["defences"] if self.group == "defenses" else [])]  # both spellings
            for entry in [entry for group in groups for entry in entry_points(group=f"accupoison.{group}")]:
                try:
                    self._load(entry)
                except InputError:
                    self._searched = False
                    raise


def _copied(value: Saved) -> Saved:
    return value.detach().clone() if isinstance(value, Tensor) else value
