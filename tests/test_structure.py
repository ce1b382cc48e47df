"""The house rules that can be measured: short functions, shallow nesting, short modules; each with a planted breach."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.floors

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("resilient_ws", "server_fixture")
BODY, DEPTH, MODULE = 40, 3, 400
# session.py is the one place where everything that happens to a session is decided.
LONGER_MODULES = {"resilient_ws/session.py": 600, "server_fixture/session.py": 600}
# "path:qualified name" -> why it may break a rule of functions (on the hot path: the benchmark that shows it).
EXCEPTIONS: dict[str, str] = {}

BLOCKS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.Match)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def functions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Give every function of a tree with its qualified name."""
    for node in ast.iter_child_nodes(tree):
        name = prefix
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            name = f"{prefix}{node.name}"
            if isinstance(node, FUNCTIONS):
                yield name, node
            name += "."
        yield from functions(node, name)


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Count the lines of a function's body, from its first statement on, the docstring not counted."""
    body = function.body[1:] if ast.get_docstring(function, clean=False) is not None else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def depth(node: ast.AST) -> int:
    """Measure how deep blocks are nested; ``elif`` is no deeper than ``if``, an inner function counts by itself."""
    deepest = 0
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (*FUNCTIONS, ast.ClassDef, ast.Lambda)):
            continue
        is_elif = isinstance(node, ast.If) and isinstance(child, ast.If) and node.orelse == [child]
        deepest = max(deepest, depth(child) + (isinstance(child, BLOCKS) and not is_elif))
    return deepest


def breaches(path: str, source: str) -> list[str]:
    """Say which rules a module breaks, exceptions not considered."""
    found = []
    lines, limit = len(source.splitlines()), LONGER_MODULES.get(path, MODULE)
    if lines > limit:
        found.append(f"{path}: {lines} lines, at most {limit}")
    for name, function in functions(ast.parse(source)):
        if body_lines(function) > BODY:
            found.append(f"{path}:{name}: a body of {body_lines(function)} lines, at most {BODY}")
        if depth(function) > DEPTH:
            found.append(f"{path}:{name}: nested {depth(function)} deep, at most {DEPTH}")
    return found


def sources() -> list[Path]:
    """List every module of both packages."""
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("path", sources(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_module_keeps_the_house_rules(path: Path) -> None:
    """Function bodies, nesting and modules stay within the limits, but for the exceptions that have a reason."""
    found = breaches(path.relative_to(ROOT).as_posix(), path.read_text("utf-8"))
    assert [breach for breach in found if breach.split(": ")[0] not in EXCEPTIONS] == []


def test_sources_are_found() -> None:
    """The check looks at both packages, not at nothing."""
    assert {path.relative_to(ROOT).parts[0] for path in sources()} == set(PACKAGES)


def test_every_exception_is_still_needed() -> None:
    """An exception whose function keeps the rules again, or is gone, is taken off the list."""
    found = [
        breach.split(": ")[0]
        for path in sources()
        for breach in breaches(path.relative_to(ROOT).as_posix(), path.read_text("utf-8"))
    ]
    assert [name for name in EXCEPTIONS if name not in found] == []
    assert all(EXCEPTIONS.values())


def planted(lines: int) -> str:
    """Write a method whose body, without its docstring, has that many lines."""
    return (
        'class Planted:\n    def method(self):\n        """\n        One.\n        """\n' + "        call()\n" * lines
    )


def test_long_body_is_found() -> None:
    """A body of one line too many is a breach, and a docstring does not count."""
    assert breaches("planted.py", planted(40)) == []
    assert breaches("planted.py", planted(41)) == ["planted.py:Planted.method: a body of 41 lines, at most 40"]


def test_long_inner_function_is_found() -> None:
    """A function inside a function, or inside a block, is measured too."""
    source = "if True:\n    def outer():\n        def inner():\n" + "            call()\n" * 41
    assert [breach.split(": ")[0] for breach in breaches("planted.py", source)] == [
        "planted.py:outer",
        "planted.py:outer.inner",
    ]


def nested(*openings: str) -> str:
    """Write a function that nests the blocks."""
    body = [f"{'    ' * (level + 1)}{opening}" for level, opening in enumerate(openings)]
    return "\n".join(["def planted():", *body, "    " * (len(openings) + 1) + "pass"])


def test_deep_nesting_is_found() -> None:
    """Four blocks in each other are a breach, three are not."""
    assert breaches("planted.py", nested("if a:", "for b in c:", "while d:")) == []
    assert breaches("planted.py", nested("if a:", "for b in c:", "with d:", "while e:")) == [
        "planted.py:planted: nested 4 deep, at most 3"
    ]


def test_nesting_in_handlers_and_cases_is_found() -> None:
    """What stands in an except clause, an else or a case is as deep as what stands in the block."""
    handler = "def planted():\n try:\n  pass\n except OSError:\n  match a:\n   case 1:\n"
    source = handler + "    if b:\n     pass\n    else:\n     with c:\n      pass\n"
    assert breaches("planted.py", source) == ["planted.py:planted: nested 4 deep, at most 3"]


def test_elif_is_not_deeper() -> None:
    """A chain of elif is one block."""
    source = "def planted():\n    if a:\n        pass\n" + "    elif b:\n        pass\n" * 5
    assert breaches("planted.py", source) == []


@pytest.mark.parametrize(("path", "limit"), [("resilient_ws/planted.py", 400), ("resilient_ws/session.py", 600)])
def test_long_module_is_found(path: str, limit: int) -> None:
    """A module of one line too many is a breach."""
    assert breaches(path, "x = 1\n" * limit) == []
    assert breaches(path, "x = 1\n" * (limit + 1)) == [f"{path}: {limit + 1} lines, at most {limit}"]
