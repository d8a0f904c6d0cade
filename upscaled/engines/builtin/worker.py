"""The resident worker of the builtin engine: keeps networks loaded, answers requests.

    python -m upscaled.engines.builtin.worker PARENT_PID --device cpu|INDEX --threads N

Requests, by their ``op``: ``upscale`` (a task; an event a tile), ``inspect`` (a network)
and ``devices`` (lists the Vulkan devices). `messages` makes and reads them.
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

from upscaled.engines import memory
from upscaled.engines.builtin import inspection, upscaling
from upscaled.engines.builtin.cpu_library import CpuLibrary
from upscaled.engines.builtin.loader import Identity, Loader, UnfitError
from upscaled.engines.builtin.memory_budget import TooLittleError
from upscaled.engines.builtin.memory_gate import Needs, Sharing
from upscaled.engines.builtin.messages import MODELS_KEPT, NetworkFiles, decode_network, decode_task
from upscaled.engines.builtin.network import InferenceError, Network
from upscaled.engines.builtin.parallelism import Crew
from upscaled.engines.builtin.tile_plan import Plan, plan_on_cpu, plan_on_gpu
from upscaled.engines.engine import ModelFiles, UpscaleTask
from upscaled.workers.server import Message, RefusedError, serve

_HUGE_PAGES_NEED = 2.0
"""Times the memory that tasks take must be there for huge pages. Layers are 4 to 8 % quicker in
them, but the kernel fills the holes between layers too: 950 MiB were held where 694 were meant."""
_GPU_SHARE = 0.8
"""Part of the free video memory."""
_GPU_ON_CPU = 3
"""`GpuInfo.type` of a CPU that poses as a GPU."""
_GPU_INTEGRATED = 1


@dataclasses.dataclass(frozen=True)
class _Key:
    """A loaded network: how its weights are laid out depends on the threads it is run by."""

    files: Identity
    threads: int
    library: CpuLibrary


@dataclasses.dataclass(frozen=True)
class _Loaded:
    network: Network
    weights: int
    """Bytes that it takes without any tile."""


class Worker:
    """Answers the requests. ``device`` is a Vulkan index or None for the CPU."""

    def __init__(
        self,
        device: int | None,
        threads: int,
        memory_limit_mb: int | None,
        library: CpuLibrary = CpuLibrary.NCNN,
    ) -> None:
        self._device = device
        self._threads = threads or len(os.sched_getaffinity(0))
        self._loader = Loader(device, self._threads, library)
        self._limit = memory.ceiling(memory_limit_mb)
        self._networks: OrderedDict[_Key, _Loaded] = OrderedDict()
        self._changing = threading.Lock()
        self._resting = threading.Lock()
        self._sharing: Sharing[_Key] = Sharing()

    def handle(self, message: Message, send: Callable[[Message], None]) -> Message:
        """Do one request; `answering.serve` calls this."""
        try:
            match message["op"]:
                case "upscale":
                    return self._upscale(decode_task(message), send)
                case "inspect":
                    return self._inspect(message)
                case "devices":
                    return {"devices": _devices()}
                case other:
                    raise RefusedError("unknown_request", f"There is no request {other!r}.")
        except InferenceError as error:
            raise RefusedError(error.kind, str(error)) from None
        except TooLittleError as error:
            raise RefusedError("too_little_memory", str(error)) from None
        except MemoryError:
            raise RefusedError("failed", "There is not enough memory for this tile.") from None
        except OSError as error:
            raise RefusedError(
                "failed", f"{Path(error.filename or 'A file').name} failed: {error.strerror}."
            ) from None

    def _inspect(self, message: Message) -> Message:
        findings = inspection.inspect(decode_network(message), threads=self._threads)
        return dataclasses.asdict(findings)

    def _upscale(self, task: UpscaleTask, send: Callable[[Message], None]) -> Message:
        if self._device is not None and self._device >= ncnn.get_gpu_count():
            raise RefusedError(
                "no_device",
                f"There is no Vulkan device {self._device}; `upscaled doctor` lists those there "
                "are.",
            )
        files = _identity(task.model)
        while True:
            try:
                return self._attempt(task, files, send)
            except UnfitError as error:
                note = str(error)
            memory.give_back()  # of the refused network too, which went with the error
            send({"note": note})

    def _attempt(
        self, task: UpscaleTask, files: Identity, send: Callable[[Message], None]
    ) -> Message:
        plan = self._plan(task, files)
        tile, library = plan.tile, plan.library.with_version()
        # Nobody else wants the other cores while it is alone.
        alone = Crew(1, self._threads) if plan.crew.workers == 1 else plan.crew
        with self._sharing.taking(
            _needs(files, plan, plan.crew), _needs(files, plan, alone)
        ) as taken:
            send({"begun": True})
            with self._changing:
                network = self._network(task.model, taken, plan)
            try:
                upscaling.upscale(
                    network,
                    task,
                    tile,
                    lambda done, total, rows: send(
                        {"done": done, "of": total, "rows": rows, "tile": tile, "library": library}
                    ),
                    workers=plan.crew.workers,
                )
            finally:
                with self._resting:
                    empty = network.rest()
                    self._sharing.keeps(taken.network, 0 if empty else taken.tiles)
                memory.give_back()
        return {"tile_size": tile}

    def _plan(self, task: UpscaleTask, files: Identity) -> Plan:
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
            library=self._loader.library_for(files),
        )

    def _network(self, model: ModelFiles, needs: Needs[_Key], plan: Plan) -> Network:
        """Return a loaded network; others, not in use, go where there is no room beside."""
        key = needs.network
        in_use = self._sharing.networks()
        for other in [other for other in self._networks if other not in in_use]:
            models = {known.files for known in [*self._networks, key]}
            full = self._device is None and self._taken() > plan.memory
            if not full and len(models) <= MODELS_KEPT:
                break
            del self._networks[other]
            memory.give_back()
        memory.use_huge_pages(_HUGE_PAGES_NEED * self._taken() <= self._limit)
        loaded = self._networks.get(key)
        if loaded is None:
            files = NetworkFiles(model.param, model.bin, model.input_blob, model.output_blob)
            network = self._loader.load(files, key.files, plan, threads=key.threads)
            loaded = self._networks[key] = _Loaded(network, needs.weights)
        self._networks.move_to_end(key)
        return loaded.network

    def _taken(self) -> int:
        """Return the bytes that tasks under way and networks that are not in use take."""
        in_use = self._sharing.networks()
        idle = sum(one.weights for key, one in self._networks.items() if key not in in_use)
        return idle + self._sharing.taken()

    def _free(self) -> int:
        """Return the bytes that tiles may take as things are now."""
        if self._device is None:
            return memory.available()
        kind = ncnn.get_gpu_info(self._device).type()
        free = int(ncnn.get_gpu_device(self._device).get_heap_budget() * (1 << 20) * _GPU_SHARE)
        on_host = kind in {_GPU_INTEGRATED, _GPU_ON_CPU}
        return min(memory.available(), self._limit, free) if on_host else free


def _identity(model: ModelFiles) -> Identity:
    facts = [(path, path.stat()) for path in (model.param, model.bin)]
    return tuple((str(path), stat.st_size, stat.st_mtime_ns) for path, stat in facts)


def _needs(files: Identity, plan: Plan, crew: Crew) -> Needs[_Key]:
    """Return what a task takes that is done as planned, but by ``crew``."""
    return Needs(
        _Key(files, crew.threads, plan.library),
        weights=plan.weight_memory,
        tiles=plan.tile_memory,
        room=plan.weight_memory + plan.room,
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
    arguments = parser.parse_args()
    device = None if arguments.device == "cpu" else int(arguments.device)
    worker = Worker(device, arguments.threads, arguments.memory_limit_mb, arguments.library)
    serve(worker.handle, at_once=arguments.at_once)


if __name__ == "__main__":
    main()
