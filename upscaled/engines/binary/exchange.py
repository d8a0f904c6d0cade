"""The files exchanged with the native program: a PPM and the network in, a PNG out.

All of this blocks and is run in threads; ``stop`` ends it early, within one chunk.
"""

from __future__ import annotations

import io
import threading
from pathlib import Path

from PIL import Image, PngImagePlugin

from upscaled.engines.engine import PADDING, UpscaleTask
from upscaled.errors import EngineError
from upscaled.pictures import Size

SOURCE = "source.ppm"
TARGET = "target.png"
MODEL = "network"
"""Name of the network's links; upscayl-bin would read an x1 to x16 in it as the scale."""

_CHUNK_BYTES = 8 << 20


class StoppedError(Exception):
    """``stop`` was set; the output so far must not be used."""


def context_rows(task: UpscaleTask) -> tuple[int, int]:
    """Return the first row (included) and last (excluded) of the source that the program gets."""
    return max(0, task.top - PADDING), min(task.source.size.height, task.bottom + PADDING)


def write_inputs(task: UpscaleTask, folder: Path, stop: threading.Event) -> None:
    """Put the source rows and links to the network into ``folder``.

    Raises:
        StoppedError: ``stop`` was set.
        EngineError: a model file is missing, or the source is shorter than its size says.
        OSError: a file could not be read or written.
    """
    for path in (task.model.param, task.model.bin):
        if not path.is_file():  # the program would continue without it
            raise EngineError(f"The model file {path} is missing.", retryable=False)
    models = folder / "models"
    models.mkdir()
    (models / f"{MODEL}.param").symlink_to(task.model.param.resolve())
    (models / f"{MODEL}.bin").symlink_to(task.model.bin.resolve())
    first, last = context_rows(task)
    left = (last - first) * task.source.row_bytes
    with task.source.path.open("rb") as raw, (folder / SOURCE).open("wb") as ppm:
        # P6: binary 8-bit RGB, the cheapest format that the program decodes.
        ppm.write(f"P6\n{task.source.size.width} {last - first}\n255\n".encode())
        raw.seek(first * task.source.row_bytes)
        while left:
            _check(stop)
            chunk = raw.read(min(left, _CHUNK_BYTES))
            if not chunk:
                raise EngineError(
                    f"The source picture is {left} bytes shorter than {task.source.size} pixels.",
                    retryable=False,
                )
            ppm.write(chunk)
            left -= len(chunk)


def read_output(task: UpscaleTask, folder: Path, stop: threading.Event) -> None:
    """Check the program's PNG and write its rows, without the context, to the task's target.

    Raises:
        StoppedError: ``stop`` was set.
        EngineError: there is no file, it is no whole PNG, or it has the wrong size.
        OSError: the target could not be written.
    """
    first, last = context_rows(task)
    scale = task.model.native_scale
    expected = Size(task.source.size.width, last - first).times(scale)
    path = folder / TARGET
    if not path.is_file():
        raise EngineError("The program ended without an error and without a result.")
    with _StoppableFile(path, stop) as file:
        picture = _decoded(file, expected)
    upper, lower = (task.top - first) * scale, (task.bottom - first) * scale
    rows = max(1, _CHUNK_BYTES // task.target.row_bytes)
    with task.target.path.open("r+b") as target:
        target.seek(task.top * scale * task.target.row_bytes)
        for row in range(upper, lower, rows):
            _check(stop)
            strip = (0, row, expected.width, min(row + rows, lower))
            target.write(picture.crop(strip).tobytes())


def _decoded(file: _StoppableFile, expected: Size) -> Image.Image:
    try:
        # Not Image.open: its limit on pixels is for untrusted pictures. This one's size is checked
        # before it is decoded.
        picture = PngImagePlugin.PngImageFile(file)
        size = Size(*picture.size)
        if size != expected or picture.mode != "RGB":
            raise EngineError(
                f"The program's result is {size} {picture.mode} where {expected} RGB was expected."
            )
        picture.load()
    except (OSError, SyntaxError, ValueError) as error:
        raise EngineError(f"The program's result is no whole PNG: {error}.") from None
    return picture


def _check(stop: threading.Event) -> None:
    if stop.is_set():
        raise StoppedError


class _StoppableFile(io.FileIO):
    """A file whose reading ends when ``stop`` is set, which cancels a decoder in a thread."""

    def __init__(self, path: Path, stop: threading.Event) -> None:
        super().__init__(path)
        self._stop = stop

    def read(self, size: int | None = -1) -> bytes:
        _check(self._stop)
        return super().read(-1 if size is None else size) or b""
