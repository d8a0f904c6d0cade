"""Inference on the ncnn library, inside the resident worker: tiles in, bytes out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import ncnn
import numpy as np
from numpy.typing import NDArray

from upscaled.engines.messages import NetworkFiles
from upscaled.engines.protocol import PADDING, UpscaleTask
from upscaled.engines.tiling import Tile, plan_tiles, reflected

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]

_BLOCK = 64 * 1024
"""Floats turned into bytes at a time: they and their bytes stay in the second-level cache."""


class InferenceError(Exception):
    """The network can't be loaded or run; ``kind`` is a name, the message a sentence."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Network:
    """A loaded network on a Vulkan device (by index) or on the CPU (None).

    Raises:
        InferenceError: the library can't read the files (kind ``bad_model``).
    """

    def __init__(self, files: NetworkFiles, *, device: int | None, threads: int) -> None:
        self._files = files
        self._net = ncnn.Net()
        options = self._net.opt
        options.num_threads = threads
        # Half precision is left to the GPUs, with the native programs' options: 16-bit storage,
        # 32-bit arithmetic. ARM processors would else calculate in 16 bits.
        options.use_vulkan_compute = device is not None
        options.use_fp16_packed = device is not None
        options.use_fp16_storage = device is not None
        options.use_fp16_arithmetic = False
        if device is not None:
            self._net.set_vulkan_device(device)
        if self._net.load_param(str(files.param)) != 0:
            raise InferenceError("bad_model", f"{files.param.name} is not an ncnn network.")
        if self._net.load_model(str(files.bin)) != 0:
            raise InferenceError(
                "bad_model", f"{files.bin.name} is too short or not of {files.param.name}."
            )

    def run(self, pixels: Pixels) -> Floats:
        """Run the network on one padded tile, (height, width, 3) bytes of RGB.

        Returns:
            Planes (3, height × scale, width × scale), nominally 0 to 1.

        Raises:
            InferenceError: the network failed (kind ``failed``), or not all of its values are
                numbers (kind ``not_finite``).
        """
        height, width, _ = pixels.shape
        # from_pixels copies, so nothing here borrows the array's memory.
        blob = ncnn.Mat.from_pixels(
            np.ascontiguousarray(pixels), ncnn.Mat.PixelType.PIXEL_RGB, width, height
        )
        blob.substract_mean_normalize([], [1 / 255.0] * 3)
        extractor = self._net.create_extractor()
        if extractor.input(self._files.input_blob, blob) != 0:
            raise InferenceError("failed", f"The network has no input {self._files.input_blob}.")
        status, output = extractor.extract(self._files.output_blob)
        if status != 0 or output.empty():
            raise InferenceError(
                "failed", f"The network failed on a tile of {width}×{height} pixels ({status})."
            )
        # The view borrows the blob's memory, and numpy keeps the blob alive for it.
        planes: Floats = output.numpy()
        # Infinities and NaN come through to the extremes.
        if not (np.isfinite(planes.min()) and np.isfinite(planes.max())):
            raise InferenceError("not_finite", "The network returned values that are not numbers.")
        return planes

    def run_averaged(self, pixels: Pixels) -> Floats:
        """Like `run`, averaged over the eight flips and rotations of the tile."""
        total: Floats | None = None
        for turns in range(4):
            for mirrored in (False, True):
                turned = np.rot90(pixels, turns)
                planes = self.run(turned[:, ::-1] if mirrored else turned)
                back = planes[:, :, ::-1] if mirrored else planes
                back = np.rot90(back, -turns, axes=(1, 2))
                if total is None:
                    total = back.copy()
                else:
                    total += back
        assert total is not None  # noqa: S101 - the loops run
        total /= 8
        return total


