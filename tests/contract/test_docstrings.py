"""Public docstrings say what a caller has to know, room by room.

Every public module, class, function and method has one. It lists the parameters under ``Args:`` where there are three
or more; says the shapes of tensors taken or returned (``[B, classes]``, or ``scalar``); and says when the function's
own body raises an error for bad input, under ``Raises:`` or in a first sentence "Raise ... if (or unless) ...".
Dunder methods are exempt; of all but the first rule also properties, click commands, and methods that a base class
documents.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.test_house import PACKAGE, sources

ERRORS = {"InputError", "ValueError", "ComponentError", "RangeError"}
SHAPE = re.compile(r"\[[^\]\n]*\]|\bscalars?\b")
Function = ast.FunctionDef | ast.AsyncFunctionDef


def complaints(tree: ast.Module, documented: dict[str, set[str]]) -> Iterator[str]:
    """Yield what a module's docstrings lack; ``documented`` has the methods that come from base classes, by base."""
    if tree.body and not ast.get_docstring(tree):
        yield "1: no docstring"
    owners: list[ast.Module | ast.ClassDef] = [tree]
    owners += [node for node in tree.body if isinstance(node, ast.ClassDef) and is_public(node.name)]
    for owner in owners:
        inherited: set[str] = set()
        if isinstance(owner, ast.ClassDef):
            inherited = set().union(*(documented.get(name, set()) for name in names_in(owner.bases)))
            if not ast.get_docstring(owner):
                yield f"{owner.lineno}: {owner.name} has no docstring"
        for node in owner.body:
            wrapped = names_in(node.decorator_list) if isinstance(node, Function) else set()
            if isinstance(node, Function) and is_public(node.name) and "setter" not in wrapped:
                exempt = bool(wrapped & {"property", "command", "group"}) or node.name in inherited
                yield from (f"{node.lineno}: {node.name} {lack}" for lack in lacks(node, exempt))


def lacks(node: Function, exempt: bool) -> Iterator[str]:
    """Yield what one docstring lacks."""
    text = ast.get_docstring(node)
    if text is None:
        yield "has no docstring"
    if text is None or exempt:
        return
    every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg]
    given = [arg for arg in every if arg and arg.arg not in ("self", "cls")]
    entries = arguments(text)
    missing = [arg.arg for arg in given if arg.arg not in entries]
    if missing and (len(given) >= 3 or entries):
        yield f"does not list {', '.join(missing)} under Args"
    tensors = [arg for arg in given if is_tensor(arg.annotation)]
    said = [entries.get(arg.arg, text) for arg in tensors] + [text] * is_tensor(node.returns)
    if not all(SHAPE.search(words) for words in said):
        yield "does not say the shape of its tensors"
    first = text.replace("\n", " ").partition(". ")[0]
    if ERRORS & raised(node) and "Raises:" not in text and not re.match(r"Raise\b.* (if|unless) ", first):
        yield "does not say what it raises"


