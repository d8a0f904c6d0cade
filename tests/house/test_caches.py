"""No cache may grow with what callers send."""

from __future__ import annotations

import functools
import gc
import importlib
import inspect
import pkgutil
import re
from typing import Any

import upscaled
from testkit.paths import ROOT
from upscaled.config.table import settings

_UNBOUNDED_ON_PURPOSE = {
    # One entry for each library there is.
    "upscaled.engines.builtin.cpu_library._with_version",
}


def _everything() -> None:
    """Import every module of the package."""
    for module in pkgutil.walk_packages(upscaled.__path__, "upscaled."):
        if module.name != "upscaled.__main__":
            importlib.import_module(module.name)


def _unbounded() -> dict[str, Any]:
    """Return all caches without a bound, by the name of what they cache."""
    found = {}
    for thing in gc.get_objects():
        if isinstance(thing, functools._lru_cache_wrapper):
            cached = inspect.unwrap(thing)
            if thing.cache_parameters()["maxsize"] is None:
                found[f"{cached.__module__}.{cached.__qualname__}"] = cached
    return found


def test_every_cache_with_arguments_has_a_bound() -> None:
    _everything()
    takes_arguments = [
        name
        for name, cached in _unbounded().items()
        # Those of the libraries that read requests count as ours.
        if name.partition(".")[0] in {"upscaled", "aiohttp", "yarl", "multidict", "multipart"}
        and inspect.signature(cached).parameters
    ]
    assert set(takes_arguments) <= _UNBOUNDED_ON_PURPOSE


def test_the_search_finds_a_cache_without_a_bound() -> None:
    @functools.cache
    def planted(name: str) -> str:
        return name

    planted("x")
    assert any("planted" in name for name in _unbounded())


_UNITS = {"MiB": 1 << 20, "GiB": 1 << 30}
_MAKES_A_CACHE = re.compile(r"OrderedDict\(\)|\blru_cache\(|\bmaxlen=")


def _rows() -> list[tuple[str, str, str]]:
    """Return bound, module and constant of each row of the table in docs/hardening.md."""
    page = (ROOT / "docs" / "hardening.md").read_text("utf-8")
    section = page.split("## What is kept, in memory and on disk")[1].split("\n## ")[0]
    rows = re.findall(r"\| ([^|]+) \| `([^`|]+\.py)`(?: `(\w+)`)? \|$", section, re.MULTILINE)
    assert len(rows) > 20
    return rows


def test_the_table_of_caches_has_the_bounds_of_the_code() -> None:
    names = {setting.name for setting in settings()}
    for bound, path, constant in _rows():
        module = importlib.import_module("upscaled." + path.removesuffix(".py").replace("/", "."))
        if bound.startswith("`"):
            assert bound.strip("`") in names, (path, bound)
        elif constant:
            number, _, unit = bound.partition(" ")
            value = int(number.replace(",", "")) * _UNITS.get(unit, 1)
            assert getattr(module, constant) == value, (path, constant)
        else:
            assert re.search(rf"lru_cache\((maxsize=)?{bound}\)", inspect.getsource(module)), path


def test_the_table_names_every_module_that_has_a_cache() -> None:
    named = {path for _, path, _ in _rows()}
    having = {
        str(path.relative_to(ROOT / "upscaled"))
        for path in (ROOT / "upscaled").rglob("*.py")
        if _MAKES_A_CACHE.search(path.read_text("utf-8"))
    }
    assert len(having) > 15
    assert having - named == set()
