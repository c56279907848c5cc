"""Components by name."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, ClassVar, Generic, Self, TypeVar

from torch import Tensor

from accupoison.errors import InputError, did_you_mean, first_line
from accupoison.types import Saved, State


def plugins(group: str) -> dict[str, EntryPoint]:
    """Return what installed packages offer under the entry point group ``accupoison.<group>``, by name."""
    return {found.name: found for found in _offered(group)}


def _offered(group: str) -> list[EntryPoint]:
    """Return the entry points of a group; ``accupoison.defences`` is another spelling of ``accupoison.defenses``."""
    groups = [group, *(["defences"] if group == "defenses" else [])]
    return [found for name in groups for found in entry_points(group=f"accupoison.{name}")]


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
K = TypeVar("K", bound=Component)


class Registry(Generic[C]):
    """Dataclass components of one kind, looked up without regard to case.

    Packages of other people add theirs by an entry point (see :func:`plugins`), loaded at the first look-up.

    Args:
        kind: What the components are, as error messages name them ("attack").
        group: Of the entry points, after ``accupoison.``; default: the plural of ``kind``.
    """

    def __init__(self, kind: str, group: str | None = None) -> None:
        self.kind, self.group = kind, group or f"{kind}s"
        self._classes: dict[str, type[C]] = {}
        self._aliases: dict[str, str] = {}
        self._searched = False

    def register(self, name: str, *aliases: str) -> Callable[[type[K]], type[K]]:
        """Return a class decorator that adds the class under ``name`` and ``aliases``.

        Raises:
            ValueError: A name is taken, or the class is not a dataclass.
        """

        def add(cls: type[K]) -> type[K]:
            if not dataclasses.is_dataclass(cls):
                raise ValueError(f"{cls.__name__} must be a dataclass: its init fields are the {self.kind}'s settings")
            for key in (name, *aliases):
                if key.lower() in self._aliases:
                    raise ValueError(f"{self.kind} {key} is registered already")
            self._aliases |= {key.lower(): name for key in (name, *aliases)}
            cls.name = name
            self._classes[name] = cls  # type: ignore[assignment]  # a decorator cannot say "subclass of C"
            return cls

        return add

    def names(self) -> list[str]:
        """Return the canonical names, sorted."""
        self._search()
        return sorted(self._classes)

    def aliases(self, name: str) -> list[str]:
        """Return the other names of ``name``."""
        return sorted(alias for alias, to in self._aliases.items() if to == name and alias != name.lower())

    def canonical(self, name: str) -> str:
        """Return the canonical form of ``name``.

        Raises:
            InputError: No component has this name; the message has the closest one.
        """
        self._search()
        try:
            return self._aliases[name.lower()]
        except KeyError:
            raise InputError(f"unknown {self.kind} {name!r}{did_you_mean(name, self._aliases)}") from None

    def get(self, name: str) -> type[C]:
        """Return the class registered under ``name`` or an alias.

        Raises:
            InputError: No component has this name.
        """
        return self._classes[self.canonical(name)]

    def settings(self, name: str) -> dict[str, dataclasses.Field[Any]]:
        """Return the init fields of a component by name: its settings."""
        return {f.name: f for f in dataclasses.fields(self.get(name)) if f.init}

    def build(self, name: str, settings: Mapping[str, Any]) -> C:
        """Return a new instance with ``settings``, already checked by :mod:`accupoison.config.layers`."""
        return self.get(name)(**settings)

    def _search(self) -> None:
        if not self._searched:
            self._searched = True
            for found in _offered(self.group):
                try:
                    found.load()
                except Exception as error:  # it is somebody's own and may raise anything
                    self._searched = False
                    raise InputError(
                        f"the {self.kind} {found.name!r} of an installed package cannot be loaded "
                        f"({first_line(error, named=True)}); mend or uninstall the package"
                    ) from error


def _copied(value: Saved) -> Saved:
    return value.detach().clone() if isinstance(value, Tensor) else value
