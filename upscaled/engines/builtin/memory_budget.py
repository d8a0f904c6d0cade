"""A worker's memory: what a network's weights take, and what is left for tiles."""

from __future__ import annotations

from dataclasses import dataclass, replace

from upscaled.engines.builtin.cpu_library import CpuLibrary
from upscaled.engines.engine import PADDING, SMALLEST_TILE, ModelFiles
from upscaled.engines.memory import service_mb

_MIB = 1 << 20


@dataclass(frozen=True)
class NetworkVariant:
    """One way to load a network on the CPU, and the memory it takes."""

    library: CpuLibrary
    lean: bool
    """Without Winograd transforms and matrix layouts: slower, less than half the memory."""
    base: int
    """Bytes that a worker holds before it loads a network, with a reserve."""
    weights: float
    """Memory of a loaded network, as a multiple of its ``.bin``."""
    memory_factor: float
    """Memory of tiles, as a multiple of `ModelFiles.bytes_per_pixel`."""


_OPENVINO = NetworkVariant(
    CpuLibrary.OPENVINO, lean=False, base=128 * _MIB, weights=7.0, memory_factor=0.35
)
"""Measured: 61 MiB with the library loaded, 32 MiB more with a network of almost no weights; x4plus
takes 5.5 times its ``.bin``; tiles take 1.1 kB a pixel with animevideov3-x4 and 13.1 kB with
x4plus, which is 0.17 to 0.26 of what ncnn takes."""
_NCNN = NetworkVariant(CpuLibrary.NCNN, lean=False, base=64 * _MIB, weights=9.0, memory_factor=1.0)
"""Measured: 45 MiB; x4plus takes 8.6 times its ``.bin``, since weights are also kept as Winograd
transforms."""
_LEAN_NCNN = NetworkVariant(
    CpuLibrary.NCNN, lean=True, base=64 * _MIB, weights=2.5, memory_factor=0.5
)
"""Measured with x4plus: 2.2 times its ``.bin``; tiles take 0.38: layers have no workspaces."""
_BOTH_LOADED = 32 * _MIB
"""Extra bytes where OpenVINO may be loaded for another network; 16 MiB were measured."""


class MemoryBudget:
    """The fastest variant of a network that fits into a worker's memory limit.

    It does not depend on the memory that is free now, so a repeated task runs the same way.

    Args:
        model: the network.
        stored: bytes of its ``.bin``.
        limit: bytes that the process may hold.
        library: the preferred library.

    Attributes:
        variant: how the network is loaded.
        weights: bytes that the loaded network takes.
        bytes_per_pixel: peak memory for each pixel of a padded tile.
        for_tiles: bytes that are left for tiles.

    Raises:
        TooLittleMemoryError: not even the smallest tile fits.
    """

    def __init__(
        self, model: ModelFiles, stored: int, limit: int, library: CpuLibrary = CpuLibrary.NCNN
    ) -> None:
        smallest = (SMALLEST_TILE + 2 * PADDING) ** 2
        variants = [_NCNN, _LEAN_NCNN]
        if library is not CpuLibrary.NCNN:
            both = [replace(variant, base=variant.base + _BOTH_LOADED) for variant in variants]
            variants = [replace(_OPENVINO, library=library), *both]
        for variant in variants:
            self.variant = variant
            self.weights = int(stored * variant.weights)
            self.bytes_per_pixel = int(model.bytes_per_pixel * variant.memory_factor)
            self.for_tiles = limit - variant.base - self.weights
            missing = smallest * self.bytes_per_pixel - self.for_tiles
            if missing <= 0:
                return
        needed_mb = (limit + missing) // _MIB + 1
        raise TooLittleMemoryError(
            f"{model.stem} needs {needed_mb} MiB for its smallest tile and the engine may hold "
            f"{limit // _MIB}; use a smaller model, or raise upscaler.memory_limit_mb to "
            f"{service_mb(needed_mb)} or more.",
            needed_mb,
        )


class TooLittleMemoryError(Exception):
    """A network does not fit into the memory limit; the message is a sentence for the caller.

    Attributes:
        needed_mb: MiB that the process would have to hold.
    """

    def __init__(self, message: str, needed_mb: int) -> None:
        super().__init__(message)
        self.needed_mb = needed_mb
