"""The house is in order: documents, example file and scripts say what the code does."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import yaml

from testkit.paths import ROOT
from testkit.settings_table import FILES
from upscaled.config.sources import load
from upscaled.config.table import settings

DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


def text(name: str) -> str:
    """Read a file of the checkout."""
    return (ROOT / name).read_text("utf-8")


def test_config_yaml_has_every_key_in_order_with_its_default() -> None:
    document = yaml.safe_load(text("config.yaml"))
    found = [(section, key) for section, keys in document.items() for key in keys]
    assert found == [(setting.section, setting.key) for setting in settings()]
    config = load(ROOT / "config.yaml", environ={})
    for setting in settings():
        assert getattr(getattr(config, setting.section), setting.key) == setting.default


@pytest.mark.parametrize("name", FILES)
def test_the_settings_are_written_down_as_the_table_says(name: str) -> None:
    assert text(name) == FILES[name](), "type: .venv/bin/python -m testkit.settings_table"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_relative_link_of_a_document_leads_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text("utf-8")):
        if "://" not in target:
            assert (document.parent / target).exists(), target


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_every_script_that_a_document_names_exists(name: str) -> None:
    named = set(re.findall(r"(?:scripts|\.ci)/[a-z-]+", text(name)))
    assert "scripts/test" in named
    for script in named:
        assert (ROOT / script).stat().st_mode & 0o111, script


def test_the_changelog_has_the_packages_version() -> None:
    version = re.search(r'^version = "(.+)"$', text("pyproject.toml"), re.MULTILINE)
    assert version
    assert f"## [{version[1]}]" in text("CHANGELOG.md")


def test_every_test_that_the_table_of_faults_names_exists() -> None:
    table = text("docs/reliability.md").split("## Faults that were found, and their tests")[1]
    named = re.findall(r"`([a-z_/]+\.py)(?:::(\w+))?`", table)
    assert len(named) > 30
    for path, function in named:
        source = text(f"tests/{path}")
        assert not function or f"def {function}(" in source, (path, function)


def test_no_two_classes_have_one_name() -> None:
    """The client, which imports nothing of the server, has names of its own."""
    places: dict[str, list[str]] = {}
    for path in (ROOT / "upscaled").rglob("*.py"):
        module = path.relative_to(ROOT / "upscaled")
        if module.parts[0] != "client":
            for node in ast.parse(path.read_text("utf-8")).body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    places.setdefault(node.name, []).append(str(module))
    assert len(places) > 300
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


def test_the_architecture_page_names_every_module() -> None:
    rows: dict[str, set[str]] = {}
    for line in text("docs/architecture.md").splitlines():
        if row := re.fullmatch(r"\| (`[^|]+) \| (.*) \|", line):
            for name in re.findall(r"`([\w/.]+)`", row[1]):
                rows[name.rstrip("/").removesuffix(".py")] = set(re.findall(r"\w+", row[2]))
    missing = []
    for module in (ROOT / "upscaled").rglob("*.py"):
        room, *inner = module.relative_to(ROOT / "upscaled").with_suffix("").parts
        name = inner[0] if inner else room
        if name not in {"__init__", "__main__"} and name not in {room, *rows.get(room, ())}:
            missing.append(f"{room}/{name}")
        elif room not in {*rows, "__init__", "__main__"}:
            missing.append(room)
    assert len(rows) > 20
    assert sorted(set(missing)) == [], "name them in the table of docs/architecture.md"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_module_that_a_document_names_exists(document: Path) -> None:
    if document.name == "CHANGELOG.md":
        return  # it tells of earlier versions too
    for named in re.findall(r"`([a-z_]+/[a-z_/0-9]+\.py)", document.read_text("utf-8")):
        places = [ROOT / base / named for base in ("", "upscaled", "tests")]
        assert any(place.exists() for place in places), named


LONG = {"upscaled/jobs/registry.py", "upscaled/service/service.py"}
"""Modules that docs/architecture.md lets be longer."""


def test_no_module_has_more_than_400_lines_but_those_that_the_architecture_page_names() -> None:
    folders = ("upscaled", "tests", "testkit", "bench")
    modules = [path for folder in folders for path in ROOT.joinpath(folder).rglob("*.py")]
    counted = {path.relative_to(ROOT).as_posix(): len(lines_of(path)) for path in modules}
    assert {name for name, count in counted.items() if count > 400} == LONG
    page = text("docs/architecture.md")
    assert [name for name in LONG if name.removeprefix("upscaled/") not in page] == []


def lines_of(path: Path) -> list[str]:
    return path.read_text("utf-8").splitlines()
