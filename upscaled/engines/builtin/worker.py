"""The worker process of the builtin engine: keeps networks loaded and answers requests.

    python -m upscaled.engines.builtin.worker PARENT_PID --device cpu|INDEX --threads N

Requests, by their ``op``: ``upscale`` (a task; sends an event after each tile), ``inspect`` (a
network), ``measure`` (a method to run a network) and ``devices`` (lists the Vulkan devices).
`messages` encodes and decodes them.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ncnn

from upscaled import serial
from upscaled.engines import memory
from upscaled.engines.builtin import inspection, measuring, processor, upscaling
from upscaled.engines.builtin.compiled_networks import CompiledNetworks
from upscaled.engines.builtin.cpu_library import CpuLibrary, versions
from upscaled.engines.builtin.loader import Identity, LibraryRejectedError, Loader
from upscaled.engines.builtin.memory_budget import TooLittleMemoryError
from upscaled.engines.builtin.memory_gate import MemoryGate, MemoryNeed
from upscaled.engines.builtin.network import InferenceError, Network
from upscaled.engines.builtin.parallelism import Parallelism, speedup
from upscaled.engines.builtin.protocol import (
    BUSY,
    NetworkFiles,
    decode_network,
    decode_task,
    decode_trial,
)
from upscaled.engines.builtin.tile_plan import TilePlan, plan_on_cpu, plan_on_gpu
from upscaled.engines.builtin.upscaling import TilesDone
from upscaled.engines.engine import PADDING, TTA_RUNS, ModelFiles, UpscaleTask
from upscaled.engines.guessed_time import (
    CPU_WEIGHTS_PER_SECOND,
    GPU_WEIGHTS_PER_SECOND,
    guess_seconds,
)
from upscaled.engines.traits import BUILTIN
from upscaled.workers.server import Message, RequestRefusedError, serve

_HUGE_PAGES_NEED = 2.0
"""Huge pages are used while the limit is at least this many times the tasks' memory. They make
layers 4 to 8 % faster, but they also back the gaps between layers: 950 MiB were held where 694 were
planned."""
_GPU_SHARE = 0.8
"""Part of the free video memory that tiles may take."""
_GPU_ON_CPU = 3
"""`GpuInfo.type` of a software driver, which runs on the CPU."""
_GPU_INTEGRATED = 1


@dataclasses.dataclass(frozen=True)
class _Key:
    """Identifies a loaded network. The layout of its weights depends on the number of threads."""

    files: Identity
    threads: int
    library: CpuLibrary
    fast: bool = False
    """Its picture may differ more than usual."""


@dataclasses.dataclass
class _Loaded:
    """A loaded network."""

    network: Network
    weights: int
    """Bytes that it takes without tiles."""
    seconds_per_pixel: float
    """Time of its last tile for each padded pixel; a guess before the first tile is done."""


class NetworkWorker:
    """Answers requests.

    Args:
        device: a Vulkan index; None: the CPU.
        threads: of inference; 0: one for each core.
        memory_limit_mb: MiB that the process may hold; None: half of the machine's.
        library: the preferred library on the CPU.
        networks: folder that keeps compiled networks; None: none are kept.
    """

    def __init__(
        self,
        device: int | None,
        threads: int,
        memory_limit_mb: int | None,
        library: CpuLibrary = CpuLibrary.NCNN,
        networks: Path | None = None,
    ) -> None:
        self._device = device
        self._threads = threads or len(os.sched_getaffinity(0))
        facts = (*versions(), processor.name(), *sorted(processor.flags()))
        self._loader = Loader(device, self._threads, library, CompiledNetworks(networks, facts))
        self._limit = memory.ceiling(memory_limit_mb)
        self._networks: OrderedDict[_Key, _Loaded] = OrderedDict()
        self._loading = threading.Lock()
        self._releasing = threading.Lock()
        self._gate: MemoryGate[_Key] = MemoryGate()

    def handle(self, message: Message, send: Callable[[Message], None]) -> Message:
        """Answer one request; `upscaled.workers.server.serve` calls this."""
        try:
            match message["op"]:
                case "upscale":
                    return self._upscale(decode_task(message), send)
                case "inspect":
                    return self._inspect(message)
                case "measure":
                    return self._measure(message)
                case "devices":
                    return {"devices": _devices()}
                case other:
                    raise RequestRefusedError("unknown_request", f"There is no request {other!r}.")
        except InferenceError as error:
            raise RequestRefusedError(error.kind, str(error)) from None
        except TooLittleMemoryError as error:
            raise RequestRefusedError("too_little_memory", str(error)) from None
        except MemoryError:
            raise RequestRefusedError(
                "failed", "There is not enough memory for this tile."
            ) from None
        except OSError as error:
            raise RequestRefusedError(
                "failed", f"{Path(error.filename or 'A file').name} failed: {error.strerror}."
            ) from None

    def _inspect(self, message: Message) -> Message:
        findings = inspection.inspect(decode_network(message), threads=self._threads)
        return dataclasses.asdict(findings)

    def _measure(self, message: Message) -> Message:
        try:
            found = measuring.measure(decode_trial(message), self._threads, self._limit)
        except measuring.MachineBusyError:
            raise RequestRefusedError(
                BUSY, "Other programs keep the processor busy, so nothing can be measured."
            ) from None
        reply: Message = serial.plain(found)
        return reply

    def _upscale(self, task: UpscaleTask, send: Callable[[Message], None]) -> Message:
        if self._device is not None and self._device >= ncnn.get_gpu_count():
            raise RequestRefusedError(
                "no_device",
                f"There is no Vulkan device {self._device}; `upscaled doctor` lists those there "
                "are.",
            )
        files = _identity(task.model)
        while True:
            try:
                return self._attempt(task, files, send)
            except LibraryRejectedError as error:
                note = str(error)
            memory.trim()  # the rejected network was freed with the error
            send({"note": note})

    def _attempt(
        self, task: UpscaleTask, files: Identity, send: Callable[[Message], None]
    ) -> Message:
        plan = self._plan(task, files)
        # While it is the only task, it may use all cores.
        exclusive = (
            Parallelism(1, self._threads) if plan.parallelism.workers == 1 else plan.parallelism
        )
        with self._gate.reserve(
            _need(files, plan, plan.parallelism, fast=_fast(task)),
            _need(files, plan, exclusive, fast=_fast(task)),
        ) as reserved:
            send({"begun": True})
            with self._loading:
                loaded = self._load(task, reserved, plan)
            try:
                upscaling.upscale(
                    loaded.network,
                    task,
                    plan.tile,
                    lambda tiles: send(
                        _progress(tiles, loaded, plan, task) | {"threads": reserved.network.threads}
                    ),
                    workers=plan.parallelism.workers,
                )
            finally:
                with self._releasing:
                    empty = loaded.network.release_memory()
                    self._gate.set_cached(reserved.network, 0 if empty else reserved.tiles)
                memory.trim()
        return {"tile_size": plan.tile}

    def _plan(self, task: UpscaleTask, files: Identity) -> TilePlan:
        picture, tile, free = task.source.size, task.tile_size, self._free()
        if self._device is not None:
            return plan_on_gpu(task.model, picture, tile=tile, threads=self._threads, free=free)
        return plan_on_cpu(
            task.model,
            task.model.bin.stat().st_size,
            picture,
            tile=tile,
            threads=self._threads,
            limit=self._limit,
            free=free,
            shares=task.shares,
            library=self._loader.library_for(files, _measured(task), fast=_fast(task)),
            method=task.method,
        )

    def _load(self, task: UpscaleTask, need: MemoryNeed[_Key], plan: TilePlan) -> _Loaded:
        """Return the loaded network; unload others if memory or `models_kept` demands it."""
        key, model = need.network, task.model
        in_use = self._gate.networks_in_use()
        for other in [other for other in self._networks if other not in in_use]:
            models = {known.files for known in [*self._networks, key]}
            full = self._device is None and self._used() > plan.memory_limit
            if not full and len(models) <= BUILTIN.models_kept:
                break
            del self._networks[other]
            memory.trim()
        memory.use_huge_pages(_HUGE_PAGES_NEED * self._used() <= self._limit)
        loaded = self._networks.get(key)
        if loaded is None:
            files = NetworkFiles(model.param, model.bin, model.input_blob, model.output_blob)
            network = self._loader.load(
                files,
                key.files,
                plan,
                threads=key.threads,
                measured=_measured(task),
                fast=key.fast,
            )
            guess = guess_seconds(files.bin.stat().st_size, 1, self._weights_per_second(key))
            loaded = self._networks[key] = _Loaded(network, need.weights, guess)
        self._networks.move_to_end(key)
        return loaded

    def _weights_per_second(self, key: _Key) -> float:
        if self._device is not None:
            return GPU_WEIGHTS_PER_SECOND
        return CPU_WEIGHTS_PER_SECOND * speedup(key.threads)

    def _used(self) -> int:
        """Return the bytes that running tasks and unused networks take."""
        in_use = self._gate.networks_in_use()
        idle = sum(one.weights for key, one in self._networks.items() if key not in in_use)
        return idle + self._gate.used()

    def _free(self) -> int:
        """Return the bytes that are free for tiles now."""
        if self._device is None:
            return memory.available()
        kind = ncnn.get_gpu_info(self._device).type()
        free = int(ncnn.get_gpu_device(self._device).get_heap_budget() * (1 << 20) * _GPU_SHARE)
        on_host = kind in {_GPU_INTEGRATED, _GPU_ON_CPU}
        return min(memory.available(), self._limit, free) if on_host else free


def _progress(
    tiles: TilesDone, loaded: _Loaded, plan: TilePlan, task: UpscaleTask
) -> dict[str, Any]:
    """Return the event for a task's progress, with how long the running tiles should take."""
    if tiles.seconds_per_pixel is not None:
        loaded.seconds_per_pixel = tiles.seconds_per_pixel / (TTA_RUNS if task.tta else 1)
    width, height = task.source.size.width, task.bottom - task.top
    columns, rows = (min(plan.tile, side) + 2 * PADDING for side in (width, height))
    seconds = columns * rows * loaded.seconds_per_pixel * (TTA_RUNS if task.tta else 1)
    return {
        "done": tiles.done,
        "of": tiles.total,
        "rows": tiles.rows,
        "tile": plan.tile,
        "library": plan.library.with_version(),
        "at_once": plan.parallelism.workers,
        "running": min(plan.parallelism.workers, tiles.total - tiles.done),
        "seconds": seconds,
    }


