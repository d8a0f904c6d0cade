"""The builtin engine's rate against other runtimes' on the same networks.

    python -m bench.runtimes [--quick] [--rounds N]

Each runtime gets the networks from the same files, in a process of its own, and works on the same
padded tiles of a photo: once all cores on one tile, once a tile for each core at the same time.
Its pictures must agree with ours to 50 dB (32 bits) or 40 dB (16) before it is timed. All are
timed by turns; of each the quicker way counts (a quick run tries the first only). Runtimes that are
not installed are named (the dependency group ``bench`` has them). The whole engine is timed on a
photo too, and its arithmetic held against what the processor does on a matrix product.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench import nets
from bench.photos import photo
from bench.report import Report, table
from bench.workplace import make_parser, workplace
from upscaled.engines.builtin import BuiltinEngine
from upscaled.engines.cpu_library import CpuLibrary, choose_library
from upscaled.engines.graph import operations, read_graph
from upscaled.engines.messages import NetworkFiles, worker_env
from upscaled.engines.protocol import CPU, PADDING, ModelFiles, UpscaleTask
from upscaled.pictures import RawImage, Size

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]
Run = Callable[[Pixels], Floats]

OURS = "the builtin engine"
CORES = len(os.sched_getaffinity(0))
TILES = {"realesr-animevideov3-x4": 256, "realesrgan-x4plus": 76}
"""Tile sides without padding."""
ROUNDS = {"realesr-animevideov3-x4": 25, "realesrgan-x4plus": 7}
"""Turns. Tiles of the small network take a second each, in which the machine's pace changes more
than the runtimes differ; those of the large one take four."""
PHOTOS = {"realesr-animevideov3-x4": (1600, 1200), "realesrgan-x4plus": (256, 256)}
_READY_SECONDS = 300.0
_BF16_DB, _F32_DB = 40.0, 50.0


def _planes(pixels: Pixels) -> Floats:
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None], np.float32) / np.float32(255)


def _layers(param: Path) -> nets.Layers:
    return read_graph(param, param.with_suffix(".bin"))


def _ours(param: Path, shape: tuple[int, int], threads: int) -> Run:
    if choose_library("auto") is CpuLibrary.NCNN:
        return _ncnn(param, shape, threads)
    from upscaled.engines.openvino_network import OpenvinoNetwork  # noqa: PLC0415

    files = NetworkFiles(param, param.with_suffix(".bin"), "data", "output")
    return OpenvinoNetwork(files, cores=CORES, threads=threads).run


def _ncnn(param: Path, shape: tuple[int, int], threads: int) -> Run:
    from upscaled.engines.ncnn_network import NcnnNetwork  # noqa: PLC0415

    files = NetworkFiles(param, param.with_suffix(".bin"), "data", "output")
    return NcnnNetwork(files, device=None, threads=threads).run


def _onnxruntime(param: Path, shape: tuple[int, int], threads: int) -> Run:
    import onnxruntime  # noqa: PLC0415

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    content = nets.onnx_bytes(_layers(param), *shape)
    session = onnxruntime.InferenceSession(content, options, ["CPUExecutionProvider"])
    return lambda pixels: session.run(None, {"data": _planes(pixels)})[0][0]


def _torch(param: Path, shape: tuple[int, int], threads: int, *, bf16: bool = False) -> Run:
    import torch  # noqa: PLC0415

    torch.set_num_threads(threads)
    kind = torch.bfloat16 if bf16 else torch.float32
    module = nets.torch_module(_layers(param)).to(kind).to(memory_format=torch.channels_last)
    example = torch.zeros(1, 3, *shape, dtype=kind).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        traced = _traced(torch, module, example)

    def run(pixels: Pixels) -> Floats:
        torch.set_num_threads(threads)  # it is each thread's own
        with torch.inference_mode():
            data = torch.from_numpy(_planes(pixels)).to(kind)
            made = traced(data.to(memory_format=torch.channels_last))
            result: Floats = made[0].float().numpy()
            return result

    return run


def _traced(torch: Any, module: Any, example: Any) -> Any:
    return torch.jit.optimize_for_inference(torch.jit.freeze(torch.jit.trace(module, example)))


def _torch_bf16(param: Path, shape: tuple[int, int], threads: int) -> Run:
    return _torch(param, shape, threads, bf16=True)


def _openvino(param: Path, shape: tuple[int, int], threads: int, kind: str = "f32") -> Run:
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment] # it would report its use
    import openvino  # noqa: PLC0415

    core = openvino.Core()
    settings = {
        "INFERENCE_PRECISION_HINT": kind,
        "INFERENCE_NUM_THREADS": str(CORES),
        "NUM_STREAMS": str(CORES // threads),
    }
    content = nets.onnx_bytes(_layers(param), *shape)
    model = core.compile_model(core.read_model(content), "CPU", settings)
    requests = [model.create_infer_request() for _ in range(CORES // threads)]

    def run(pixels: Pixels) -> Floats:
        request = requests.pop()
        made: Floats = request.infer({0: _planes(pixels)})[0][0].copy()
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
    packages: tuple[str, ...] = ()
    least_db: float = _F32_DB


RUNTIMES = (
    Runtime(OURS, _ours),
    Runtime("ncnn f32", _ncnn),
    Runtime("onnxruntime f32", _onnxruntime, ("onnxruntime", "onnx")),
    Runtime("PyTorch f32", _torch, ("torch",)),
    Runtime("OpenVINO f32", _openvino, ("openvino", "onnx")),
    Runtime("PyTorch bf16", _torch_bf16, ("torch",), _BF16_DB),
    Runtime("OpenVINO bf16", _openvino_bf16, ("openvino", "onnx"), _BF16_DB),
)


@dataclass
class Contender:
    """A runtime in its process, with all cores on a tile or a tile for each of them."""

    runtime: Runtime
    threads: int
    pipe: Connection
    seconds: list[float] = field(default_factory=list)
    agreement: float = 0.0

    def turn(self) -> None:
        """Do as many tiles as there are cores."""
        self.pipe.send("go")
        self.seconds.append(self.pipe.recv())


def _serve(pipe: Connection, runtime: Runtime, param: Path, tile: Pixels, threads: int) -> None:
    """The child: makes the runtime ready, sends a picture, then the seconds of each turn."""
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


@contextmanager
def _contender(runtime: Runtime, param: Path, tile: Pixels, threads: int) -> Iterator[Connection]:
    here, there = multiprocessing.Pipe()
    arguments = (there, runtime, param, tile, threads)
    child = multiprocessing.get_context("spawn").Process(target=_serve, args=arguments)
    kept = dict(os.environ)
    os.environ.update(worker_env())  # threads and allocator read it as the process starts
    try:
        child.start()
    finally:
        os.environ.clear()
        os.environ.update(kept)
    there.close()
    try:
        yield here
        if child.is_alive():
            here.send("stop")
        child.join(10)
    finally:
        child.kill()
        child.join()


def _has_bf16() -> bool:
    """Tell whether the processor multiplies bfloat16; without that it is several times slower."""
    return "bf16" in Path("/proc/cpuinfo").read_text("utf-8")


def _bytes(planes: Floats) -> Floats:
    made: Floats = np.floor(np.clip(planes * 255 + 0.5, 0, 255))
    return made


def _likeness(one: Floats, other: Floats) -> float:
    error = float(np.mean((_bytes(one) - _bytes(other)) ** 2))
    return 99.0 if error == 0 else float(10 * np.log10(255**2 / error))


def compare(
    param: Path, side: int, rounds: int, ways: Sequence[int]
) -> tuple[list[Contender], list[str]]:
    """Time all runtimes on one network by turns; return them, and what could not be timed.

    ``ways`` are the numbers of threads on a tile that each is tried with.
    """
    tile = photo(side + 2 * PADDING, side + 2 * PADDING)
    contenders: list[Contender] = []
    missing: list[str] = []
    reference: Floats | None = None
    with ExitStack() as stack:
        for runtime in RUNTIMES:
            if runtime.least_db < _F32_DB and not _has_bf16():
                missing.append(f"{runtime.name}: the processor has no 16-bit floating point")
                continue
            for threads in ways:
                pipe = stack.enter_context(_contender(runtime, param, tile, threads))
                try:
                    first = pipe.recv() if pipe.poll(_READY_SECONDS) else "not ready in time"
                except EOFError:
                    first = "it crashed"
                if isinstance(first, str):
                    missing.append(f"{runtime.name}: {first}")
                    break
                reference = first if reference is None else reference
                likeness = _likeness(first, reference)
                if likeness < runtime.least_db:
                    missing.append(f"{runtime.name}: its picture differs ({likeness:.1f} dB)")
                    break
                contenders.append(Contender(runtime, threads, pipe, agreement=likeness))
        for _ in range(rounds):
            for contender in contenders:
                contender.turn()
    return contenders, missing


def _peak() -> float:
    """Return GFLOP/s of matrix products: the best of many, in one thread's call and in one a core.

    Which of the two is better depends on how many threads the library under numpy takes itself.
    """
    side = 2048
    left = np.random.default_rng(1).random((side, side), np.float32)
    rates = []
    for at_once in (1, CORES):
        with ThreadPoolExecutor(at_once) as pool:
            for _ in range(8):
                began = time.perf_counter()
                list(pool.map(lambda _: left @ left, range(at_once)))
                rates.append(at_once * 2 * side**3 / (time.perf_counter() - began) / 1e9)
    return max(rates)


async def _whole_engine(param: Path, size: Size, folder: Path, rounds: int) -> float:
    """Return the engine's seconds for a photo, from raw pixels to raw pixels; the median."""
    model = ModelFiles(param, param.with_suffix(".bin"), 4, "data", "output", _appetite(param))
    source = RawImage(folder / "source.rgb", size)
    target = RawImage(folder / "native.rgb", size.times(4))
    source.path.write_bytes(photo(size.width, size.height).tobytes())
    target.path.write_bytes(bytes(target.total_bytes))
    task = UpscaleTask(source, target, model, 0, size.height)
    engine = BuiltinEngine(CPU)
    try:
        await engine.upscale(task, lambda _: None)
        return statistics.median(
            [(await engine.upscale(task, lambda _: None)).seconds for _ in range(rounds)]
        )
    finally:
        await engine.close()


