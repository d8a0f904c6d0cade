"""How the builtin engine goes about a picture, foreseeable without loading anything."""

from __future__ import annotations

from dataclasses import dataclass

from upscaled.engines.builtin.cpu_library import CpuLibrary
from upscaled.engines.builtin.memory_budget import Room
from upscaled.engines.builtin.parallelism import (
    MEMORY_PER_CORE,
    Budget,
    Crew,
    choose_tile,
    crew_for,
    speed,
    tile_bytes,
)
from upscaled.engines.engine import ModelFiles
from upscaled.pictures import Size

_PACKED = 0.9
"""Part of the room for tiles that their layers fill; the rest is holes between them: a worker held
727 MiB where 694 were meant, before."""
_GPU_CAP = 4 << 30
"""Bytes for a tile on a GPU at most: x4plus at 230, where padding costs 18 %."""


@dataclass(frozen=True)
class Plan:
    """How a task is done: the side of its tiles, and who does them."""

    tile: int
    """In source pixels, without padding."""
    crew: Crew
    tile_memory: int
    """Bytes that the tiles in work take together at their hungriest; weights come on top."""
    room: int
    """Bytes that all tiles of the process may take, of this task and of others."""
    memory: int
    """Bytes that all networks and tiles of the process may take."""
    weight_memory: int
    """Bytes that the loaded network takes of the process's limit; 0 on a GPU."""
    library: CpuLibrary
    """What runs the network; always ncnn on a GPU."""
    lean: bool
    """The network is loaded without what makes it larger and quicker."""


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
) -> Plan:
    """Plan a task on the CPU, as the worker does it.

    Args:
        model: the network.
        stored: bytes of its ``.bin``.
        picture: size of the whole source.
        tile: the side that is wanted; 0: the quickest that fits.
        threads: for the engine.
        limit: bytes that the engine's process may hold.
        free: bytes that are free now, which only the choice of the side heeds; None: enough.
        shares: how many tasks may be under way at once. They get equal parts of the threads, or,
            where memory lets so few of them in that cores would idle, all threads each. Who runs
            them sees to it that their tiles together keep to the room.
        library: what is to run the network where the limit allows for it.

    Raises:
        TooLittleError: the smallest tile does not fit into the limit.
    """
    room = Room(model, stored, limit, library)
    most = min(MEMORY_PER_CORE * threads, int(room.for_tiles * _PACKED))
    whole = tile_bytes(picture, max(picture.width, picture.height), room.bytes_per_pixel)
    # Where memory lets few in, a thread for each would leave cores idle. Those few may then have
    # more threads together than there are cores, which is the lesser loss.
    if min(shares, most // max(1, whole)) < speed(threads):
        shares = 1
    budget = Budget(max(1, threads // shares), most)
    free = most if free is None else free // shares  # others may plan with it just now
    tile = tile or choose_tile(picture, room.bytes_per_pixel, budget, free)
    crew = crew_for(picture, tile, room.bytes_per_pixel, budget)
    needed = crew.workers * tile_bytes(picture, tile, room.bytes_per_pixel)
    memory = room.weights + int(room.for_tiles * _PACKED)
    return Plan(tile, crew, needed, most, memory, room.weights, room.way.library, room.way.lean)


def plan_on_gpu(
    model: ModelFiles, picture: Size, *, tile: int = 0, threads: int, free: int | None = None
) -> Plan:
    """Plan a task on a GPU, which one tile keeps busy; ``free`` is of its own memory.

    See `plan_on_cpu`; ``threads`` are the processor's, for what is done there.
    """
    budget = Budget(1, _GPU_CAP)
    if free is None:
        free = budget.memory
    tile = tile or choose_tile(picture, model.bytes_per_pixel, budget, free)
    needed, most = tile_bytes(picture, tile, model.bytes_per_pixel), budget.memory
    return Plan(tile, Crew(1, threads), needed, most, most, 0, CpuLibrary.NCNN, lean=False)
