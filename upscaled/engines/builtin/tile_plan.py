"""How the builtin engine will process a picture; computed without loading a library."""

from __future__ import annotations

from dataclasses import dataclass

from upscaled.engines.builtin.cpu_library import CpuLibrary
from upscaled.engines.builtin.memory_budget import MemoryBudget
from upscaled.engines.builtin.parallelism import (
    DOUBLING,
    LARGEST_TILE,
    MEMORY_PER_CORE,
    Parallelism,
    Resources,
    parallelism_for,
    speedup,
    tile_bytes,
)
from upscaled.engines.builtin.tile_size import choose_tile
from upscaled.engines.cpu_method import CpuMethod
from upscaled.engines.engine import ModelFiles
from upscaled.pictures import Size

_PACKED = 0.9
"""Part of the tiles' memory that their layers may fill. The rest is lost to fragmentation: without
this factor a worker held 727 MiB where 694 were planned."""
_GPU_CAP = 4 << 30
"""Upper limit in bytes for a tile on a GPU: x4plus at tile 230, where padding costs 18 %."""


@dataclass(frozen=True)
class TilePlan:
    """How a task is done: tile size, parallelism, library and memory."""

    tile: int
    """In source pixels, without padding."""
    parallelism: Parallelism
    tile_memory: int
    """Peak bytes of all tiles that run at once, without weights."""
    tile_memory_limit: int
    """Bytes that all tiles of the process may take, of this task and of others."""
    memory_limit: int
    """Bytes that all networks and tiles of the process may take."""
    weight_memory: int
    """Bytes that the loaded network takes of the process's limit; 0 on a GPU."""
    library: CpuLibrary
    """What runs the network; always ncnn on a GPU."""
    lean: bool
    """See `NetworkVariant.lean`."""


def plan_on_cpu(
    model: ModelFiles,
    stored: int,
    picture: Size,
    *,
    tile: int = 0,
    threads: int,
    limit: int,
    free: int | None = None,
    shares: int = 1,
    library: CpuLibrary = CpuLibrary.NCNN,
    method: CpuMethod | None = None,
) -> TilePlan:
    """Plan a task on the CPU; the worker and the estimator use the same plan.

    Args:
        model: the network.
        stored: bytes of its ``.bin``.
        picture: size of the whole source.
        tile: the requested side; 0: the fastest that fits.
        threads: of the engine.
        limit: bytes that the engine's process may hold.
        free: bytes that are free now; only the tile side depends on them. None: enough.
        shares: how many tasks may run at once. Each gets an equal part of the threads. If memory
            admits so few tasks that cores would idle, each gets all threads. `MemoryGate` keeps
            their tiles together within ``tile_memory_limit``.
        library: the preferred library; another one is planned if memory does not suffice.
        method: the measured one, as far as it goes beyond the library; it applies to that one only.

    Raises:
        TooLittleMemoryError: not even the smallest tile fits into the limit.
    """
    budget = MemoryBudget(model, stored, limit, library)
    most = min(MEMORY_PER_CORE * threads, int(budget.for_tiles * _PACKED))
    whole = tile_bytes(picture, max(picture.width, picture.height), budget.bytes_per_pixel)
    largest, doubling = LARGEST_TILE, DOUBLING
    if method is not None and budget.variant.library == method.library:
        largest, doubling = method.tile or largest, method.doubling or doubling
    # If memory admits few tasks, one thread each would leave cores idle. More threads than cores
    # cost less than idle cores.
    if min(shares, most // max(1, whole)) < speedup(threads, doubling):
        shares = 1
    resources = Resources(max(1, threads // shares), most, largest, doubling)
    free = most if free is None else free // shares  # other tasks may be planned at the same time
    tile = tile or choose_tile(picture, budget.bytes_per_pixel, resources, free)
    parallelism = parallelism_for(picture, tile, budget.bytes_per_pixel, resources)
    needed = parallelism.workers * tile_bytes(picture, tile, budget.bytes_per_pixel)
    memory = budget.weights + int(budget.for_tiles * _PACKED)
    return TilePlan(
        tile,
        parallelism,
        needed,
        most,
        memory,
        budget.weights,
        budget.variant.library,
        budget.variant.lean,
    )


def plan_on_gpu(
    model: ModelFiles, picture: Size, *, tile: int = 0, threads: int, free: int | None = None
) -> TilePlan:
    """Plan a task on a GPU, which one tile keeps busy.

    Args:
        model: the network.
        picture: size of the whole source.
        tile: the requested side; 0: the fastest that fits.
        threads: CPU threads for what is done on the CPU.
        free: free bytes of the GPU's memory; None: `_GPU_CAP`.
    """
    resources = Resources(1, _GPU_CAP)
    if free is None:
        free = resources.memory
    tile = tile or choose_tile(picture, model.bytes_per_pixel, resources, free)
    needed, most = tile_bytes(picture, tile, model.bytes_per_pixel), resources.memory
    return TilePlan(
        tile, Parallelism(1, threads), needed, most, most, 0, CpuLibrary.NCNN, lean=False
    )
