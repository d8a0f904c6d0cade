"""Tests and benches share helpers through testkit, and import nothing of each other."""

from __future__ import annotations

import ast

import pytest

from testkit.paths import ROOT

FOLDERS = ("bench", "testkit", "tests", "upscaled")
TESTS_OF_BENCHES = "tests.house.test_bench"


def imported(source: str, module: str) -> set[str]:
    """Return the full names of everything that the source of ``module`` imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*package, *([node.module] if node.module else [])])
            names |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return names


def allowed(module: str, name: str) -> bool:
    """Tell whether ``module`` may import ``name``, as far as this rule goes."""
    importer, target = module.partition(".")[0], name.partition(".")[0]
    match importer, target:
        case "tests", "tests":  # a test module shares nothing with another one
            return False
        case "tests", "bench":
            return module == TESTS_OF_BENCHES
        case "bench", "tests":
            return False
        case "testkit", "tests" | "bench":
            return False
        case "upscaled", "tests" | "bench" | "testkit":
            return False
    return True


def modules() -> dict[str, str]:
    """Return the source of every module of this checkout, by the module's name."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path.read_text("utf-8")
        for folder in FOLDERS
        for path in sorted((ROOT / folder).rglob("*.py"))
    }


def test_no_module_imports_a_test_and_tests_import_no_bench() -> None:
    found = modules()
    assert TESTS_OF_BENCHES in found
    wrong = [
        f"{module} imports {name}"
        for module, source in found.items()
        for name in imported(source, module)
        if not allowed(module, name)
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("bench.http", "from tests.conftest import models_dir"),
        ("bench.http", "import tests.house"),
        ("testkit.gate", "from bench import photos"),
        ("testkit.gate", "from tests import conftest"),
        ("tests.api.test_auth", "from tests.api.test_docs import page"),
        ("tests.api.test_auth", "from .test_docs import page"),
        ("tests.api.test_auth", "from ..jobs import test_job"),
        ("tests.api.test_auth", "import bench.torture"),
        ("upscaled.errors", "from testkit import jobs"),
    ],
)
def test_such_an_import_is_noticed(module: str, line: str) -> None:
    assert not all(allowed(module, name) for name in imported(line, module))
