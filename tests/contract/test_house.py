"""The shape of the package: which layer may import which, and the rules of the house."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import accupoison

PACKAGE = Path(accupoison.__file__).parent
LAYERS = (
    {"types", "rng", "errors", "device"},
    {"records", "accel", "registry"},
    {"data", "models"},
    {"optimizer", "learner", "gradients", "discrepancy"},
    {"attacks", "defenses", "updates", "release"},
    {"loop"},
    {"config"},
    {"measure"},
    {"runs", "testing"},
    {"study"},
    {"audit"},
    {"api"},
    {"cli"},
    {"burnin", "base_model", "settings", "__main__"},
)
"""From the bottom up; a module imports from its own layer or one below. ``release`` waits for its package."""
APART = ({"attacks", "defenses"}, {"data", "models"})
"""Neighbours that know nothing of each other."""
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
MAX_FILE, MAX_FUNCTION, MAX_ROOT = 300, 60, 14


def sources(package: Path) -> Iterator[tuple[str, Path, ast.Module]]:
    """Yield every file of a package with the name of its top-level module."""
    for path in sorted(package.rglob("*.py")):
        top = path.relative_to(package).parts[0].removesuffix(".py")
        if top != "__init__":
            yield top, path, ast.parse(path.read_text())


def imported(tree: ast.Module, path: Path, package: Path) -> set[str]:
    """Return the top-level modules of the package that a file imports, at whatever depth of the code."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                here = [package.name, *path.relative_to(package).parent.parts]
                base = ".".join([*here[: len(here) - node.level + 1], *base.split(".")]).rstrip(".")
            names += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    inside = [name.split(".") for name in names if name.startswith(f"{package.name}.")]
    return {parts[1] for parts in inside if (package / parts[1]).is_dir() or (package / f"{parts[1]}.py").is_file()}


def graph(package: Path) -> dict[str, set[str]]:
    edges: dict[str, set[str]] = {}
    for top, path, tree in sources(package):
        edges.setdefault(top, set()).update(imported(tree, path, package) - {top})
    return edges


def misplaced(edges: dict[str, set[str]]) -> list[str]:
    """Return every import that goes up, or across to a neighbour that is apart."""
    found = [f"{top} has no layer: add it to LAYERS" for top in edges if top not in RANK]
    for top, others in edges.items():
        for other in others:
            if top in RANK and RANK[top] < RANK.get(other, 0):
                found.append(f"{top} imports {other}, which is above it")
            found += [f"{top} imports {other}, which it is apart from" for pair in APART if {top, other} == pair]
    return sorted(found)


def circles(edges: dict[str, set[str]]) -> list[str]:
    """Return modules that import themselves by way of others."""
    reach = {top: set(others) for top, others in edges.items()}
    for _ in edges:
        for others in reach.values():
            others |= {further for other in others for further in reach.get(other, set())}
    return sorted(top for top in reach if top in reach[top])


def broken_rules(path: Path) -> list[str]:
    """Return what a file does that the house does not."""
    text, found = path.read_text(), []
    lines = text.splitlines()
    if len(lines) > MAX_FILE:
        found.append(f"{path.name}: {len(lines)} lines")
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                length = (node.end_lineno or 0) - node.lineno + 1
                if length > MAX_FUNCTION:
                    found.append(f"{path.name}: {node.name} has {length} lines")
            case ast.Call(func=ast.Attribute(attr="cuda")):
                found.append(f"{path.name}:{node.lineno}: .cuda()")
            case ast.Call(func=ast.Name(id="print")):
                found.append(f"{path.name}:{node.lineno}: print")
            case ast.ExceptHandler(type=None):
                found.append(f"{path.name}:{node.lineno}: bare except")
            case ast.ImportFrom() if any(alias.name == "*" for alias in node.names):
                found.append(f"{path.name}:{node.lineno}: star import")
    paths = re.compile(r"(?<![\w.{}])/(?:work|root|home|tmp|Users)/")
    found += [f"{path.name}:{n}: a path of one machine" for n, line in enumerate(lines, 1) if paths.search(line)]
    return found


def test_layers() -> None:
    edges = graph(PACKAGE)
    assert len(edges) > 20
    assert "learner" in edges["loop"]  # the graph is not empty
    assert misplaced(edges) == []
    assert circles(edges) == []


def test_the_root_is_small() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= MAX_ROOT


def test_house_rules() -> None:
    files = sorted(PACKAGE.rglob("*.py"))
    assert len(files) > 40
    assert [found for path in files for found in broken_rules(path)] == []


UP = "attacks imports loop, which is above it"


@pytest.mark.parametrize(
    ("file", "code", "finding"),
    [
        ("attacks/mine.py", "from accupoison.cli import main", "attacks imports cli, which is above it"),
        ("attacks/mine.py", "def f():\n    import accupoison.loop.simulation", UP),
        ("attacks/mine.py", "from ..learner import x\nfrom .. import loop", UP),
        ("attacks/mine.py", "from accupoison import loop", UP),
        ("defenses/mine.py", "from accupoison.attacks import x", "defenses imports attacks, which it is apart from"),
        ("types.py", "from accupoison.registry import x", "types imports registry, which is above it"),
        ("brandnew.py", "", "brandnew has no layer: add it to LAYERS"),
    ],
)
def test_layers_can_fail(tmp_path: Path, file: str, code: str, finding: str) -> None:
    package = tmp_path / "accupoison"
    for name in ("attacks", "defenses", "loop", "cli"):
        (package / name).mkdir(parents=True)
    for name in ("learner", "registry"):
        (package / f"{name}.py").write_text("")
    (package / file).write_text(code)
    assert misplaced(graph(package)) == [finding]


def test_circles_can_be_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == ["a", "b", "c"]
    assert circles({"a": {"b", "c"}, "b": {"c"}}) == []


@pytest.mark.parametrize(
    ("code", "finding"),
    [
        ("x = 1\n" * 301, "301 lines"),
        ("def long() -> None:\n" + "    x = 1\n" * 60, "long has 61 lines"),
        ("class A:\n    async def long(self) -> None:\n" + "        x = 1\n" * 60, "long has 61 lines"),
        ("model.to(0).cuda()", "1: .cuda()"),
        ("print(1)", "1: print"),
        ("try:\n    pass\nexcept:\n    pass", "3: bare except"),
        ("from torch import *", "1: star import"),
        ("ROOT = '" + "/ho" + "me/me/data'", "1: a path of one machine"),
    ],
)
def test_house_rules_can_fail(tmp_path: Path, code: str, finding: str) -> None:
    path = tmp_path / "file.py"
    path.write_text(code)
    (found,) = broken_rules(path)
    assert found.endswith(finding)
    path.write_text("x = 1\n" * 300 + '"""A docstring may print() or .cuda() or except: what it likes."""')
    assert broken_rules(path) == ["file.py: 301 lines"]
