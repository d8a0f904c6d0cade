"""Where a tile's time goes on a Vulkan device; `bench.gpu` runs this in a process of its own.

    python -m bench.gpu_parts DEVICE PARAM SIDE ROUNDS

Prints a line a part, its name and its seconds. The library hands over whole tiles only: upload,
computation and download are one call for it, so they are told apart by a network that does nothing
but pass its input on, enlarged and without padding: what that takes is the way to the device and
back.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import ncnn
import numpy as np

from bench.photos import photo
from upscaled.engines.builtin.messages import NetworkFiles
from upscaled.engines.builtin.ncnn_network import NcnnNetwork
from upscaled.engines.builtin.network import to_bytes
from upscaled.engines.engine import PADDING


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _enlarger(folder: Path, scale: int) -> NetworkFiles:
    param, weights = folder / "pass.param", folder / "pass.bin"
    param.write_text(
        "7767517\n2 2\nInput data 0 1 data\n"
        f"Interp up 1 1 data output 0=1 1={scale}.0 2={scale}.0\n",
        "ascii",
    )
    weights.write_bytes(b"")
    return NetworkFiles(param, weights, "data", "output")


def main() -> None:
    device, param, side, rounds = int(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:5])
    began = time.perf_counter()
    ncnn.get_gpu_device(device)
    print("starting the device", time.perf_counter() - began)
    files = NetworkFiles(param, param.with_suffix(".bin"), "data", "output")
    began = time.perf_counter()
    network = NcnnNetwork(files, device=device, threads=1)
    print("loading the network and making its shaders", time.perf_counter() - began)
    tile = photo(side, side)
    planes = network.run(tile)
    print(
        "the whole tile",
        statistics.median(_timed(lambda: network.run(tile)) for _ in range(rounds)),
    )
    scale = planes.shape[1] // (side - 2 * PADDING)
    with tempfile.TemporaryDirectory() as folder:
        way = NcnnNetwork(_enlarger(Path(folder), scale), device=device, threads=1)
        way.run(tile)
        both = statistics.median(_timed(lambda: way.run(tile)) for _ in range(rounds))
    print("of that, up to the device and back", both)
    bytes_ = statistics.median(_timed(lambda: to_bytes(planes)) for _ in range(rounds))
    print("turning the floats into bytes", bytes_)
    pixels = to_bytes(planes)
    with tempfile.TemporaryFile() as file:
        written = statistics.median(
            _timed(lambda: (file.seek(0), file.write(np.ascontiguousarray(pixels).data)))
            for _ in range(rounds)
        )
    print("writing them", written)


if __name__ == "__main__":
    main()
