"""Selects the engine and its devices: what ``upscaler.engine: auto`` means on this machine."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from upscaled.config.settings import Config
from upscaled.engines import devices, memory
from upscaled.engines.binary import program as native_program
from upscaled.engines.binary.engine import BinaryEngine
from upscaled.engines.binary.program import ProgramInfo
from upscaled.engines.builtin.cpu_library import CpuLibrary, choose_library
from upscaled.engines.builtin.cpu_methods import CpuMethods, this_machine
from upscaled.engines.builtin.engine import BuiltinEngine
from upscaled.engines.builtin.memory_budget import MemoryBudget, TooLittleMemoryError
from upscaled.engines.engine import CPU, Device, Engine, ModelFiles
from upscaled.engines.pool import EnginePool, Place
from upscaled.engines.traits import BINARY, BUILTIN, EngineTraits
from upscaled.errors import ConfigError, EngineError, NoMemoryError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EngineChoice:
    """The engine and devices that the configuration selects on this machine."""

    traits: EngineTraits
    devices: tuple[Device, ...]
    program: ProgramInfo | None
    """The native program, if the engine is one."""
    reason: str
    """One sentence for people: why this engine and these devices."""
    library: CpuLibrary = CpuLibrary.NCNN
    """The preferred library on the CPU."""
    memory_mb: int | None = None
    """MiB that all engines with `EngineTraits.has_memory_limit` may hold together; None: each may
    hold half of the machine's memory."""

    @property
    def engine(self) -> str:
        """The engine's name, as in settings and receipts."""
        return self.traits.name


async def choose(config: Config) -> EngineChoice:
    """Select the engine and its devices.

    Raises:
        ConfigError: what the configuration asks for is not there.
    """
    limit = config.upscaler.memory_limit_mb
    memory_mb = await asyncio.to_thread(memory.engine_part_mb, limit)
    library = await asyncio.to_thread(choose_library, config.upscaler.cpu_library)
    return dataclasses.replace(await _choose(config), memory_mb=memory_mb, library=library)


async def _choose(config: Config) -> EngineChoice:
    found = await devices.list_devices()
    wanted = config.upscaler.engine
    if wanted == BUILTIN.name:
        return _builtin(config, found, "upscaler.engine is builtin")
    program, obstacle = await _program(config)
    if wanted == BINARY.name:
        if program is None:
            raise ConfigError(f"upscaler.engine is 'binary', but {obstacle}")
        if not found:
            raise ConfigError(
                "upscaler.engine is 'binary', but no Vulkan device was found; install the driver "
                "of your GPU, or set upscaler.engine to auto or builtin."
            )
        best = devices.best_device(found) or found[0]
        asked_for = _chosen(config, found) or (best,)
        return EngineChoice(BINARY, asked_for, program, "upscaler.engine is binary")
    if program is None:
        return _builtin(config, found, obstacle)
    chosen = _chosen(config, found)
    if not chosen:
        gpu = devices.best_device(found)
        if gpu is None:
            return _builtin(config, found, f"{program.path.name} is there, but no real GPU")
        chosen = (gpu,)
    if CPU in chosen:
        return _builtin(config, found, "upscaler.gpu_ids asks for the CPU")
    return EngineChoice(BINARY, chosen, program, f"{program.path.name} and a GPU are there")


async def _program(config: Config) -> tuple[ProgramInfo | None, str]:
    """Return the native program, or None and the sentence why there is none to use."""
    path = await asyncio.to_thread(
        native_program.find_program, config.upscaler.binary_path, config.path("bin")
    )
    if path is None:
        return None, "there is no native program in bin/ or in PATH"
    try:
        return await native_program.probe(path), ""
    except EngineError as error:
        return None, error.message


def _builtin(config: Config, found: Sequence[Device], why: str) -> EngineChoice:
    chosen = _chosen(config, found)
    if not chosen:
        best = devices.best_device(found)
        chosen = (best,) if best else (CPU,)
    where = " and ".join(device.name for device in chosen)
    return EngineChoice(BUILTIN, chosen, None, f"{why.rstrip('.')}; builtin engine on {where}")


def _chosen(config: Config, found: Sequence[Device]) -> tuple[Device, ...]:
    """Return the devices that ``upscaler.gpu_ids`` names; none when it names none."""
    by_index: dict[int | None, Device] = {device.index: device for device in found}
    chosen = []
    for index in config.upscaler.gpu_ids:
        device = CPU if index == -1 else by_index.get(index)
        if device is None:
            known = ", ".join(f"{d.index} ({d.name})" for d in found) or "none"
            raise ConfigError(
                f"upscaler.gpu_ids is {list(config.upscaler.gpu_ids)}; it can name the Vulkan "
                f"devices of this machine ({known}) and -1, the CPU."
            )
        chosen.append(device)
    if config.upscaler.engine == BINARY.name and CPU in chosen:
        raise ConfigError(
            "upscaler.gpu_ids contains -1, but the native program can't work on the CPU; set "
            "upscaler.engine to builtin."
        )
    return tuple(chosen)


