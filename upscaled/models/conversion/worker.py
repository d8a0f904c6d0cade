"""The process that converts a file: ``python -m upscaled.models.conversion.worker PARENT_PID``."""

from __future__ import annotations

import os
from collections.abc import Callable

from upscaled import files, serial
from upscaled.models.conversion.confined_work import done, weights_of
from upscaled.models.conversion.converting import (
    EXACT,
    HALF,
    Conversion,
    Converted,
    expected_path,
)
from upscaled.models.conversion.definition import expectations
from upscaled.models.conversion.layers import fits_half, write_pair
from upscaled.models.conversion.recognition import recognise
from upscaled.workers.server import Message, serve


def _handle(message: Message, event: Callable[[Message], None]) -> Message:
    return done(message, event, _converted)


def _converted(request: Conversion, on_step: Callable[[str], None]) -> Message:
    on_step("reading")
    digest = files.sha256_of(request.source)
    weights = weights_of(request)
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
