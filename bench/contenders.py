"""The runtimes that `bench.runtimes` compares; each runs in its own process, on the same tiles."""

from __future__ import annotations

import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench import network_export
from upscaled.engines.builtin.cpu_library import CpuLibrary, choose_library
from upscaled.engines.builtin.graph import read_graph
from upscaled.engines.builtin.loader import Loader
from upscaled.engines.builtin.network import crop_margin
from upscaled.engines.builtin.protocol import NetworkFiles, worker_env
from upscaled.engines.engine import PADDING

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]
Run = Callable[[Pixels], Floats]
"""Takes a padded tile and returns the planes of the tile without padding, as `Network.run` does."""

OURS, OURS_IN_32 = "the builtin engine", "ours in 32 bits"
CORES = len(os.sched_getaffinity(0))
BF16_DB, F32_DB = 40.0, 50.0
"""PSNR in dB that a runtime's result must reach against ours before it is timed."""
_READY_SECONDS = 300.0


def _planes(pixels: Pixels) -> Floats:
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None], np.float32) / np.float32(255)


def _tile(planes: Floats, pixels: Pixels, padding: int = PADDING) -> Floats:
    """Return a view of ``planes`` without the padding that they still have."""
    whole = pixels.shape[1] - 2 * (PADDING - padding)
    return crop_margin(planes, padding * planes.shape[-1] // whole)


def layers_of(param: Path) -> network_export.Layers:
    """Return the layers of an ncnn network."""
    return read_graph(param, param.with_suffix(".bin"))


def our_library(param: Path) -> CpuLibrary:
    """Return the library on which the builtin engine runs a network on this machine."""
    return Loader(None, CORES, choose_library("auto")).library_for(((str(param), 0, 0),))


def _ours(
    param: Path,
    shape: tuple[int, int],
    threads: int,
    *,
    padding: int = PADDING,
    library: CpuLibrary | None = None,
) -> Run:
    library = library or our_library(param)
    if library is CpuLibrary.NCNN:
        return _ncnn(param, shape, threads, padding=padding)
    from upscaled.engines.builtin.openvino_network import OpenvinoNetwork  # noqa: PLC0415

    bf16 = library is CpuLibrary.OPENVINO_BF16
    network = OpenvinoNetwork(
        _files(param), cores=CORES, threads=threads, padding=padding, bf16=bf16
    )
    return lambda pixels: _tile(network.run(pixels), pixels, PADDING - padding)


def _ours_f32(param: Path, shape: tuple[int, int], threads: int) -> Run:
    return _ours(param, shape, threads, library=CpuLibrary.OPENVINO)


def _ours_whole(param: Path, shape: tuple[int, int], threads: int) -> Run:
    return _ours(param, shape, threads, padding=0)


def _ncnn(param: Path, shape: tuple[int, int], threads: int, *, padding: int = 0) -> Run:
    from upscaled.engines.builtin.ncnn_network import NcnnNetwork  # noqa: PLC0415

    network = NcnnNetwork(_files(param), device=None, threads=threads, padding=padding)
    return lambda pixels: _tile(network.run(pixels), pixels, PADDING - padding)


def _files(param: Path) -> NetworkFiles:
    return NetworkFiles(param, param.with_suffix(".bin"), "data", "output")


def _onnxruntime(param: Path, shape: tuple[int, int], threads: int) -> Run:
    import onnxruntime  # noqa: PLC0415

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    content = network_export.onnx_bytes(layers_of(param), *shape)
    session = onnxruntime.InferenceSession(content, options, ["CPUExecutionProvider"])
    return lambda pixels: _tile(session.run(None, {"data": _planes(pixels)})[0][0], pixels)


def _torch(param: Path, shape: tuple[int, int], threads: int, *, bf16: bool = False) -> Run:
    import torch  # noqa: PLC0415

    torch.set_num_threads(threads)
    kind = torch.bfloat16 if bf16 else torch.float32
    module = (
        network_export.torch_module(layers_of(param)).to(kind).to(memory_format=torch.channels_last)
    )
    example = torch.zeros(1, 3, *shape, dtype=kind).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        traced = _traced(torch, module, example)

    def run(pixels: Pixels) -> Floats:
        torch.set_num_threads(threads)  # the setting is per thread
        with torch.inference_mode():
            data = torch.from_numpy(_planes(pixels)).to(kind)
            made = traced(data.to(memory_format=torch.channels_last))
            return _tile(made[0].float().numpy(), pixels)

    return run


def _traced(torch: Any, module: Any, example: Any) -> Any:
    return torch.jit.optimize_for_inference(torch.jit.freeze(torch.jit.trace(module, example)))


def _torch_bf16(param: Path, shape: tuple[int, int], threads: int) -> Run:
    return _torch(param, shape, threads, bf16=True)


def _openvino(param: Path, shape: tuple[int, int], threads: int, kind: str = "f32") -> Run:
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment] # else it sends usage reports
    import openvino  # noqa: PLC0415

    core = openvino.Core()
    settings = {
        "INFERENCE_PRECISION_HINT": kind,
        "INFERENCE_NUM_THREADS": str(CORES),
        "NUM_STREAMS": str(CORES // threads),
    }
    content = network_export.onnx_bytes(layers_of(param), *shape)
    model = core.compile_model(core.read_model(content), "CPU", settings)
    requests = [model.create_infer_request() for _ in range(CORES // threads)]

    def run(pixels: Pixels) -> Floats:
        request = requests.pop()
        made = _tile(request.infer({0: _planes(pixels)})[0][0], pixels).copy()
        requests.append(request)
        return made

    return run


def _openvino_bf16(param: Path, shape: tuple[int, int], threads: int) -> Run:
    return _openvino(param, shape, threads, "bf16")


@dataclass(frozen=True)
class Runtime:
    """One runtime in one precision."""

    name: str
    make: Callable[[Path, tuple[int, int], int], Run]
    least_db: float = F32_DB


RUNTIMES = (
    Runtime(OURS, _ours),
    Runtime("ours, with the whole padding", _ours_whole),
    Runtime(OURS_IN_32, _ours_f32),
    Runtime("ncnn f32", _ncnn),
    Runtime("onnxruntime f32", _onnxruntime),
    Runtime("PyTorch f32", _torch),
    Runtime("OpenVINO f32", _openvino),
    Runtime("PyTorch bf16", _torch_bf16, BF16_DB),
    Runtime("OpenVINO bf16", _openvino_bf16, BF16_DB),
)


class NotReadyError(Exception):
    """A runtime cannot be timed; the message says why."""


@dataclass
class Contender:
    """A runtime, with all cores on one tile or with one tile per core."""

    runtime: Runtime
    threads: int
    """Threads on one tile."""
    seconds: list[float] = field(default_factory=list)
    """Duration of each turn so far."""
    agreement: float = 0.0
    """PSNR of its result against ours, in dB."""
    _pipe: Connection | None = None

    @contextmanager
    def started(self, param: Path, tile: Pixels) -> Iterator[Floats]:
        """Run it in a process for the length of the block; yield its result for ``tile``.

        Raises:
            NotReadyError: it is not installed, crashes, or takes too long.
        """
        self._pipe, there = multiprocessing.Pipe()
        arguments = (there, self.runtime, param, tile, self.threads)
        child = multiprocessing.get_context("spawn").Process(target=_serve, args=arguments)
        kept = dict(os.environ)
        os.environ.update(worker_env())  # threads and allocator read it when the process starts
        try:
            child.start()
        finally:
            os.environ.clear()
            os.environ.update(kept)
        there.close()
        try:
            yield self._first()
            self._pipe.send("stop")
            child.join(10)
        finally:
            child.kill()
            child.join()
            self._pipe.close()

    def _first(self) -> Floats:
        assert self._pipe is not None
        try:
            first = self._pipe.recv() if self._pipe.poll(_READY_SECONDS) else "not ready in time"
        except EOFError:
            first = "it crashed"
        if isinstance(first, str):
            raise NotReadyError(first)
        picture: Floats = first
        return picture

    def turn(self) -> float:
        """Process as many tiles as there are cores; return the seconds."""
        assert self._pipe is not None
        self._pipe.send("go")
        self.seconds.append(self._pipe.recv())
        return self.seconds[-1]

    @property
    def median(self) -> float:
        """The median duration of its turns, in seconds."""
        return statistics.median(self.seconds)


def _serve(pipe: Connection, runtime: Runtime, param: Path, tile: Pixels, threads: int) -> None:
    """Run in the child: load the runtime, send its result, then the seconds of each turn."""
    try:
        run = runtime.make(param, tile.shape[:2], threads)
        pipe.send(run(tile).astype(np.float32))
    except ImportError as error:
        pipe.send(f"not installed: {error.name}")
        return
    with ThreadPoolExecutor(CORES // threads) as pool:
        tiles = [np.ascontiguousarray(np.roll(tile, 7 * n, 1)) for n in range(CORES)]
        list(pool.map(run, tiles))
        while pipe.recv() == "go":
            began = time.perf_counter()
            list(pool.map(run, tiles))
            pipe.send(time.perf_counter() - began)
