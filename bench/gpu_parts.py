"""Where a tile's time goes on a Vulkan device; `bench.gpu` runs this in a separate process.

    python -m bench.gpu_parts DEVICE PARAM SIDE ROUNDS

Prints one line per part: its name and its seconds. In the library, upload, computation and download
of a tile are one call. A network that only repeats pixels shows what upload and download take.
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

from testkit.networks import write_repeater
from testkit.photos import photo
from upscaled.engines.builtin.ncnn_network import NcnnNetwork
from upscaled.engines.builtin.network import to_bytes
from upscaled.engines.builtin.protocol import NetworkFiles
from upscaled.engines.engine import PADDING


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    device, param, side, rounds = int(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:5])
    began = time.perf_counter()
    ncnn.get_gpu_device(device)
    print("starting the device", time.perf_counter() - began)
    files = NetworkFiles(param, param.with_suffix(".bin"), "data", "output")
    began = time.perf_counter()
    network = NcnnNetwork(files, device=device, threads=1)
    print("loading the network and compiling its shaders", time.perf_counter() - began)
    tile = photo(side, side)
    planes = network.run(tile)
    print(
        "the whole tile",
        statistics.median(_timed(lambda: network.run(tile)) for _ in range(rounds)),
    )
    scale = planes.shape[1] // (side - 2 * PADDING)
    with tempfile.TemporaryDirectory() as folder:
        repeater = write_repeater(Path(folder), "repeater", scale)
        files = NetworkFiles(repeater.param, repeater.bin, "data", "output")
        transfer = NcnnNetwork(files, device=device, threads=1)
        transfer.run(tile)
        both = statistics.median(_timed(lambda: transfer.run(tile)) for _ in range(rounds))
    print("of that, upload and download", both)
    bytes_ = statistics.median(_timed(lambda: to_bytes(planes)) for _ in range(rounds))
    print("converting floats to bytes", bytes_)
    pixels = to_bytes(planes)
    with tempfile.TemporaryFile() as file:
        written = statistics.median(
            _timed(lambda: (file.seek(0), file.write(np.ascontiguousarray(pixels).data)))
            for _ in range(rounds)
        )
    print("writing the bytes", written)


if __name__ == "__main__":
    main()
