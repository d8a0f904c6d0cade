"""Print the package's rooms, layer by layer, and which room imports which.

``scripts/imports`` runs this. Rooms and their order come from the contract ``layers`` in
``pyproject.toml``, which the test suite enforces.
"""

from __future__ import annotations

import ast
import signal
import tomllib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import grimp

from testkit.paths import ROOT

PACKAGE = "upscaled"


@dataclass(frozen=True)
class Function:
    """A function or method of the package."""

    module: str
    name: str
    lines: int
    public: bool
    documented: bool


def layers() -> list[list[str]]:
    """Return the names of the rooms, the top layer first."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    contracts = settings["tool"]["importlinter"]["contracts"]
    rows = next(item["layers"] for item in contracts if item["id"] == "layers")
    return [[name.strip() for name in row.replace("|", ":").split(":")] for row in rows]


def arrows() -> Counter[tuple[str, str]]:
    """Return how many modules of one room import how many of another, by both names."""
    graph = grimp.build_graph(PACKAGE, cache_dir=None)
    found: Counter[tuple[str, str]] = Counter()
    for importer in graph.modules:
        for imported in graph.find_modules_directly_imported_by(importer):
            one, other = _room(importer), _room(imported)
            if one and other and one != other:
                found[one, other] += 1
    return found


def upward(rows: list[list[str]], found: Counter[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the pairs of rooms whose import points up or sideways."""
    floor = {name: number for number, row in enumerate(rows) for name in row}
    return sorted(pair for pair in found if floor[pair[0]] >= floor[pair[1]])


def functions() -> list[Function]:
    """Return all functions of the package."""
    found = []
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                documented = ast.get_docstring(node) is not None
                name = node.name
                module = str(path.relative_to(ROOT))
                found.append(Function(module, name, length, not name.startswith("_"), documented))
    return found


def _room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def _modules(room: str) -> list[Path]:
    folder = ROOT / PACKAGE / room
    if folder.is_dir():
        return sorted(path for path in folder.rglob("*.py") if path.name != "__init__.py")
    return [folder.with_suffix(".py")]


def _lines(paths: list[Path]) -> int:
    return sum(path.read_text("utf-8").count("\n") for path in paths)


def report() -> str:
    """Return the drawing as text."""
    rows, found = layers(), arrows()
    lines = ["Each layer may import the layers below it only.", ""]
    for row in rows:
        for room in row:
            modules = _modules(room)
            below = [f"{other} {n}" for (one, other), n in sorted(found.items()) if one == room]
            lines.append(f"  {room:<10} {len(modules):>3} modules {_lines(modules):>5} lines")
            if below:
                lines.append(f"{'':13}imports {', '.join(below)}")
        lines.append("  " + "-" * 40)
    every = sorted((ROOT / PACKAGE).rglob("*.py"))
    largest = max(every, key=lambda path: _lines([path]))
    all_functions = functions()
    longest = max(all_functions, key=lambda function: function.lines)
    public = [function for function in all_functions if function.public]
    documented = sum(function.documented for function in public)
    folders = {name: _lines(sorted((ROOT / name).rglob("*.py"))) for name in
               (PACKAGE, "tests", "testkit", "bench")}  # fmt: skip
    lines += [
        "",
        f"modules at the root: {len(list((ROOT / PACKAGE).glob('*.py')))}",
        f"imports that point up: {len(upward(rows, found))}",
        f"largest module: {largest.relative_to(ROOT)}, {_lines([largest])} lines",
        f"longest function: {longest.module}: {longest.name}, {longest.lines} lines",
        f"public functions with a docstring: {documented / len(public):.0%}",
        "lines: " + ", ".join(f"{name} {count}" for name, count in folders.items()),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` ends it quietly
    print(report())  # noqa: T201