def arguments(text: str) -> dict[str, str]:
    """Return what is under ``Args:``, by parameter."""
    section = re.search(r"^Args:\n((?:[ \t]+.*(?:\n|$)|\n)+)", text, flags=re.MULTILINE)
    parts = re.split(r"^ {4}\**(\w+)(?: \([^)]*\))?:", section[1] if section else "", flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def raised(node: Function) -> set[str]:
    """Return the names of what a body raises itself, not in a function inside it."""
    found, waiting = set(), list[ast.AST](node.body)
    while waiting:
        inner = waiting.pop()
        if isinstance(inner, ast.Raise) and isinstance(inner.exc, ast.Call):
            found |= names_in([inner.exc.func])
        if not isinstance(inner, Function | ast.Lambda):
            waiting += ast.iter_child_nodes(inner)
    return found


def is_tensor(annotation: ast.expr | None) -> bool:
    """Whether a value is tensors: what a callable takes and a mapping holds is not asked about."""
    match annotation:
        case ast.Subscript(value=outer, slice=inner):
            return not names_in([outer]) & {"Callable", "dict", "Mapping"} and is_tensor(inner)
        case ast.Tuple(elts=elements):
            return any(is_tensor(element) for element in elements)
        case ast.BinOp(left=left, right=right):
            return is_tensor(left) or is_tensor(right)
    return annotation is not None and "Tensor" in names_in([annotation])


def names_in(nodes: list[ast.expr]) -> set[str]:
    """Return the last names of (dotted, called, subscripted) expressions."""
    found = set()
    for node in nodes:
        while isinstance(node, ast.Call | ast.Subscript):
            node = node.func if isinstance(node, ast.Call) else node.value
        found.add(node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", ""))
    return found


def is_public(name: str) -> bool:
    """Return whether a name is for others."""
    return not name.startswith("_")


def base_methods(trees: list[ast.Module]) -> dict[str, set[str]]:
    """Return each class's methods, with those of its bases; torch's and click's hooks are documented there."""
    classes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    methods = {node.name: {f.name for f in node.body if isinstance(f, Function)} for node in classes}
    methods |= {"Module": {"forward"}, "Function": {"forward", "setup_context", "backward"}, "ParamType": {"convert"}}
    for _ in range(4):  # as deep as anybody inherits
        for node in classes:
            methods[node.name] |= set().union(*(methods.get(name, set()) for name in names_in(node.bases)))
    return methods


def report(package: Path) -> dict[str, list[str]]:
    """Return the complaints about each room."""
    files = [*sources(package)]
    documented = base_methods([tree for _, _, tree in files])
    found: dict[str, list[str]] = {}
    for room, path, tree in files:
        lines = [f"{path.relative_to(package)}:{line}" for line in complaints(tree, documented)]
        found.setdefault(room, []).extend(lines)
    return found


FOUND = report(PACKAGE)


@pytest.mark.parametrize("room", FOUND)
def test_docstrings_say_what_a_caller_needs(room: str) -> None:
    assert FOUND[room] == []


HEAD = '"""Module."""\n'


@pytest.mark.parametrize(
    ("code", "lack"),
    [
        ("x = 1", "1: no docstring"),
        (HEAD + "class A:\n    x = 1", "A has no docstring"),
        (HEAD + "def f(a): ...", "f has no docstring"),
        (HEAD + 'def f(a, b, *, c):\n    """Do."""', "f does not list a, b, c under Args"),
        (HEAD + 'def f(a, b):\n    """Do.\n\n    Args:\n        a: A.\n    """', "f does not list b under Args"),
        (HEAD + 'def f(x: Tensor):\n    """Do."""', "f does not say the shape of its tensors"),
        (HEAD + 'def f() -> tuple[Tensor, int]:\n    """Do."""', "f does not say the shape of its tensors"),
        (HEAD + 'def f():\n    """Do."""\n    raise errors.InputError("a")', "f does not say what it raises"),
        (
            HEAD + 'class A(B):\n    """A."""\n    def f(self, x: Tensor):\n        """Do."""',
            "f does not say the shape of its tensors",
        ),
    ],
)
def test_docstrings_can_fail(code: str, lack: str) -> None:
    (found,) = complaints(ast.parse(code), {"B": {"g"}})
    assert found.endswith(lack)


def test_what_is_exempt_and_what_is_enough() -> None:
    code = (
        HEAD
        + '''
class A(Base):
    """A class."""
    def __len__(self): ...
    def hook(self, a: Tensor, b, c):
        """Do."""
    @property
    def x(self) -> Tensor:
        """It."""
    def f(self, x: Tensor, g: Callable[[Tensor], int]):
        """Raise an error if ``x`` [B] is empty."""
        raise ValueError
    def g(self, a: Tensor, b: str, *c: int) -> Tensor:
        """Return a scalar.

        Args:
            a: Images [B, ...].
            b: A name,
                at length.
            *c: Numbers.
        """
        def h():
            raise ValueError("of another")
'''
    )
    assert list(complaints(ast.parse(code), {"Base": {"hook"}})) == []
