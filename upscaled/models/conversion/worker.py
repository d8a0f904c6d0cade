"""The process that converts a file: ``python -m upscaled.models.conversion.worker PARENT_PID``."""

from __future__ import annotations

import os
from collections.abc import Callable

from upscaled import files, serial
from upscaled.imaging.sandbox import limits
from upscaled.imaging.sandbox.sandbox import enter_sandbox
from upscaled.models.conversion.converting import (
    EXACT,
    HALF,
    Conversion,
    Converted,
    expected_path,
)
from upscaled.models.conversion.definition import expectations
from upscaled.models.conversion.errors import ConversionError
from upscaled.models.conversion.layers import fits_half, write_pair
from upscaled.models.conversion.recognition import recognise
from upscaled.models.conversion.weights import read_weights
from upscaled.workers.server import Message, RequestRefusedError, serve

_NICER = 10
"""Jobs come first."""
_CPU_SECONDS = 3600
_MOST_BYTES = 8 << 30
"""Of a file that is written; the largest weights that are read take 4 GiB in 32 bits."""


def _handle(message: Message, event: Callable[[Message], None]) -> Message:
    """Confine the process, once and for all, and convert the file.

    Raises:
        RequestRefusedError: it can't be converted.
    """
    request = serial.convert(message, Conversion)
    os.nice(_NICER)
    limits.confine(request.memory_mb)
    limits.allow(cpu_seconds=_CPU_SECONDS, file_bytes=_MOST_BYTES)
    enter_sandbox([request.source], [request.workdir])
    try:
        return _converted(request, lambda step: event({"step": step}))
    except ConversionError as error:
        raise RequestRefusedError("conversion", error.message) from error
    except MemoryError as error:
        words = (
            f"{request.name} needs more than the {request.memory_mb} MiB that its conversion may "
            "have; it is damaged, or its network is far too large to use."
        )
        raise RequestRefusedError("conversion", words) from error
    except OSError as error:
        raise RequestRefusedError("conversion", f"{request.name}: {error.strerror}.") from error


def _converted(request: Conversion, on_step: Callable[[str], None]) -> Message:
    on_step("reading")
    digest = files.sha256_of(request.source)
    weights = read_weights(request.source, name=request.name)
    network = recognise(weights, request.activation)
    parameters = sum(value.size for value in weights.values())
    del weights
    on_step("computing what it must make")
    threads = len(os.sched_getaffinity(0))
    for tile, picture in expectations(network, threads=threads).items():
        expected_path(request.workdir, tile).write_bytes(picture.tobytes())
    on_step("converting")
    layers = network.layers()
    half = fits_half(layers)
    for stem in (EXACT, HALF) if half else (EXACT,):
        param, bin_ = (request.workdir / f"{stem}.{ending}" for ending in ("param", "bin"))
        write_pair(layers, param, bin_, half=stem == HALF)
    made = Converted(digest, network.architecture, network.size, network.scale, parameters, half)
    return dict(serial.plain(made))


def main() -> None:
    """Answer the one request."""
    serve(_handle, threaded=False)


if __name__ == "__main__":
    main()