def make_pool(config: Config, choice: EngineChoice) -> EnginePool:
    """Build the slots for a choice.

    There is one for each device, or ``limits.max_concurrent_jobs`` of them. Without that setting
    small pictures share the CPU, as many as it has cores.
    """
    most = config.limits.max_concurrent_jobs or len(choice.devices)
    # With more slots than devices, devices are shared; with fewer, some stay idle.
    counts = [
        most // len(choice.devices) + (number < most % len(choice.devices))
        for number in range(len(choice.devices))
    ]
    memory_mb = worker_memory_mb(config, choice)
    places = [
        (Place(choice.engine, device), count, _maker(config, choice, device, memory_mb))
        for device, count in zip(choice.devices, counts, strict=True)
        if count
    ]
    spares = []
    if _has_spare(config, choice):
        spares.append((Place(BUILTIN.name, CPU), _builtin_maker(config, choice, CPU, memory_mb)))
    shared = {place: _cpu_shares(config) for place, _, _ in places if place.is_cpu}
    return EnginePool(places, spares, shared)


def worker_memory_mb(config: Config, choice: EngineChoice) -> int | None:
    """Return how many MiB each builtin process may hold; None: half of the machine's memory."""
    if choice.memory_mb is None:
        return None
    slots = config.limits.max_concurrent_jobs or len(choice.devices)
    workers = (slots if choice.traits.has_memory_limit else 0) + _has_spare(config, choice)
    return choice.memory_mb // max(1, workers)


def check_memory(config: Config, choice: EngineChoice, model: ModelFiles) -> None:
    """Refuse a model whose smallest tile does not fit into the engine's memory; blocking.

    Only on the CPU: a GPU has memory of its own.

    Raises:
        NoMemoryError: it does not fit; the message names the setting and the value it needs.
        OSError: the model's file can't be read.
    """
    if not choice.traits.has_memory_limit or any(device != CPU for device in choice.devices):
        return
    limit = memory.ceiling(worker_memory_mb(config, choice))
    try:
        MemoryBudget(model, model.bin.stat().st_size, limit, choice.library)
    except TooLittleMemoryError as error:
        raise NoMemoryError(str(error)) from None


def cpu_threads(config: Config) -> int:
    """Return how many threads the builtin engine uses on the CPU."""
    return config.upscaler.threads or len(os.sched_getaffinity(0))


async def open_methods(config: Config, choice: EngineChoice, file: Path) -> CpuMethods:
    """Return what was measured of methods to run networks, if the configuration leaves the choice.

    Args:
        config: the settings.
        choice: the engine and its devices.
        file: where measurements are kept.
    """
    settings = config.upscaler
    if not (
        settings.calibrate
        and settings.cpu_library == "auto"
        and choice.traits.has_memory_limit
        and CPU in choice.devices
    ):
        return CpuMethods()
    machine = await asyncio.to_thread(this_machine, cpu_threads(config), settings.memory_limit_mb)
    found = CpuMethods(file, machine)
    await found.load()
    return found


def _has_spare(config: Config, choice: EngineChoice) -> bool:
    return CPU not in choice.devices and config.upscaler.fallback == "cpu"


def _cpu_shares(config: Config) -> int:
    """Return how many small pictures may run on the CPU at once."""
    if config.limits.max_concurrent_jobs:
        return 1
    return cpu_threads(config)


def _maker(
    config: Config, choice: EngineChoice, device: Device, memory_mb: int | None
) -> Callable[[], Engine]:
    program = choice.program
    if program is None:
        return _builtin_maker(config, choice, device, memory_mb)
    # By default the program takes its best device, whose index may differ from ours.
    pinned = device if config.upscaler.gpu_ids else None
    return lambda: BinaryEngine(
        program.path,
        pinned,
        flavour=program.flavour,
        stall_seconds=config.upscaler.stall_seconds,
    )


def _builtin_maker(
    config: Config, choice: EngineChoice, device: Device, memory_mb: int | None
) -> Callable[[], Engine]:
    return lambda: BuiltinEngine(
        device,
        threads=config.upscaler.threads,
        memory_limit_mb=memory_mb,
        stall_seconds=config.upscaler.stall_seconds,
        at_once=_cpu_shares(config) if device == CPU else 1,
        library=choice.library,
        networks=config.networks_dir,
    )