def _appetite(param: Path) -> int:
    from upscaled.official_findings import official_findings  # noqa: PLC0415

    findings = official_findings(param, param.with_suffix(".bin"))
    assert findings is not None
    return findings.bytes_per_pixel


def _report(report: Report, param: Path, rounds: int, peak: float) -> None:
    stem, quick = param.stem, report.quick
    side = TILES[stem] // 2 if quick else TILES[stem]
    ways = [CORES] if quick else sorted({CORES, 1}, reverse=True)
    contenders, missing = compare(param, side, rounds, ways)
    pixels = CORES * (side + 2 * PADDING) ** 2
    rows: list[list[str]] = []
    best: dict[str, Contender] = {}
    for one in contenders:
        rate = statistics.median(one.seconds) / pixels * 1e6
        way = "one tile, all cores" if one.threads == CORES else "a tile a core"
        rows.append([one.runtime.name, way, f"{rate:.2f} µs", f"{one.agreement:.1f} dB"])
        known = best.get(one.runtime.name)
        if known is None or statistics.median(one.seconds) < statistics.median(known.seconds):
            best[one.runtime.name] = one
    print(f"\n{stem}, tiles of {side} px with padding around, {rounds} rounds\n")
    print(table(["runtime", "way", "a padded pixel", "agrees to"], rows))
    for sentence in missing:
        print(f"\n{sentence}")
        report.add(f"{stem}: {sentence.split(':')[0]}", None, note=sentence)
    ours = best.pop(OURS)
    for name, other in best.items():
        ratios = [b / a for a, b in zip(ours.seconds, other.seconds, strict=True)]
        target = 1.0 if "f32" in name else None
        report.add(
            f"{stem}: our rate against {name}",
            statistics.median(ratios),
            target=target,
            sense="at least",
        )
    work = operations(_layers(param), "data") * pixels / statistics.median(ours.seconds) / 1e9
    report.add(f"{stem}: arithmetic, convolutions taken literally", work, "GFLOP/s")
    report.add(f"{stem}: the same against a matrix product's {peak:.0f} GFLOP/s", work / peak)
    size = Size(*(length // 4 for length in PHOTOS[stem])) if quick else Size(*PHOTOS[stem])
    with tempfile.TemporaryDirectory() as folder:
        seconds = asyncio.run(_whole_engine(param, size, Path(folder), 1 if quick else 3))
    rate = seconds / size.pixels * 1e6
    report.add(f"{stem}: the whole engine on {size.width}×{size.height}", rate, "µs a pixel")
    report.details[stem] = {"tile": side, "ways": rows, "missing": missing}


def main() -> None:
    parser = make_parser("runtimes", __doc__, device=False)
    parser.add_argument(
        "--rounds",
        type=int,
        help="turns of each runtime; 25 on the small network, 7 on the large one",
    )
    options = parser.parse_args()
    report = Report("runtimes", options.quick)
    with workplace(options) as place:
        peak = _peak()
        for stem in TILES:
            rounds = options.rounds or (2 if options.quick else ROUNDS[stem])
            _report(report, place.models / f"{stem}.param", rounds, peak)
    report.finish()


if __name__ == "__main__":
    main()
