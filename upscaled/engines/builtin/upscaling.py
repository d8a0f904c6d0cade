"""One task inside the worker: tiles are read, enlarged and written, several in parallel."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from upscaled.engines import memory
from upscaled.engines.builtin.network import Floats, InferenceError, Network, Pixels, to_bytes
from upscaled.engines.builtin.tiling import Tile, plan_tiles, reflected, repeated
from upscaled.engines.engine import PADDING, UpscaleTask


@dataclass(frozen=True)
class TilesDone:
    """How far a task is."""

    done: int
    total: int
    rows: int
    """Source rows from the task's top that are completely written."""
    seconds_per_pixel: float | None
    """Time of the last tile for each of its padded pixels; None before the first is done."""


OnTile = Callable[[TilesDone], None]
"""Is called at the start and after each tile. Calls never overlap, and the numbers of tiles and
rows never decrease."""


def upscale(
    network: Network, task: UpscaleTask, tile: int, on_tile: OnTile, *, workers: int = 1
) -> None:
    """Do ``task`` with tiles of ``tile`` pixels a side, ``workers`` of them in parallel.

    Each worker reads, enlarges, checks, rounds and writes its tile, so the network waits for none
    of this. After a failure the other workers finish their tile and the task ends. Memory holds one
    enlarged tile for each worker, whatever the picture's size.

    Raises:
        InferenceError: as `Network.run`, or the output does not have the expected size.
        OSError: source or target can't be read or written.
    """
    source = os.open(task.source.path, os.O_RDONLY)
    try:
        target = os.open(task.target.path, os.O_WRONLY)
        try:
            _TaskRun(network, task, tile, on_tile, source, target).run(workers)
        finally:
            os.close(target)
    finally:
        os.close(source)


class _TaskRun:
    """A running task, shared by its workers."""

    def __init__(
        self,
        network: Network,
        task: UpscaleTask,
        tile: int,
        on_tile: OnTile,
        source: int,
        target: int,
    ) -> None:
        self._task = task
        self._source = source
        self._target = target
        self._infer = network.run_averaged if task.tta else network.run
        self._on_tile = on_tile
        rows = plan_tiles(task.source.size.width, task.top, task.bottom, tile)
        self._waiting = iter(list(itertools.chain.from_iterable(rows)))
        self._total = sum(len(row) for row in rows)
        self._done = 0
        self._tops = [row[0].top for row in rows] + [task.bottom]
        self._missing = {row[0].top: len(row) for row in rows}
        self._finished_rows = 0
        self._lock = threading.Lock()

    def run(self, workers: int) -> None:
        self._on_tile(TilesDone(0, self._total, 0, None))
        if workers == 1:
            self._work()
            return
        with ThreadPoolExecutor(workers, thread_name_prefix="tiles") as pool:
            working = [pool.submit(self._work) for _ in range(workers)]
        while (
            working
        ):  # an error must not refer to itself through them: it keeps a network's memory
            working.pop().result()

    def _work(self) -> None:
        """Do tiles until none is left or a worker has failed."""
        try:
            while (tile := self._next()) is not None:
                began = time.monotonic()
                planes = self._infer(_read(self._source, self._task, tile))
                _check(planes, self._task, tile)
                _write(self._target, self._task, tile, to_bytes(planes))
                del planes  # before the next tile's are made
                self._record(tile, time.monotonic() - began)
        except BaseException:
            with self._lock:
                self._waiting = iter(())
            raise

    def _next(self) -> Tile | None:
        with self._lock:
            return next(self._waiting, None)

    def _record(self, tile: Tile, seconds: float) -> None:
        with self._lock:
            self._done += 1
            self._missing[tile.top] -= 1
            while (
                self._finished_rows < len(self._missing)
                and self._missing[self._tops[self._finished_rows]] == 0
            ):
                self._finished_rows += 1
            whole = self._tops[self._finished_rows] - self._task.top
            pace = seconds / _padded_pixels(tile)
            self._on_tile(TilesDone(self._done, self._total, whole, pace))
            if self._missing[tile.top] == 0 and self._done < self._total:
                memory.trim()  # fragmentation would add up over a huge picture


def _padded_pixels(tile: Tile) -> int:
    return (tile.right - tile.left + 2 * PADDING) * (tile.bottom - tile.top + 2 * PADDING)


def _read(source: int, task: UpscaleTask, tile: Tile) -> Pixels:
    """Read a tile with its padding: (height + 2 × PADDING, width + 2 × PADDING, 3) bytes."""
    size, stride = task.source.size, task.source.row_bytes
    positions = repeated if task.model.repeats_edges else reflected
    xs = positions(tile.left, tile.right, size.width)
    ys = positions(tile.top, tile.bottom, size.height)
    left, right = int(xs.min()), int(xs.max()) + 1
    top, bottom = int(ys.min()), int(ys.max()) + 1
    part = np.empty((bottom - top, right - left, 3), np.uint8)
    if right - left == size.width:
        _read_all(source, task, part.data.cast("B"), top * stride)
    else:
        for row, line in enumerate(part, top):
            _read_all(source, task, line.data.cast("B"), row * stride + left * 3)
    return part[(ys - top)[:, None], xs - left]


def _read_all(source: int, task: UpscaleTask, buffer: memoryview, offset: int) -> None:
    while buffer:
        got = os.preadv(source, [buffer], offset)
        if got == 0:
            raise InferenceError("failed", f"{task.source.path.name} is shorter than it should be.")
        buffer = buffer[got:]
        offset += got


def _check(planes: Floats, task: UpscaleTask, tile: Tile) -> None:
    """Check the shape of an enlarged tile.

    Raises:
        InferenceError: it is not the tile's size times the native scale.
    """
    scale = task.model.native_scale
    expected = (3, (tile.bottom - tile.top) * scale, (tile.right - tile.left) * scale)
    if planes.shape != expected:
        raise InferenceError(
            "failed", f"The network returned {planes.shape} values, {expected} were expected."
        )


def _write(target: int, task: UpscaleTask, tile: Tile, pixels: Pixels) -> None:
    scale = task.model.native_scale
    stride = task.target.row_bytes
    offset = tile.top * scale * stride + tile.left * scale * 3
    if tile.left == 0 and pixels.shape[1] * 3 == stride:
        _write_all(target, pixels.data.cast("B"), offset)
        return
    for number, line in enumerate(pixels):
        _write_all(target, line.data.cast("B"), offset + number * stride)


def _write_all(target: int, content: memoryview, offset: int) -> None:
    while content:
        written = os.pwrite(target, content, offset)
        content = content[written:]
        offset += written
