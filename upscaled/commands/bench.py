"""``upscaled bench``: measures the methods to run networks on this processor, and shows them."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Iterator

from upscaled import serial
from upscaled.config.settings import Config
from upscaled.digests import Digests
from upscaled.engines.builtin import choice
from upscaled.engines.builtin.calibration import BusyError, Calibration
from upscaled.engines.builtin.choice import Table
from upscaled.engines.builtin.cpu_library import possible_libraries
from upscaled.engines.builtin.cpu_methods import CpuMethods, key_of
from upscaled.engines.engine import ModelFiles
from upscaled.engines.selection import choose, cpu_threads, open_methods, worker_memory_mb
from upscaled.errors import ConfigError, UnknownModelError
from upscaled.models.catalog import ModelCatalog

_TRIES = 3
_BUSY_SECONDS = 10.0
"""Between tries to measure on a busy machine."""


async def bench(options: argparse.Namespace, config: Config) -> int:
    """Measure the networks of the named models and print the tables."""
    selected = await choose(config)
    methods = await open_methods(config, selected, config.methods_file)
    if not methods.used:
        raise ConfigError(
            "There is nothing to measure: upscaler.cpu_library forces a library, "
            "upscaler.calibrate is false, or no network runs on the CPU."
        )
    memory_mb = worker_memory_mb(config, selected)
    libraries = await asyncio.to_thread(possible_libraries)
    tables = []
    for model, key in await _networks(options.model, config):
        table = methods.tables.get(key)
        if table is None or not table.final or options.again:
            print(f"Measuring {model.stem} …", file=sys.stderr, flush=True)
            calibration = Calibration(model, libraries, cpu_threads(config), memory_mb)
            table = await _measured(calibration)
            if table.final or not methods.known(key):
                await methods.put(key, table)
        tables.append(table)
    if options.json:
        print(json.dumps([serial.plain(table) for table in tables]))
    else:
        print("\n\n".join("\n".join(lines_of(table)) for table in tables))
    return 0


async def _measured(calibration: Calibration) -> Table:
    """Return the measurements of a network; pause while other programs are busy."""
    for left in reversed(range(_TRIES)):
        try:
            return await calibration.run()
        except BusyError:
            if left:
                print(
                    "Other programs keep the processor busy; the next try follows in "
                    f"{_BUSY_SECONDS:g} s.",
                    file=sys.stderr,
                    flush=True,
                )
                await asyncio.sleep(_BUSY_SECONDS)
    return calibration.table


async def _networks(names: list[str], config: Config) -> list[tuple[ModelFiles, str]]:
    """Return the networks of the named models, or of all, with their keys.

    Raises:
        UnknownModelError: a name is not that of a model.
    """
    catalog = ModelCatalog.of(config)
    await catalog.rescan()
    models = [catalog.get(name) for name in names] if names else list(catalog.models)
    if not models:
        raise UnknownModelError(
            "There is no model; `upscaled models install` puts them into the models folder."
        )
    digests = Digests()
    files = [one for model in models for one in model.files.values()]
    return [(one, key_of(await digests.of(one.param), await digests.of(one.bin))) for one in files]


async def known_tables(config: Config, methods: CpuMethods) -> list[Table]:
    """Return what was measured of the installed networks, without measuring."""
    try:
        networks = await _networks([], config)
    except UnknownModelError:
        return []
    return [methods.tables[key] for _, key in networks if key in methods.tables]


def lines_of(table: Table) -> Iterator[str]:
    """Yield the lines of a table for people: the network, then its methods."""
    method, small = choice.choose(table), choice.choose_for_small(table)
    yield table.name
    yield "  method                                 s/MP     dB   MiB"
    for pace in sorted(table.paces, key=lambda pace: pace.seconds_per_megapixel):
        least = table.least_db(pace.library)
        shown = "32 bits" if least is None else f"{least:.1f}"
        at_once = (
            f"{pace.at_once} × {pace.threads} threads"
            if pace.at_once > 1
            else (f"{pace.threads} threads")
        )
        name = f"{pace.library.value}, tile {pace.side}, {at_once}"
        bad = "" if table.holds(pace.library) else "  not like enough"
        yield (
            f"  {name:<36} {pace.seconds_per_megapixel:>6.2f} {shown:>7} {pace.memory_mb:>5}{bad}"
        )
    for library, reason in table.failures.items():
        yield f"  {library.value}: {reason}"
    if table.unmeasured:
        yield (
            "  chosen, provisionally: what the rule of cpu_library gives; other programs kept the "
            "processor busy,"
        )
        yield (
            f"  so {table.unmeasured} methods are left to measure, which the server does when it "
            "is quiet"
        )
        return
    if method is None or small is None:
        yield "  chosen: nothing, since no method works; the rule of cpu_library applies"
        return
    cap = f", tiles up to {method.tile}" if method.tile else ""
    how = "chosen, provisionally" if table.doubt else "chosen"
    yield f"  {how}: {method.library}{cap}; for small pictures {small.library}"
    if table.doubt:
        yield (
            f"  jobs take {table.doubt:.1f} times what was measured; the server measures it again "
            "when it is idle"
        )
