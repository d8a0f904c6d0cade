"""No cache may grow with what callers send."""

from __future__ import annotations

import functools
import gc
import importlib
import inspect
import pkgutil
from typing import Any

import upscaled

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