def to_bytes(planes: Floats) -> Pixels:
    """Turn planes (channels, height, width) of 0…1 into interleaved bytes, rounding half up.

    That is the native programs' rounding. Done in blocks of rows that stay in the cache: 8 ns a
    pixel where whole planes take 70.
    """
    channels, height, width = planes.shape
    pixels = np.empty((height, width, channels), np.uint8)
    step = max(1, _BLOCK // width)
    block = np.empty((step, width), np.float32)
    for row in range(0, height, step):
        end = min(row + step, height)
        values = block[: end - row]
        for channel in range(channels):
            np.multiply(planes[channel, row:end], np.float32(255), out=values)
            values += np.float32(0.5)
            np.clip(values, 0, 255, out=values)
            pixels[row:end, :, channel] = values
    return pixels


def upscale(
    network: Network, task: UpscaleTask, tile: int, on_tile: Callable[[int, int, int], None]
) -> None:
    """Do ``task`` with tiles of ``tile`` pixels, calling ``on_tile(done, of, rows)`` after each.

    ``rows`` of the task, from its top, are then wholly written.

    Memory holds one row of source tiles and one enlarged tile, whatever the picture's size.

    Raises:
        InferenceError: as `Network.run`, or the output has not the promised size.
        OSError: source or target can't be read or written.
    """
    rows = plan_tiles(task.source.size.width, task.top, task.bottom, tile)
    total = sum(len(row) for row in rows)
    run = network.run_averaged if task.tta else network.run
    source = os.open(task.source.path, os.O_RDONLY)
    try:
        target = os.open(task.target.path, os.O_WRONLY)
        try:
            for done, (place, padded) in enumerate(_padded_tiles(source, task, rows), 1):
                _write(target, task, place, to_bytes(_cut(run(padded), task, place)))
                whole = place.right == task.source.size.width
                on_tile(done, total, (place.bottom if whole else place.top) - task.top)
        finally:
            os.close(target)
    finally:
        os.close(source)


def _padded_tiles(
    source: int, task: UpscaleTask, rows: list[list[Tile]]
) -> Iterator[tuple[Tile, Pixels]]:
    size = task.source.size
    for row in rows:
        ys = reflected(row[0].top, row[0].bottom, size.height)
        first, last = int(ys.min()), int(ys.max())
        strip = _read(source, task, first, last + 1)
        for place in row:
            xs = reflected(place.left, place.right, size.width)
            yield place, strip[(ys - first)[:, None], xs]


def _read(source: int, task: UpscaleTask, top: int, bottom: int) -> Pixels:
    stride = task.source.row_bytes
    buffer = np.empty((bottom - top, task.source.size.width, 3), np.uint8)
    view = buffer.data.cast("B")
    position = 0
    while position < len(view):
        got = os.preadv(source, [view[position:]], top * stride + position)
        if got == 0:
            raise InferenceError("failed", f"{task.source.path.name} is shorter than it should be.")
        position += got
    return buffer


def _cut(planes: Floats, task: UpscaleTask, place: Tile) -> Floats:
    """Take the padding off an enlarged tile."""
    scale = task.model.native_scale
    width, height = place.right - place.left, place.bottom - place.top
    expected = (3, (height + 2 * PADDING) * scale, (width + 2 * PADDING) * scale)
    if planes.shape != expected:
        raise InferenceError(
            "failed", f"The network returned {planes.shape} values, {expected} were expected."
        )
    start = PADDING * scale
    return planes[:, start : start + height * scale, start : start + width * scale]


def _write(target: int, task: UpscaleTask, place: Tile, pixels: Pixels) -> None:
    scale = task.model.native_scale
    stride = task.target.row_bytes
    offset = place.top * scale * stride + place.left * scale * 3
    if place.left == 0 and pixels.shape[1] * 3 == stride:
        _write_all(target, pixels.data.cast("B"), offset)
        return
    for number, line in enumerate(pixels):
        _write_all(target, line.data.cast("B"), offset + number * stride)


def _write_all(target: int, content: memoryview, offset: int) -> None:
    while content:
        written = os.pwrite(target, content, offset)
        content = content[written:]
        offset += written