def _measured(task: UpscaleTask) -> CpuLibrary | None:
    return None if task.method is None else CpuLibrary(task.method.library)


def _identity(model: ModelFiles) -> Identity:
    facts = [(path, path.stat()) for path in (model.param, model.bin)]
    return tuple((str(path), stat.st_size, stat.st_mtime_ns) for path, stat in facts)


def _fast(task: UpscaleTask) -> bool:
    return task.method is not None and task.method.fast


def _need(
    files: Identity, plan: TilePlan, parallelism: Parallelism, *, fast: bool
) -> MemoryNeed[_Key]:
    """Return the memory of a planned task, run with ``parallelism``."""
    return MemoryNeed(
        _Key(files, parallelism.threads, plan.library, fast),
        weights=plan.weight_memory,
        tiles=plan.tile_memory,
        limit=plan.weight_memory + plan.tile_memory_limit,
    )


def _devices() -> list[dict[str, Any]]:
    found = []
    for index in range(ncnn.get_gpu_count()):
        info = ncnn.get_gpu_info(index)
        found.append({"index": index, "name": info.device_name(), "type": int(info.type())})
    return found


def main() -> None:
    """Serve until the parent closes the pipe."""
    parser = argparse.ArgumentParser(prog="upscaled.engines.builtin.worker")
    parser.add_argument("parent", type=int)
    parser.add_argument("--device", required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--memory-limit-mb", type=int)
    parser.add_argument("--at-once", type=int, default=1)
    parser.add_argument("--library", type=CpuLibrary, default=CpuLibrary.NCNN)
    parser.add_argument("--networks", type=Path)
    arguments = parser.parse_args()
    device = None if arguments.device == "cpu" else int(arguments.device)
    worker = NetworkWorker(
        device,
        arguments.threads,
        arguments.memory_limit_mb,
        arguments.library,
        arguments.networks,
    )
    serve(worker.handle, at_once=arguments.at_once)


if __name__ == "__main__":
    main()
