"""The room that a network has in a worker: what its weights take, and what is left for tiles."""

from __future__ import annotations

from dataclasses import dataclass, replace

from upscaled.engines.builtin.cpu_library import CpuLibrary
from upscaled.engines.builtin.parallelism import SMALLEST_TILE
from upscaled.engines.engine import PADDING, ModelFiles

_MIB = 1 << 20


@dataclass(frozen=True)
class Way:
    """A way of running a network on the CPU, and what memory it takes."""

    library: CpuLibrary
    lean: bool
    """Without what makes weights and layers larger and quicker."""
    base: int
    """Bytes that a worker holds before its first network, with some air."""
    weights: float
    """Bytes that a loaded network takes for each of its ``.bin``."""
    appetite: float
    """Memory that tiles take, of what `ModelFiles.bytes_per_pixel` says."""


_OPENVINO = Way(CpuLibrary.OPENVINO, lean=False, base=128 * _MIB, weights=7.0, appetite=0.35)
"""Measured: 61 MiB with the library loaded, 32 more with a network that has next to no weights; 5.5
times the ``.bin`` with x4plus; 1.1 kB a pixel with animevideov3-x4 and 13.1 with x4plus, 0.17 to
0.26 of what ncnn takes."""
_NCNN = Way(CpuLibrary.NCNN, lean=False, base=64 * _MIB, weights=9.0, appetite=1.0)
"""Measured: 45 MiB; 8.6 times with x4plus, whose weights are kept as Winograd transforms too."""
_LEAN_NCNN = Way(CpuLibrary.NCNN, lean=True, base=64 * _MIB, weights=2.5, appetite=0.5)
"""Measured: 2.2 times; 0.38 with x4plus, without the layers' workspaces."""
_BOTH_LOADED = 32 * _MIB
"""More where OpenVINO may have been loaded for another network; measured: 16 MiB, and air."""


class Room:
    """How a worker with a limit goes about a network: the quickest way that fits.

    Nothing in it depends on what is free at the moment, so a task done again is done alike.

    Args:
        model: the network.
        stored: bytes of its ``.bin``.
        limit: bytes that the process may hold.
        library: what is to run it, if it fits.

    Raises:
        TooLittleError: the smallest tile does not fit.
    """

    def __init__(
        self, model: ModelFiles, stored: int, limit: int, library: CpuLibrary = CpuLibrary.NCNN
    ) -> None:
        smallest = (SMALLEST_TILE + 2 * PADDING) ** 2
        ways = [_NCNN, _LEAN_NCNN]
        if library is not CpuLibrary.NCNN:
            both = [replace(way, base=way.base + _BOTH_LOADED) for way in ways]
            ways = [replace(_OPENVINO, library=library), *both]
        for way in ways:
            self.way = way
            self.weights = int(stored * way.weights)
            self.bytes_per_pixel = int(model.bytes_per_pixel * way.appetite)
            self.for_tiles = limit - way.base - self.weights
            missing = smallest * self.bytes_per_pixel - self.for_tiles
            if missing <= 0:
                return
        raise TooLittleError(
            f"{model.stem} needs {(limit + missing) // _MIB + 1} MiB for its smallest tile; "
            f"the engine may hold {limit // _MIB}; raise upscaler.memory_limit_mb by "
            f"{missing // _MIB + 1} or more."
        )


class TooLittleError(Exception):
    """A network does not fit into the limit; the message is a sentence."""
