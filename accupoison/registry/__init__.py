"""Components by name."""

import dataclasses
import importlib
import re
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Generic, TypeVar

from accupoison.errors import InputError, did_you_mean, first_line
from accupoison.registry.component import Component

__all__ = ["Component", "Lookup", "Registry"]

T = TypeVar("T")
F = TypeVar("F")

PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
"""What a thing of the user's own is named by: ``package.module:NAME``."""

FINDABLE = "; it is looked for in the current folder and among installed packages"


class Lookup(Generic[T]):
    """Things of one kind by name, without regard to case: what registers itself, and what installed packages offer.

    A package offers a thing by an entry point of the group ``accupoison.GROUP`` that names it; it is loaded when it is
    asked for. Names of our own win. Whatever Python can import has a name without any of this: its path,
    ``package.module:NAME``.

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
        self._given: dict[str, T] = {}
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
        """Return the canonical form of ``name``; a path stays as it is.

        Raises:
            InputError: Nothing has this name, and the message has the closest one; or what a path names cannot be used.
        """
        self._search()
        if name.lower() in self._aliases:
            return self._aliases[name.lower()]
        if not self.is_path(name):
            own = f" (one of your own goes by its path, such as mymodule:{name})" if name.isidentifier() else ""
            raise InputError(f"unknown {self.kind} {name!r}{did_you_mean(name, self._aliases)}{own}")
        self._imported(name)
        return name

    def offered(self, name: str) -> bool:
        """Return whether an installed package offers what ``name`` stands for."""
        return self.canonical(name) in self._offers

    def get(self, name: str) -> T:
        """Return what is registered under ``name`` or an alias.

        Raises:
            InputError: Nothing has this name, or the package that offers it cannot be loaded.
        """
        known = self.canonical(name)
        if known in self._things:
            return self._things[known]
        thing: T = self._load(self._offers[known]) if known in self._offers else self._imported(known)
        return thing

    def adopt(self, thing: Any) -> str:  # noqa: ANN401
        """Return the path of a class or function, by which this process finds it wherever it was written.

        Args:
            thing: Perhaps of a notebook or of a function's body, where no other process can find it.

        Raises:
            InputError: It cannot be used.
        """
        path = f"{thing.__module__}:{thing.__qualname__}"
        self._given[path] = thing
        self._imported(path)
        return path

    def is_path(self, name: str) -> bool:
        """Return whether this is a path: what begins like one of our names, such as shift:fog, is an error in that."""
        self._search()
        module = name.partition(":")[0]
        ours = {  # but for what a module of this name has registered itself
            alias.partition(":")[0]
            for alias, known in self._aliases.items()
            if getattr(self._things.get(known), "__module__", "") != module
        }
        return name in self._given or (PATH.fullmatch(name) is not None and module.lower() not in ours)

    def _imported(self, path: str) -> Any:  # noqa: ANN401
        """Return what a path names."""
        module, _, attribute = path.partition(":")
        try:
            if path not in self._given:
                importlib.invalidate_caches()  # the file may be a moment old
            thing = self._given[path] if path in self._given else getattr(importlib.import_module(module), attribute)
        except Exception as error:  # the module is somebody's own and may raise anything
            lost = "; a class of a script or a notebook is gone with it: move it to a file" * (module == "__main__")
            raise InputError(
                f"{self.kind} {path!r} cannot be imported ({first_line(error, named=True)})"
                f"{lost or _near(module, attribute) or FINDABLE}"
            ) from error
        try:
            if not callable(thing):
                raise ValueError(f"{attribute} is neither a class nor a function")
            self._check(thing)
        except ValueError as error:
            raise InputError(f"{self.kind} {path!r} cannot be used: {error}") from error
        return thing

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


C = TypeVar("C", bound=Component)


def _near(module: str, attribute: str) -> str:
    """Return a question for what may have been meant: a file of the current folder, or a class of the module."""
    found = sys.modules.get(module)
    if found is None:
        value, known = module, [path.stem for path in Path().glob("*.py")]
    else:
        value = attribute
        known = [name for name, thing in vars(found).items() if getattr(thing, "__module__", "") == module]
    meant = did_you_mean(value, known)
    return meant if "did you mean" in meant else ""


class Registry(Lookup[type[C]]):
    """Dataclass components of one kind, whose init fields are their settings.

    An entry point of another package names the module that registers them; it is loaded at the first look-up.

    Args:
        kind: As in :class:`Lookup`.
        group: Likewise.
        base: What they derive from.
    """

    def __init__(self, kind: str, group: str | None = None, base: type[Component] = Component) -> None:
        super().__init__(kind, group)
        self._base = base
        self._shown: dict[str, str] = {}

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

    def adopt(self, thing: Any) -> str:  # noqa: ANN401
        """Return the name of one of our own classes, or the path of another; see :meth:`Lookup.adopt`."""
        ours = isinstance(thing, type) and thing.__module__.startswith("accupoison.") and thing in self._things.values()
        return str(vars(thing)["name"]) if ours else super().adopt(thing)

    def _imported(self, path: str) -> Any:  # noqa: ANN401
        cls = super()._imported(path)
        if "name" not in vars(cls):  # what tables and directories call it, unless something else is called that
            taken = cls.__name__.lower() in self._aliases or self._shown.setdefault(cls.__name__, path) != path
            cls.name = path.replace(":", ".") if taken else cls.__name__
        cls.path = path
        return cls

    def _check(self, thing: object) -> None:
        name = getattr(thing, "__name__", repr(thing))
        if not isinstance(thing, type) or not issubclass(thing, self._base):
            base = f"{self._base.__module__.removesuffix('.base')}.{self._base.__name__}"
            raise ValueError(f"{name} is no {self.kind}; derive a dataclass from {base}")
        if "__dataclass_fields__" not in vars(thing):
            raise ValueError(
                f"{name} must be a dataclass, as its init fields are the {self.kind}'s settings; write "
                "@dataclass(kw_only=True) above the class"
            )
        if lacking := sorted(getattr(thing, "__abstractmethods__", ())):
            raise ValueError(f"{name} has no method {', '.join(lacking)}; write it")
        settings = [f for f in dataclasses.fields(thing) if f.init]
        for f in settings:
            if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
                raise ValueError(f"its setting {f.name} has no default; give it one")

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
